"""Making sure, before the work, that results can be written."""

import tempfile
from pathlib import Path


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
