"""Claims a run's folder before anything is written, and compares its checkpoint with the recipe and the data."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..files.stage import clean_up
from .checkpoints import latest_checkpoint
from .folder_lock import FolderLock
from .recipe import Recipe, differences
from .tile_digests import changed_tile
from .training_data import TrainingData

LOCK_NAME = ".training.lock"


def claim_folder(folder: Path, accelerator: Accelerator) -> tuple[Path | None, FolderLock | None]:
    """Locks the folder of a run, removes what a killed process left there, and finds the checkpoint to resume from.

    Args:
        folder: of the run; created if needed.
        accelerator: the processes of the run. The main one does the work and shares its answer.

    Returns:
        The latest undamaged checkpoint, `None` if there are no checkpoints; and the lock, in the main process.

    Raises:
        OSError: another run holds the folder, it cannot be written to, or all checkpoints are damaged.
        ValueError: the processes do not share the folder.
    """
    lock = None
    # The other processes wait for the answer, so an error of the main process has to reach them too.
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(folder, LOCK_NAME)
            clean_up(folder)
            answer[0] = latest_checkpoint(folder)
        except OSError as error:
            answer[1] = error
    broadcast_object_list(answer)
    checkpoint, problem = answer
    if problem is not None:
        raise problem
    if not all(gather_object([checkpoint is None or checkpoint.is_dir()])):
        raise ValueError(f"some processes do not see {checkpoint}: all of them must share the folder {folder}.")
    return checkpoint, lock


def check_is_same_run(
    folder: Path,
    facts: dict[str, Any],
    recipe: Recipe,
    crops_per_step: int,
    data: TrainingData,
    teacher_digest: str | None,
) -> None:
    """Refuses a checkpoint of a run that learned from other values, tiles or another teacher.

    Args:
        folder: of the run.
        facts: of the checkpoint.
        recipe, crops_per_step, data, teacher_digest: of the run that is about to resume.

    Raises:
        ValueError: they differ; the message says how, and what to do.
    """
    changed = differences(facts["recipe"], recipe.to_dict())
    if facts["crops_per_step"] != crops_per_step:
        changed.append(f"crops_per_step {facts['crops_per_step']} -> {crops_per_step}")
    if changed:
        raise ValueError(
            f"{folder} holds a run of another recipe, at step {facts['step']}: {'; '.join(changed)}. Give another "
            "output_dir, or the recipe that the run was started with."
        )
    if facts.get("teacher") != teacher_digest:
        raise ValueError(
            f"{folder} holds a run, at step {facts['step']}, whose teacher {recipe.model.teacher} has other weights "
            "now. Give another output_dir, or restore the teacher to resume."
        )
    if change := changed_tile(facts["tiles"], data.digests):
        raise ValueError(
            f"{folder} holds a run, at step {facts['step']}, whose data have changed since: {change}. Give another "
            "output_dir to train on the data as they are now, or restore the earlier files to resume."
        )
