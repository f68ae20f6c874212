"""Refuses pipes and devices, which a folder may hold under any name: reading them may wait or fill memory for ever."""

import stat
from pathlib import Path


def check_regular(path: Path) -> None:
    """Makes sure that a path is that of a regular file, or of a link to one.

    Raises:
        OSError: it is missing, or something else; the message names it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path}: not a regular file")
