"""Which files are slides, and which files and folders beside a slide belong to it."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import openslide

from ..model.pictures import open_picture
from ..model.tiff import is_tiff, largest_page, open_tiff
from .dicom_folders import series_of
from .opening import open_slide

SLIDE_SUFFIXES = (".mrxs", ".vms", ".vmu", ".svslide", ".dcm", ".czi")
"""Extensions, in lower case, of files that only slide readers understand."""

# Pictures with more pixels are processed like slides, region by region: 8,000 x 8,000.
SLIDE_PIXELS = 64_000_000

# A Hamamatsu index names the pictures that the slide consists of; it is a short text.
_INDEX_BYTES = 1 << 20
_NAMED_IN_INDEX = re.compile(rb"^\s*\w+(?:\([^)]*\))?\s*=\s*(\S.*?)\s*$", re.MULTILINE)


def is_slide(path: str | os.PathLike[str]) -> bool:
    """
    Whether a file is a whole slide, or a picture so large that it is processed like one: a scanner's format, a tiled
    TIFF with several levels, or any picture of more than `SLIDE_PIXELS` pixels.

    An unreadable file counts as a slide only if its extension says so; the slide reader then reports what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        # Opening a named pipe would block forever.
        return False
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return True
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor is not None and vendor != "generic-tiff":
            return True
        with open(path, "rb") as file:
            if not is_tiff(file):
                with open_picture(file) as picture:
                    return bool(picture.width * picture.height > SLIDE_PIXELS)
            with open_tiff(file) as tiff:
                page = largest_page(tiff)
                if page.imagewidth * page.imagelength > SLIDE_PIXELS:
                    return True
                if not page.is_tiled:
                    return False
        with open_slide(path) as slide:
            return len(slide.levels) > 1
    except Exception:  # decoders raise anything for damaged files
        return False


def parts_of_slides(folder: Path, files: Sequence[PurePath]) -> set[str]:
    """
    The names of files and folders that belong to slides in a folder without being slides themselves: the folders of
    MIRAX, the pictures of Hamamatsu, all but one DICOM file of a series.

    Args:
        folder: the folder.
        files: the names of the files in it.
    """
    parts: set[str] = set()
    known: set[str] = set()
    for name in sorted(files):
        path, ending = folder / name, name.suffix.lower()
        if not path.is_file():
            continue
        # A file that cannot be read stays: the reader that then fails says why.
        with suppress(OSError):
            if ending == ".mrxs":
                parts.add(name.stem)
            elif ending in (".vms", ".vmu"):
                with path.open("rb") as file:
                    named = _NAMED_IN_INDEX.findall(file.read(_INDEX_BYTES))
                parts |= {os.fsdecode(found) for found in named} - {str(name)}
            elif ending == ".dcm" and (series := series_of(path)) is not None:
                if series in known:
                    parts.add(str(name))
                known.add(series)
    return parts
