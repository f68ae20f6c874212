"""Checks before any work that results can be written, and writes text files."""

import os
from pathlib import Path

from .atomic import atomic_path
from .stage import clean_up, open_stage


def check_writable(folder: Path, way_out: str = "choose another folder with -o") -> None:
    """Makes a folder if needed and checks that files can be written there, so that no work is lost later.

    It also removes what killed processes have left there.

    Args:
        folder: where files will be written.
        way_out: advice for the error message.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clean_up(folder)
        with open_stage(folder):
            pass
    except FileExistsError as error:
        raise OSError(f"{folder}: is a file, where a folder is needed; {way_out}") from error
    except OSError as error:
        raise OSError(f"{folder}: cannot write here ({error.strerror or error}); {way_out}") from error


def check_file_writable(path: Path) -> None:
    """Makes the folder of a file if needed and checks that the file can be written.

    Raises:
        OSError: the folder cannot be made or written to, or a folder has the file's name.
    """
    check_writable(path.parent, "choose another place for the file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, where a file is needed; choose another name")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; an existing file is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as working:
        working.write_text(text, encoding="utf-8")
