"""The beginning and the end of a run's processes: Accelerate as a recipe wants it, and how a run is stopped."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

from .checkpoints import latest_checkpoint
from .recipe import Recipe

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TrainingStopped(RuntimeError):
    """The run cannot go on, for a reason outside the program. The message says which and what to do."""


def make_accelerator(recipe: Recipe, *trackers: GeneralTracker) -> Accelerator:
    """Accelerate as the recipe wants it: precision and trackers.

    Args:
        recipe: every value.
        trackers: of one's own, beside those that the recipe names.

    Raises:
        ValueError: a tracker that is not installed; settings of `accelerate launch` that belong into the recipe.
    """
    names = recipe.run.log_with
    if missing := [name for name in names if name not in map(str, get_available_trackers())]:
        raise ValueError(f"log_with names {', '.join(missing)}, which Accelerate does not know or is not installed.")
    accelerator = Accelerator(
        mixed_precision=recipe.optimization.mixed_precision,
        log_with=[*names, *trackers] or None,
        project_dir=recipe.run.output_dir,
    )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "gradient_accumulation_steps is a value of the recipe; leave it out of accelerate's settings."
        )
    return accelerator


def crops_per_step(recipe: Recipe, accelerator: Accelerator) -> int:
    """Crops that one optimiser step sees, over all processes."""
    options = recipe.optimization
    return options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk into a sentence.

    Args:
        folder: of the run.

    Raises:
        TrainingStopped: something in the block could not be written since there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        checkpoint = latest_checkpoint(folder)
        raise TrainingStopped(
            f"Something could not be written to {folder}: {error}. The last checkpoint, "
            f"{checkpoint.name if checkpoint else 'of which there is none yet'}, is as it was. Make room, give the "
            "same command again, and the run goes on from there."
        ) from error
