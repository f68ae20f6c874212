"""Files that appear whole or not at all."""

import os
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
        yield Path(stage)
        for name in sorted(os.listdir(stage)):
            os.replace(Path(stage) / name, folder / name)
