"""Files, sets of files and folders that appear whole or not at all, even if the process is killed.

Each function writes in a private folder beside the target, flushes to disk, and then renames. A crash leaves either
the old content or the new. [`cfsam_hf.files.stage.clean_up`] finishes an interrupted set and removes the leftovers.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import exchange, flush, flush_names
from .stage import NEW, OLD, Moves, clean_up, commit, in_stage, open_stage, remove


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a name to write to, and moves the finished file to `path` when the block succeeds.

    The working file keeps its name, since some writers choose the format by it. On any exception, Ctrl-C included,
    an older file at `path` stays unchanged. Within the block of [`staged_folder`] the name is `path` itself.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        OSError: the folder is missing, cannot be written to, or the disk is full.
    """
    path = Path(path)
    if in_stage(path):
        with _naming_targets(path.parent, path.parent, default=path):
            yield path
        return
    with open_stage(path.parent) as stage, _naming_targets(stage / NEW, path.parent, default=path):
        working = stage / NEW / path.name
        yield working
        flush(working)
        os.replace(working, path)
        flush_names(path.parent)


@contextmanager
def staged_folder(
    folder: str | os.PathLike[str], *, last: str | None = None, removed: Collection[str] = ()
) -> Iterator[Path]:
    """Yields an empty folder to write a set of files in, and moves them all to `folder` when the block succeeds.

    For files that belong together: if the disk is full at the third of four, none of them appears. A process that is
    killed between the moves leaves some of the files until [`clean_up`] moves the others; a reader can wait for the
    file named `last`.

    Args:
        folder: where the files go. It is created if needed; existing files of the same names are replaced.
        last: the file that appears after all others, and disappears before all others if it exists already. A reader
            that finds it finds the complete set. Default: the last name in alphabetical order.
        removed: names of existing files that the new set does not have. They disappear with the old set.

    Raises:
        OSError: `folder` cannot be made or written to, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open_stage(folder) as stage:
        with _naming_targets(stage / NEW, folder, default=folder):
            yield stage / NEW
        names = sorted(os.listdir(stage / NEW), key=lambda name: (name == last, name))
        removed = sorted(set(removed) - set(names))
        present = [name for name in (*names, *removed) if os.path.lexists(folder / name)]
        (stage / OLD).mkdir()
        with _naming_targets(stage / OLD, folder, default=folder):
            for name in present:
                _keep(folder / name, stage / OLD / name)
        with _naming_targets(stage / NEW, folder, default=folder):
            if names or removed:
                commit(stage, folder, Moves(tuple(names), tuple(removed), tuple(present)))


@contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder to write in, and puts it in the place of `folder` when the block succeeds.

    Unlike [`staged_folder`], nothing of an older folder remains: it is replaced as a whole. On any exception, Ctrl-C
    included, it stays unchanged. Where the file system can exchange two names, no crash can leave `folder` missing;
    elsewhere the next call, or [`clean_up`] of the folder above, finishes the replacement.

    Args:
        folder: where the files go. The folder above it is created if needed.

    Raises:
        NotADirectoryError: a file has this name.
        OSError: the folder above cannot be made or written to, or the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    clean_up(folder.parent)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; remove it or choose another folder")
    with open_stage(folder.parent) as stage:
        new = stage / NEW / folder.name
        new.mkdir()
        with _naming_targets(stage / NEW, folder.parent, default=folder):
            yield new
            flush(new)
            if not os.path.lexists(folder):
                os.replace(new, folder)
            elif not exchange(new, folder):
                (stage / OLD).mkdir()
                commit(stage, folder.parent, Moves((folder.name,), (), (folder.name,), keeps_old=False))
            flush_names(folder.parent)


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Removes a folder that may be missing, its name first: a process that is killed leaves no half of it.

    Raises:
        OSError: the folder above cannot be written to.
    """
    folder = Path(os.path.abspath(folder))
    if not os.path.lexists(folder):
        return
    with open_stage(folder.parent) as stage:
        os.replace(folder, stage / NEW / folder.name)
        flush_names(folder.parent)
        remove(stage / NEW / folder.name)


@contextmanager
def _naming_targets(stage: Path, folder: Path, default: Path) -> Iterator[None]:
    """Makes errors of the system name the final file instead of the working file; `default` where they name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(default)
        elif isinstance(error.filename, str) and error.filename.startswith(str(stage)):
            error.filename = str(folder / os.path.relpath(error.filename, stage))
        raise


def _keep(file: Path, copy: Path) -> None:
    """Gives a second name to a file that is about to be replaced."""
    if file.is_dir() and not file.is_symlink():
        raise IsADirectoryError(f"{file} is a folder where a file is to be written")
    try:
        os.link(file, copy, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(file, copy, follow_symlinks=False)
