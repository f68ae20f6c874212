"""Slides in the formats of scanners, read by OpenSlide: Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM..."""

import numpy as np
import openslide
import PIL.Image

from ..model.pixel_size import PixelSize, read_pixel_size
from .slide import SHARE_ADVICE, WHITE, Level, Slide

# Rows that are decoded at once, or both sides of what is: OpenSlide and Pillow take 4 bytes a pixel each.
STRIP_ROWS = 1024


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads."""

    def __init__(self, path: str):
        """
        Args:
            path: the slide's file.

        Raises:
            OSError: OpenSlide cannot open it; the message names it.
        """
        try:
            slide = self._slide = openslide.OpenSlide(path)
            sizes = list(zip(slide.level_dimensions, slide.level_downsamples, strict=True))
            has_color_profile = slide.color_profile is not None
        except openslide.OpenSlideError as error:
            raise OSError(f"cannot read {path!r} as a slide: {error}") from error
        super().__init__(
            path,
            slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
            [Level(width, height, downsample) for (width, height), downsample in sizes],
            _pixel_size(slide, path),
            _number(slide, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            _associated_sizes(slide),
            has_color_profile,
        )

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        downsample = self.levels[level].downsample
        if downsample == round(downsample):
            for top in range(0, height, STRIP_ROWS):
                rows = min(STRIP_ROWS, height - top)
                pixels[top : top + rows] = self._read_strip(level, x, y + top, width, rows)
            return pixels
        # The corner of a rectangle is rounded to whole pixels of level 0, which shifts all of it by part of a pixel.
        # Corners of a fixed grid give a pixel the same value in every rectangle.
        for top, rows in _grid_cells(y, height):
            for left, columns in _grid_cells(x, width):
                cell = self._read_strip(level, left, top, columns, rows)[max(0, y - top) :, max(0, x - left) :]
                down, across = max(0, top - y), max(0, left - x)
                pixels[down : down + cell.shape[0], across : across + cell.shape[1]] = cell
        return pixels

    def _read_strip(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        # OpenSlide takes the corner in pixels of level 0.
        downsample = self.levels[level].downsample
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = self._slide.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            raise OSError(f"cannot read {self.path!r} at {corner}: {error}; {SHARE_ADVICE}") from error
        # What was not scanned is transparent.
        background = PIL.Image.new("RGB", image.size, (WHITE,) * 3)
        background.paste(image, mask=image.getchannel("A"))
        return np.asarray(background)

    def read_associated(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._slide.associated_images[name].convert("RGB"))
        except openslide.OpenSlideError as error:
            raise OSError(f"cannot read the {name} image of {self.path!r}: {error}") from error

    def close(self) -> None:
        self._slide.close()


def _grid_cells(start: int, length: int) -> list[tuple[int, int]]:
    """The cells that cover an axis, as (first pixel, pixels up to the end of the cell or of the axis)."""
    firsts = range(start // STRIP_ROWS * STRIP_ROWS, start + length, STRIP_ROWS)
    return [(first, min(STRIP_ROWS, start + length - first)) for first in firsts]


def _associated_sizes(slide: openslide.OpenSlide) -> dict[str, tuple[int, int]]:
    """Sizes from the properties, so that the images need not be decoded."""
    sizes = {}
    for name in slide.associated_images:
        width, height = (_number(slide, f"openslide.associated.{name}.{side}") for side in ("width", "height"))
        if width and height:
            sizes[name] = (int(width), int(height))
    return sizes


def _number(slide: openslide.OpenSlide, name: str) -> float | None:
    try:
        return float(slide.properties[name])
    except (KeyError, ValueError):
        return None


def _pixel_size(slide: openslide.OpenSlide, path: str) -> PixelSize | None:
    """The pixel size that OpenSlide reports, or else the one that the file states in a general way."""
    x, y = (_number(slide, name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    if x and y and x > 0 and y > 0:
        return PixelSize(x, y, "OpenSlide mpp-x")
    return read_pixel_size(path)
