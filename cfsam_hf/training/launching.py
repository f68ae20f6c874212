"""Starts and stops the processes of a run: Accelerate with a recipe's settings, and the errors that end a run."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

from .checkpoints import checkpoint_steps
from .recipe import Recipe

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingStopped(RuntimeError):
    """The run cannot continue, for a reason outside the program. The message says which, and what to do.

    Attributes:
        exit_status: for the process to end with.
    """

    exit_status = 1


class TrainingInterrupted(TrainingStopped):
    """A signal asked the run to end, and a checkpoint has been written.

    Args:
        number: of the signal.
        checkpoint: of the last step done.
    """

    def __init__(self, number: int, checkpoint: Path):
        super().__init__(
            f"Stopped by {signal.Signals(number).name}; {checkpoint} is written, and the same command resumes from it."
        )
        self.exit_status = 128 + number


def make_accelerator(recipe: Recipe, *trackers: GeneralTracker) -> Accelerator:
    """Accelerate with the recipe's precision and trackers.

    Args:
        recipe: every value.
        trackers: further trackers beside those that the recipe names.

    Raises:
        ValueError: a tracker is not installed, or `accelerate launch` sets what belongs in the recipe.
    """
    names = recipe.run.log_with
    if missing := [name for name in names if name not in map(str, get_available_trackers())]:
        raise ValueError(
            f"log_with names {', '.join(missing)}, which Accelerate does not know or which is not installed: install "
            "the tracker, or leave it out."
        )
    accelerator = Accelerator(
        mixed_precision=recipe.optimization.mixed_precision,
        log_with=[*names, *trackers] or None,
        project_dir=recipe.run.output_dir,
    )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "gradient_accumulation_steps is a value of the recipe; remove it from the settings of accelerate."
        )
    return accelerator


def crops_per_step(recipe: Recipe, accelerator: Accelerator) -> int:
    """Number of crops in one optimiser step, over all processes."""
    options = recipe.optimization
    return options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk into a sentence.

    Args:
        folder: of the run.

    Raises:
        TrainingStopped: there was no room for something that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        steps = checkpoint_steps(folder)
        last = f"The last checkpoint, checkpoint-{steps[-1]}, is intact." if steps else "There is no checkpoint yet."
        raise TrainingStopped(
            f"The disk is full: {error}. {last} Free some space and give the same command again to resume."
        ) from error
