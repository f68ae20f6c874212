"""Pixel sizes in micrometres: what a file states, and resampling to the model's pixel size and back.

| stated by | read from |
|---|---|
| Aperio (`.svs`) | `MPP = ` in the image description |
| OME-TIFF | `PhysicalSizeX`, `PhysicalSizeY` and their units |
| ImageJ | the resolution tags together with `unit=` in the image description |
| any other TIFF | the resolution tags and their unit |
| PNG, JPEG, BMP, JPEG 2000 | the resolution in the header |

Resolution tags and headers also hold what printers and screens use (72, 96, 300 dpi). They are accepted from
0.05 to 4 micrometres, which no print resolution reaches; statements made for microscopes are accepted from 0.01 to 10.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
import tifffile

from .pictures import open_picture
from .result import DecodedNuclei, consecutive_ids
from .tiff import choose_page, is_reduced_copy, is_tiff, largest_page, open_tiff

# Pixel sizes that differ by less are treated as equal: nominal 0.25 um/px scanners measure 0.2425 to 0.2528.
MPP_TOLERANCE = 0.02
MIN_MPP, MAX_MPP = 0.01, 10.0
# Pixel sizes of microscopes with objectives from 2.5x to 200x.
PLAUSIBLE_MPP = (0.05, 4.0)
OBJECTIVES = (20, 40, 60, 63, 80)

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


def check_mpp(mpp: float, name: str = "mpp") -> float:
    """Micrometres per pixel as a float; ValueError unless it lies in [0.01, 10], with a guess at the intended unit."""
    if isinstance(mpp, bool) or not isinstance(mpp, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number of micrometres per pixel, got {mpp!r}")
    if not MIN_MPP <= mpp <= MAX_MPP:  # false for NaN
        raise ValueError(
            f"{name} must be micrometres per pixel from {MIN_MPP:g} to {MAX_MPP:g}, such as 0.25 at 40x; got {mpp!r}"
            f"{_guess_unit(float(mpp))}"
        )
    return float(mpp)


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


def read_pixel_size(file: str | os.PathLike[str] | BinaryIO, page: int | None = None) -> PixelSize | None:
    """
    The pixel size that a picture's file states.

    Args:
        file: a path, or a file open for reading in binary mode.
        page (`int`, *optional*): which picture of a TIFF that holds several, counted from 1.

    Returns:
        The pixel size, or None if the file states none or an implausible one, or is not a readable image (`read_rgb`
        raises the error that says why).

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


def resampled_size(height: int, width: int, mpp: float | None, model_mpp: float) -> tuple[int, int]:
    """
    Height and width in the model's pixels of an image of pixel size `mpp`: unchanged if `mpp` is None or within 2 % of
    the model's.
    """
    if mpp is None:
        return height, width
    scale = check_mpp(mpp) / check_mpp(model_mpp, "the model's mpp")
    if abs(math.log(scale)) <= math.log1p(MPP_TOLERANCE):
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resample_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Resample (H, W, 3) uint8 to `height` x `width`: area means when it shrinks, which avoids aliasing, cubic
    interpolation when it grows, which keeps edges.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resampled: np.ndarray = cv2.resize(image, (width, height), interpolation=interpolation)
    return resampled


class ResampledInstances(NamedTuple):
    """
    Nuclei in the pixels of another image size: `instance_map` (H, W) int32 with ids 1..M; `kept`, (N,) bool, which of
    the nuclei before these are; `boxes` (M, 4), `centroids` (M, 2) and `areas` (M,) as in `DecodedNuclei`.
    """

    instance_map: np.ndarray
    kept: np.ndarray
    boxes: np.ndarray
    centroids: np.ndarray
    areas: np.ndarray


def resample_nuclei(decoded: DecodedNuclei, height: int, width: int) -> DecodedNuclei:
    """
    Resample nuclei to an image of `height` x `width` pixels of the same field; see [`resample_instances`]. Types,
    scores and their measures are kept; areas, boxes and centroids are measured again.
    """
    if decoded.instance_map.shape == (height, width):
        return decoded
    found = resample_instances(decoded.instance_map, decoded.boxes, height, width)
    kept = decoded.take(found.kept, found.instance_map)
    return replace(kept, boxes=found.boxes, centroids=found.centroids, areas=found.areas)


def resample_instances(instance_map: np.ndarray, boxes: np.ndarray, height: int, width: int) -> ResampledInstances:
    """
    Resample a label map to `height` x `width` pixels.

    Each nucleus is resampled by itself (area means when it shrinks, linear when it grows), and a pixel goes to the
    nucleus with the largest share of it, provided that all nuclei together hold at least half of it: outlines stay
    smooth, and touching nuclei stay touching. A nucleus that falls apart keeps its largest 4-connected part, and one
    that would vanish gets the free pixel that it covers most. Only a nucleus that covers no free pixel is dropped, as
    when several nuclei share one pixel after a hundredfold reduction.

    Args:
        instance_map: (H, W) integers, 0 background, ids 1..N.
        boxes: (N, 4), half-open x0, y0, x1, y1 of the nuclei.
        height, width: the new size.
    """
    patches = [_patch(instance_map, label, box, height, width) for label, box in enumerate(boxes.tolist(), start=1)]
    labels = _assign_pixels(patches, height, width)
    geometry = [_keep_largest_part(labels, label, patch) for label, patch in enumerate(patches, start=1)]
    for index, patch in enumerate(patches):
        geometry[index] = geometry[index] or _restore(labels, index + 1, patch)
    kept = np.array([of is not None for of in geometry], dtype=bool)
    found = [of for of in geometry if of is not None]
    return ResampledInstances(
        instance_map=labels if kept.all() else consecutive_ids(kept)[labels],
        kept=kept,
        boxes=np.array([of.box for of in found], dtype=np.int64).reshape(-1, 4),
        centroids=np.array([of.centroid for of in found], dtype=np.float64).reshape(-1, 2),
        areas=np.array([of.area for of in found], dtype=np.int64),
    )


