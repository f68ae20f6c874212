"""Opening a slide: which library reads it is decided by the file's content, not by its ending."""

import os

import openslide

from ..model.pixel_size import check_mpp
from ..model.tiff import is_tiff, largest_page, open_tiff
from .openslide_slide import OpenSlideSlide
from .plain_slide import PlainSlide
from .slide import Slide
from .tiff_slide import TiffSlide

# Formats that OpenSlide detects but reads in part: of OME-TIFF, for one, it sees the largest level alone.
_GENERIC = ("generic-tiff",)


def open_slide(path: str | os.PathLike, mpp: float | None = None) -> Slide:
    """
    Opens a whole slide, or any picture as a slide of one level.

    Args:
        path: the file: of a format that OpenSlide knows (Aperio, Hamamatsu, Leica, MIRAX, Philips, Trestle, Ventana,
            DICOM, Sakura, Zeiss), a tiled TIFF (OME-TIFF, QPTIFF brightfield, BigTIFF, JPEG 2000, generic pyramid), or
            a picture such as PNG or JPEG, which is read into memory.
        mpp: micrometres per pixel of level 0, in place of what the file states.

    Returns:
        The slide; use it in a `with` block.

    Raises:
        OSError: the file is missing, damaged, or of no kind that can be read; the message names it.
        ValueError: `mpp` is absurd, or a plain picture is too large to be held in memory.
    """
    path = os.fspath(path)
    if mpp is not None:
        mpp = check_mpp(mpp)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a folder, not a slide; name the slide's file in it")
    with open(path, "rb") as file:
        tiled = is_tiff(file) and _is_tiled(file)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is not None and vendor not in _GENERIC:
        slide: Slide = OpenSlideSlide(path)
    elif tiled:
        slide = TiffSlide(path)
    else:
        slide = PlainSlide(path)
    if mpp is not None:
        slide.use_pixel_size(mpp)
    return slide


def _is_tiled(file) -> bool:
    """Whether the largest page of a TIFF is tiled; False where that cannot be found out."""
    try:
        with open_tiff(file) as tiff:
            return largest_page(tiff).is_tiled
    except Exception:  # the reader of pictures raises the error that says why
        return False
