"""Stages: private folders for files that are still being written, and how they are cleaned up after a crash.

A stage is a hidden folder beside the targets, so that every move stays within one file system:

    .cfsam-XXXX/lock         locked while the owner lives
    .cfsam-XXXX/new/         the files being written
    .cfsam-XXXX/old/         the files that they replace
    .cfsam-XXXX/commit.json  the moves to make, once the new files are complete
    .cfsam-XXXX/undo.json    the moves to reverse, once one of them has failed

A process that is killed leaves its stage behind. [`clean_up`] finishes or reverses its moves and removes it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .disk import LockUnavailableError, flush, flush_names, locked

PREFIX = ".cfsam-"
LOCK, NEW, OLD, COMMIT, UNDO = "lock", "new", "old", "commit.json", "undo.json"
# Without a lock, a stage of this age is assumed to have no owner any more.
ABANDONED_AFTER_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Moves:
    """The moves that put the files of a stage in their places.

    Attributes:
        names: the new files or folders, in the order in which they appear. The last one disappears first.
        removed: old files that have no successor.
        present: the `names` and `removed` that existed before.
        keeps_old: whether `old/` has second names of these already; if not, they are moved there.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    keeps_old: bool = True


@contextmanager
def open_stage(folder: Path) -> Iterator[Path]:
    """Makes a stage in `folder` and removes it when the block ends.

    Yields:
        The stage, with an empty folder `new` in it.

    Raises:
        OSError: the folder is missing, cannot be written to, or the disk is full.
    """
    with ExitStack() as held:
        stage = None
        while stage is None:
            stage = _locked_stage(folder, held)
        (stage / NEW).mkdir()
        try:
            yield stage
        finally:
            # A second Ctrl-C can interrupt the reversal of moves; `clean_up` finishes it.
            if not (stage / COMMIT).exists() and not (stage / UNDO).exists():
                remove(stage)


def _locked_stage(folder: Path, held: ExitStack) -> Path | None:
    """A new stage whose lock `held` holds; None if another process removed it before it was locked."""
    stage = Path(tempfile.mkdtemp(dir=folder, prefix=PREFIX))
    try:
        held.enter_context(locked(stage / LOCK, wait=False))
    except (LockUnavailableError, FileNotFoundError):
        return None
    return stage if (stage / LOCK).exists() else None


def in_stage(path: Path) -> bool:
    """Whether a file lies directly in the folder `new` of a stage, so that it appears whole or not at all anyway."""
    return path.parent.name == NEW and path.parent.parent.name.startswith(PREFIX)


def commit(stage: Path, folder: Path, moves: Moves) -> None:
    """Makes the moves. If one fails, all are reversed.

    Raises:
        OSError: a move failed, and everything in `folder` is as before.
    """
    text = json.dumps(asdict(moves))
    unfinished = stage / f"{COMMIT}.part"
    unfinished.write_text(text, encoding="utf-8")
    flush(stage / NEW)
    flush(unfinished)
    os.replace(unfinished, stage / COMMIT)
    flush_names(stage)
    try:
        _complete(stage, folder, moves)
    except BaseException:
        os.replace(stage / COMMIT, stage / UNDO)
        _reverse(stage, folder, moves)
        (stage / UNDO).unlink()
        raise
    (stage / COMMIT).unlink()


def clean_up(folder: str | os.PathLike[str]) -> None:
    """Finishes and removes the stages in `folder` whose owners are dead.

    Files that had been written completely get their names; everything else of a stage is removed. Stages of living
    processes, of other machines too, stay. A stage that cannot be removed stays as well.

    Args:
        folder: searched without its sub-folders; it may be missing.
    """
    folder = Path(folder)
    try:
        stages = [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(PREFIX) and entry.is_dir()]
    except OSError:
        return
    for stage in stages:
        with suppress(OSError, ValueError, TypeError, KeyError):
            try:
                with locked(stage / LOCK, wait=False, create=False) as certain:
                    if certain or _is_old(stage):
                        _settle(stage, folder)
            except FileNotFoundError:
                # A stage without a lock file is being created, or was being removed when its owner died.
                if _is_old(stage):
                    remove(stage)
                else:
                    stage.rmdir()  # succeeds only if it is empty; an owner that was about to lock it makes another


def remove(path: Path) -> None:
    """Removes a file, link or folder; whatever cannot be removed stays. A stage loses its lock file last."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
        return
    with suppress(OSError):
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name == LOCK):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        path.rmdir()


def _settle(stage: Path, folder: Path) -> None:
    for name, act in ((UNDO, _reverse), (COMMIT, _complete)):
        if (stage / name).exists():
            record = json.loads((stage / name).read_text(encoding="utf-8"))
            names, removed, present = (_plain_names(record[key]) for key in ("names", "removed", "present"))
            act(stage, folder, Moves(names, removed, present, bool(record["keeps_old"])))
    remove(stage)


def _plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names that cannot lead out of the folder."""
    if any(name in ("", ".", "..") or os.path.basename(name) != name for name in names):
        raise ValueError(f"{names} are not the names of files in a folder")
    return tuple(names)


def _complete(stage: Path, folder: Path, moves: Moves) -> None:
    """Makes the moves, or those that are left of them."""
    if not moves.keeps_old:
        for name in moves.present:
            if (stage / NEW / name).exists() and not os.path.lexists(stage / OLD / name):
                os.replace(folder / name, stage / OLD / name)
    elif len(moves.names) > 1 and (stage / NEW / moves.names[-1]).exists():
        (folder / moves.names[-1]).unlink(missing_ok=True)
    for name in moves.removed:
        (folder / name).unlink(missing_ok=True)
    for name in moves.names:
        if (stage / NEW / name).exists():
            os.replace(stage / NEW / name, folder / name)
    flush_names(folder)


def _reverse(stage: Path, folder: Path, moves: Moves) -> None:
    """Restores what was there before the moves, or what is left to restore."""
    for name in (*moves.names, *moves.removed):
        if name in moves.present:
            if os.path.lexists(stage / OLD / name):
                if not moves.keeps_old:
                    remove(folder / name)
                os.replace(stage / OLD / name, folder / name)
        elif not (stage / NEW / name).exists():
            remove(folder / name)
    flush_names(folder)


def _is_old(stage: Path) -> bool:
    return time.time() - stage.stat().st_mtime > ABANDONED_AFTER_SECONDS