def _guess_unit(value: float) -> str:
    """The probable meaning of an impossible pixel size, as the end of a sentence; empty if nothing is plausible."""
    if value in OBJECTIVES:
        return f". If {value:g}x is the objective, the pixel size is probably {10 / value:.3g}"
    low, high = PLAUSIBLE_MPP
    meanings = {
        "in nanometres": value * 1e-3,
        "in millimetres": value * 1e3,
        "in centimetres": value * 1e4,
        "in metres": value * 1e6,
        "the number of pixels per centimetre": 1e4 / value if value > 0 else 0.0,
    }
    for meaning, micrometres in meanings.items():
        if low <= micrometres <= high:
            return f". If {value:g} is {meaning}, give {micrometres:.4g}"
    return ""


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
        # A file may describe several images: the one of this size counts, else the first.
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
        # The inch is ImageJ's unit for images that were never calibrated.
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


class _Patch(NamedTuple):
    """Where a nucleus lies: rows, columns, and its share (rows, columns) float32 of each pixel there."""

    rows: slice
    columns: slice
    shares: np.ndarray


class _Geometry(NamedTuple):
    """Of one nucleus: pixels, half-open box x0, y0, x1, y1, and centroid x, y."""

    area: int
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]


def _axis_weights(start: int, stop: int, source: int, target: int) -> tuple[int, np.ndarray]:
    """
    First target pixel and weights (targets, stop - start) of source pixels start..stop - 1 along one axis: the weights
    of each target pixel over all source pixels sum to 1.
    """
    ratio = source / target
    first = max(0, math.floor((start - 1) / ratio) - 1)
    last = min(target, math.ceil((stop + 1) / ratio) + 1)
    targets = np.arange(first, last)[:, None]
    pixels = np.arange(start, stop)[None, :]
    if ratio >= 1:
        shared = np.minimum((targets + 1) * ratio, pixels + 1) - np.maximum(targets * ratio, pixels)
        weights = np.clip(shared, 0, None) / ratio
    else:
        centers = np.clip((targets + 0.5) * ratio - 0.5, 0, source - 1)
        weights = np.clip(1 - np.abs(centers - pixels), 0, None)
    return first, weights.astype(np.float32)


def _patch(instance_map: np.ndarray, label: int, box: Sequence[int], height: int, width: int) -> _Patch:
    """The target pixels of nucleus `label`."""
    x0, y0, x1, y1 = box
    top, by_row = _axis_weights(y0, y1, instance_map.shape[0], height)
    left, by_column = _axis_weights(x0, x1, instance_map.shape[1], width)
    mask = (instance_map[y0:y1, x0:x1] == label).astype(np.float32)
    shares = by_row @ mask @ by_column.T
    return _Patch(slice(top, top + shares.shape[0]), slice(left, left + shares.shape[1]), shares)


def _assign_pixels(patches: list[_Patch], height: int, width: int) -> np.ndarray:
    """Label map (height, width): the nucleus with the largest share where all together hold half of the pixel."""
    labels = np.zeros((height, width), dtype=np.int32)
    best = np.zeros((height, width), dtype=np.float32)
    total = np.zeros((height, width), dtype=np.float32)
    for label, (rows, columns, share) in enumerate(patches, start=1):
        total[rows, columns] += share
        wins = share > best[rows, columns]
        labels[rows, columns][wins] = label
        best[rows, columns][wins] = share[wins]
    # Slightly less than one half, so that an exact half counts whichever way it was rounded.
    labels[total < 0.5 - 1e-4] = 0
    return labels


def _keep_largest_part(labels: np.ndarray, label: int, patch: _Patch) -> _Geometry | None:
    """Erase all but the largest 4-connected part of `label` (the first of equals); None if it has no pixel."""
    rows, columns, _ = patch
    mask = (labels[rows, columns] == label).view(np.uint8)
    count, parts, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count == 1:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if count > 2:
        labels[rows, columns][(parts > 0) & (parts != largest)] = 0
    x, y, width, height, area = (int(value) for value in stats[largest])
    x, y = x + columns.start, y + rows.start
    center_x, center_y = (float(value) for value in centroids[largest])
    return _Geometry(
        area, (x, y, x + width, y + height), (center_x + (columns.start + 0.5), center_y + (rows.start + 0.5))
    )


def _restore(labels: np.ndarray, label: int, patch: _Patch) -> _Geometry | None:
    """Give a nucleus without a pixel the free one that it covers most; None if there is none."""
    rows, columns, shares = patch
    free = np.where(labels[rows, columns] == 0, shares, 0)
    if free.size == 0 or free.max() == 0:
        return None
    row, column = np.unravel_index(free.argmax(), free.shape)
    y, x = rows.start + int(row), columns.start + int(column)
    labels[y, x] = label
    return _Geometry(1, (x, y, x + 1, y + 1), (x + 0.5, y + 0.5))
