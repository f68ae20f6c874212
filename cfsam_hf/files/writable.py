"""Making sure, before the work, that results can be written; and what a command prints, written to a file."""

import tempfile
from pathlib import Path

from .atomic import atomic_path


def check_writable(folder: Path, way_out: str = "choose another folder with -o") -> None:
    """Fails before the work rather than after it; makes the folder if needed.

    Args:
        folder: where files will be written.
        way_out: what to do about it, for the error.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".cfsam-"):
            pass
    except FileExistsError as error:
        raise OSError(f"{folder}: is a file, where a folder is needed; {way_out}") from error
    except OSError as error:
        raise OSError(f"{folder}: cannot write here ({error.strerror or error}); {way_out}") from error


def check_file_writable(path: Path) -> None:
    """Fails before the work where a file cannot be written; makes its folder if needed.

    Raises:
        OSError: the folder cannot be made or written to, or a folder has the file's name.
    """
    check_writable(path.parent, "choose another place for the file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, where a file is needed; choose another name")


def write_text(path: Path, text: str) -> None:
    """Writes what is printed to a file, whole or not at all; an older file is replaced."""
    with atomic_path(path) as working:
        working.write_text(text, encoding="utf-8")
