"""A plain picture as a slide with one level, held in memory; for images that cannot be read in parts."""

import numpy as np

from ..model.pictures import DEFAULT_MAX_PIXELS, read_rgb
from ..model.pixel_size import read_pixel_size
from .slide import Level, Slide


class PlainSlide(Slide):
    """A picture in any format that `read_rgb` accepts."""

    def __init__(self, path: str, max_pixels: int | None = DEFAULT_MAX_PIXELS):
        """
        Args:
            path: the file.
            max_pixels: a larger picture is refused before it is decoded. None: no limit.

        Raises:
            OSError, ValueError: it cannot be read, or is too large; the message names it.
        """
        self._pixels = read_rgb(path, max_pixels)
        height, width = self._pixels.shape[:2]
        super().__init__(path, "picture", [Level(width, height, 1.0)], read_pixel_size(path))

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._pixels[y : y + height, x : x + width].copy()

    def read_associated(self, name: str) -> np.ndarray:
        raise KeyError(name)

    def close(self) -> None:
        """Does nothing: the file is closed already."""
