"""The size of a picture's pixels as its file states it, in micrometres, and where the file states it.

| stated by | read from |
|---|---|
| Aperio (`.svs`) | `MPP = ` in the image description |
| OME-TIFF | `PhysicalSizeX`, `PhysicalSizeY` and their units |
| ImageJ | the resolution tags together with `unit=` in the image description |
| any other TIFF | the resolution tags and their unit |
| PNG, JPEG, BMP, JPEG 2000 | the resolution in the header |

Resolution tags and headers also hold what printers and screens use (72, 96, 300 dpi). They are believed between 0.05
and 4 micrometres, which no print resolution reaches; statements made for microscopes, between 0.01 and 10.
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import tifffile

from .pictures import open_picture
from .resampling import MAX_MPP, MIN_MPP
from .tiff import choose_page, is_reduced_copy, is_tiff, largest_page, open_tiff

# Source of a pixel size that the user gave.
GIVEN = "given"

MICROSCOPE_LIMITS = (MIN_MPP, MAX_MPP)
PRINT_LIMITS = (0.05, 4.0)

# How far the sides of a pixel may differ for it to count as square.
SQUARE_TOLERANCE = 0.01
# A given pixel size this many times larger or smaller than the stated one is probably a mistake.
SUSPICIOUS_FACTOR = 2.0

MICROMETRES = {
    "m": 1e6,
    "meter": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    r"\u00b5m": 1.0,
    r"\u03bcm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
    "in": 25_400.0,
    "inch": 25_400.0,
}
"""Micrometres in each unit, by its name in lower case. Both Unicode characters for micro are in use, and ImageJ
writes them as an escape."""

_RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0}


@dataclass(frozen=True)
class PixelSize:
    """Width `x` and height `y` of a pixel in micrometres, and `source`, the statement they come from."""

    x: float
    y: float
    source: str

    @property
    def is_square(self) -> bool:
        """Whether `x` and `y` differ by at most 1 %."""
        return max(self.x, self.y) <= min(self.x, self.y) * (1 + SQUARE_TOLERANCE)

    @property
    def mpp(self) -> float:
        """
        Micrometres per pixel: the geometric mean of `x` and `y`, so that its square is the area of a pixel.

        Raises:
            ValueError: the pixels are not square, so that no single number describes them.
        """
        if not self.is_square:
            raise ValueError(
                f"pixels of {self.x:g} x {self.y:g} micrometres ({self.source}) are not square; resample the image so "
                "that both sides are equal, or pass mpp=... if the statement is wrong"
            )
        return self.x if self.x == self.y else math.sqrt(self.x * self.y)


def read_pixel_size(file: str | os.PathLike | BinaryIO, page: int | None = None) -> PixelSize | None:
    """
    The pixel size that a picture's file states.

    Args:
        file: a path, or a file open for reading in binary mode.
        page (`int`, *optional*): which picture of a TIFF that holds several, counted from 1.

    Returns:
        The pixel size, or None where the file states none, states an implausible one, or is no readable image
        (`read_rgb` raises the error that says why).

    Raises:
        OSError: the file is missing or not accessible.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            return read_pixel_size(opened, page)
    try:
        return _of_tiff(file, page) if is_tiff(file) else _of_header(file)
    except Exception:  # decoders raise anything from struct.error to OverflowError for damaged headers
        return None
    finally:
        file.seek(0)


def choose_mpp(given: float | None, stated: PixelSize | None) -> tuple[float | None, str | None]:
    """
    The micrometres per pixel to use, and where they come from: what is given, else what the file states, else None.

    Raises:
        ValueError: nothing is given, and the file states pixels that are not square.
    """
    if given is not None:
        return given, GIVEN
    return (None, None) if stated is None else (stated.mpp, stated.source)


def disagreement(mpp: float, stated: PixelSize | None) -> str | None:
    """A sentence where a given `mpp` is at least a factor of 2 off the stated pixel size, else None."""
    if stated is None or 1 / SUSPICIOUS_FACTOR < mpp / math.sqrt(stated.x * stated.y) < SUSPICIOUS_FACTOR:
        return None
    return f"mpp={mpp:g} is used although the file states {describe(stated)}; check which of the two is right"


