"""Folders of DICOM slides: a slide is a series, with one file or several for each of its levels."""

import os
import re
from pathlib import Path

# The element SeriesInstanceUID with its explicit value representation and length, as slides are written.
_SERIES = re.compile(rb"\x20\x00\x0e\x00UI(..)", re.DOTALL)
_HEADER = 1 << 16


def dicom_series(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """
    The DICOM series in a folder, without its sub-folders.

    Returns:
        By series identifier its largest file, which usually belongs to the slide's largest level.

    Raises:
        OSError: the folder or a file in it cannot be read.
    """
    largest: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if not path.is_file() or (series := series_of(path)) is None:
            continue
        if series not in largest or path.stat().st_size > largest[series].stat().st_size:
            largest[series] = path
    return largest


def dicom_slide(folder: str | os.PathLike[str]) -> Path:
    """
    A file of the only DICOM slide in a folder; OpenSlide finds the others.

    Raises:
        OSError: there is no slide, or more than one.
    """
    found = dicom_series(folder)
    if not found:
        raise IsADirectoryError(f"{os.fspath(folder)!r} is a folder without DICOM files; name the slide's file in it")
    if len(found) > 1:
        names = ", ".join(path.name for path in found.values())
        raise OSError(
            f"{os.fspath(folder)!r} holds {len(found)} DICOM slides; name a file of one of them ({names}), or "
            "put each into a folder of its own"
        )
    return next(iter(found.values()))


def series_of(path: Path) -> str | None:
    """
    The identifier of the series that a DICOM file belongs to, read from its first bytes; None for any other file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if header[128:132] != b"DICM" or (element := _SERIES.search(header)) is None:
        return None
    length = int.from_bytes(element[1], "little")
    return header[element.end() : element.end() + length].rstrip(b"\0 ").decode("ascii", "replace")
