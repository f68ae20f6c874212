"""Opens a slide with the library that can read it, chosen by the content of the file and not by its extension."""

import os

import openslide

from ..model.pictures import DEFAULT_MAX_PIXELS
from ..model.pixel_size import check_mpp
from ..model.tiff import full_pages, is_tiff, largest_page, open_tiff
from .dicom_folders import dicom_slide
from .openslide_slide import OpenSlideSlide
from .plain_slide import PlainSlide
from .slide import Slide
from .tiff_slide import NAMES, TiffSlide

# Formats that OpenSlide detects but reads only in part: of an OME-TIFF, for example, it sees only the largest level.
_GENERIC = ("generic-tiff",)


def open_slide(
    path: str | os.PathLike, mpp: float | None = None, max_pixels: int | None = DEFAULT_MAX_PIXELS
) -> Slide:
    """
    Opens a whole slide, or any picture as a slide of one level.

    Args:
        path: the file, or the folder of a DICOM slide: any format that OpenSlide reads (Aperio, Hamamatsu, Leica,
            MIRAX, Philips, Trestle, Ventana, DICOM, Sakura, Zeiss), tiled TIFF (OME-TIFF, QPTIFF brightfield, BigTIFF,
            JPEG 2000, generic pyramid), or a picture such as PNG or JPEG, which is held in memory.
        mpp: micrometres per pixel of level 0; overrides what the file states.
        max_pixels: a larger picture that can only be read as a whole is refused. None: no limit.

    Returns:
        The slide; use it in a `with` block.

    Raises:
        OSError: the file is missing, damaged, or in an unsupported format; the message names it.
        ValueError: `mpp` is out of range, or a plain picture is too large to be held in memory.
    """
    path = os.fspath(path)
    if mpp is not None:
        mpp = check_mpp(mpp)
    if os.path.isdir(path):
        path = str(dicom_slide(path))
    if os.path.exists(path) and not os.path.isfile(path):
        # Opening a named pipe would block forever.
        raise OSError(f"{path!r} is not a regular file")
    with open(path, "rb") as file:
        tiled = is_tiff(file) and _is_tiled(file)
    vendor = openslide.OpenSlide.detect_format(path)
    slide: Slide
    if vendor is not None and vendor not in _GENERIC:
        slide = _by_openslide(path, tiled)
    elif tiled:
        slide = TiffSlide(path)
    else:
        _check_not_label(path)
        slide = PlainSlide(path, max_pixels)
    if mpp is not None:
        slide.use_pixel_size(mpp)
    return slide


def _by_openslide(path: str, tiled: bool) -> Slide:
    """The slide as OpenSlide reads it, or as a tiled TIFF if OpenSlide does not know its compression, as of an Aperio
    file that another program has compressed with the JPEG 2000 of TIFF."""
    try:
        return OpenSlideSlide(path)
    except OSError as error:
        if not tiled or "compression" not in str(error):
            raise
    return TiffSlide(path)


def _check_not_label(path: str) -> None:
    """Raises OSError if only the label or other associated pictures of a slide are left."""
    try:
        with open(path, "rb") as file, open_tiff(file) as tiff:
            names = [NAMES.search(page.description or "") for page in full_pages(tiff)]
    except Exception:  # no TIFF, or a damaged one: the reader of pictures raises the error that says why
        return
    if all(names):
        found = " and ".join(dict.fromkeys(name[1].lower() for name in names if name))
        raise OSError(f"{path!r} holds no tissue, only the {found} of a slide; export the slide with its scanned area")


def _is_tiled(file) -> bool:
    """Whether the largest page of a TIFF is tiled; False if that cannot be determined."""
    try:
        with open_tiff(file) as tiff:
            return largest_page(tiff).is_tiled
    except Exception:  # the reader of pictures raises the error that says why
        return False
