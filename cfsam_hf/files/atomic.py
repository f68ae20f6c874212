"""Files that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a name to write to, and moves the finished file to `path` when the block ends well.

    The working file lies in a private folder beside `path` (so the move is within one file system) and keeps its
    name, since some writers choose the format by it. On any exception, Ctrl-C included, nothing is left behind and
    an older file at `path` stays as it was.

    Args:
        path: the file to write. Its folder must exist.

    Raises:
        OSError: the folder is missing, cannot be written to, or the disk is full.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cfsam-") as folder:
        working = Path(folder) / path.name
        with _naming_targets(folder, path.parent, default=path):
            yield working
        os.replace(working, path)


@contextmanager
def staged_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder to write a set of files in, and moves them all to `folder` when the block ends well.

    For files that belong together: a full disk at the third of four leaves none of them. `folder` is made if needed.

    Args:
        folder: where the files go in the end; existing files of the same names are replaced.

    Raises:
        OSError: `folder` cannot be made or written to, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".cfsam-") as stage:
        with _naming_targets(stage, folder, default=folder):
            yield Path(stage)
        _move_all(Path(stage), folder)


@contextmanager
def _naming_targets(stage: str, folder: Path, default: Path) -> Iterator[None]:
    """Makes the system's errors name the file as it was to be, not the working file; `default` where there is none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(default)
        elif isinstance(error.filename, str) and error.filename.startswith(stage):
            error.filename = str(folder / os.path.relpath(error.filename, stage))
        raise


def _move_all(stage: Path, folder: Path) -> None:
    """Moves the files of one folder to another, and all of them back, with what they replaced, where one cannot be."""
    names = sorted(os.listdir(stage))
    replaced = [name for name in names if os.path.lexists(folder / name)]
    with tempfile.TemporaryDirectory(dir=stage, prefix="older-") as older:
        for name in replaced:
            if os.path.isdir(folder / name):
                raise IsADirectoryError(f"{folder / name} is a folder where a file is to be written")
            try:
                os.link(folder / name, Path(older) / name, follow_symlinks=False)
            except OSError:  # a file system without hard links
                shutil.copy2(folder / name, Path(older) / name, follow_symlinks=False)
        moved = []
        try:
            for name in names:
                os.replace(stage / name, folder / name)
                moved.append(name)
        except BaseException:
            for name in moved:
                if name in replaced:
                    os.replace(Path(older) / name, folder / name)
                else:
                    os.remove(folder / name)
            raise


@contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder to write in, and puts it in the place of `folder` when the block ends well.

    Unlike [`staged_folder`] nothing of an older folder remains: it is replaced as a whole. On any exception, Ctrl-C
    included, it stays as it was.

    Args:
        folder: where the files go in the end. The folder above it is made if needed.

    Raises:
        OSError: the folder above cannot be made or written to, or the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".cfsam-") as stage:
        new = Path(stage) / folder.name
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, Path(stage) / "replaced")
        os.replace(new, folder)