def describe(size: PixelSize) -> str:
    """The pixel size in words, such as `0.499 micrometres per pixel (Aperio MPP)`."""
    value = f"{size.mpp:.4g}" if size.is_square else f"{size.x:.4g} x {size.y:.4g}"
    return f"{value} micrometres per pixel ({size.source})"


def _of_tiff(file: BinaryIO, page: int | None) -> PixelSize | None:
    with open_tiff(file) as tiff:
        largest = largest_page(tiff)
        chosen = choose_page(tiff, page)
        # Descriptions state the size at full resolution; the resolution tags are those of their own page.
        reduction = largest.imagewidth / chosen.imagewidth if is_reduced_copy(chosen, largest) else 1.0
        for description in dict.fromkeys((chosen.description, tiff.pages.first.description)):
            size = _of_description(description or "", largest, reduction)
            if size is not None:
                return size
        return _of_resolution(chosen)


def _of_description(text: str, largest: tifffile.TiffPage, reduction: float) -> PixelSize | None:
    """What Aperio or OME state in an image description."""
    if text.startswith("Aperio") and (found := re.search(r"\bMPP\s*=\s*([0-9.]+)", text)):
        mpp = float(found[1]) * reduction
        return _plausible((mpp, mpp), "Aperio MPP", MICROSCOPE_LIMITS)
    if "<OME" in text or ":OME" in text:
        images = [
            dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', tag)) for tag in re.findall(r"<(?:\w+:)?Pixels\b[^>]*", text)
        ]
        # A file may describe several images; the one of this size is meant, the first in case of doubt.
        shape = (str(largest.imagewidth), str(largest.imagelength))
        images.sort(key=lambda image: (image.get("SizeX"), image.get("SizeY")) != shape)
        if images and "PhysicalSizeX" in images[0]:
            sides = [_ome_length(images[0], axis) * reduction for axis in "XY"]
            return _plausible(sides, "OME PhysicalSizeX", MICROSCOPE_LIMITS)
    return None


def _ome_length(pixels: dict[str, str], axis: str) -> float:
    """Micrometres of one side; the other side's where only that is stated."""
    axis = axis if f"PhysicalSize{axis}" in pixels else "X"
    unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
    return float(pixels[f"PhysicalSize{axis}"]) * MICROMETRES.get(unit.lower(), math.nan)


def _of_resolution(page: tifffile.TiffPage) -> PixelSize | None:
    """What the resolution tags of a page state, in ImageJ's unit or their own."""
    counts = [_ratio(page.tags.valueof(name)) for name in ("XResolution", "YResolution")]
    text = page.description or ""
    if text.startswith("ImageJ=") and (found := re.search(r"^unit=(.*)$", text, re.MULTILINE)):
        unit = MICROMETRES.get(found[1].strip().lower(), math.nan)
        # ImageJ's own unit for an image that was never calibrated is the inch.
        limits = PRINT_LIMITS if unit == MICROMETRES["inch"] else MICROSCOPE_LIMITS
        return _plausible((unit / count for count in counts), "ImageJ", limits)
    unit = _RESOLUTION_UNITS.get(int(page.tags.valueof("ResolutionUnit", default=2)), math.nan)
    return _plausible((unit / count for count in counts), "TIFF resolution", PRINT_LIMITS)


def _ratio(value: tuple[int, int] | None) -> float:
    """A rational tag as a number; NaN where it is missing or has no value."""
    return value[0] / value[1] if value and value[0] and value[1] else math.nan


def _of_header(file: BinaryIO) -> PixelSize | None:
    """What the header of a PNG, JPEG, BMP or JPEG 2000 states."""
    with open_picture(file) as image:
        density, name = image.info.get("dpi"), image.format
    if density is None:
        return None
    return _plausible((25_400.0 / float(count) for count in density), f"{name} resolution", PRINT_LIMITS)


def _plausible(sides: Iterable[float], source: str, limits: tuple[float, float]) -> PixelSize | None:
    (x, y), (low, high) = sides, limits
    # The comparisons are false for NaN.
    return PixelSize(x, y, source) if low <= x <= high and low <= y <= high else None
