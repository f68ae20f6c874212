"""A plain picture as a slide of one level, held in memory; for images that no library can read in parts."""

import numpy as np

from ..model.pictures import DEFAULT_MAX_PIXELS, read_rgb
from ..model.pixel_size import read_pixel_size
from .slide import WHITE, Level, Slide, within


class PlainSlide(Slide):
    """A picture in any format that `read_rgb` takes."""

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

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        pixels = np.full((height, width, 3), WHITE, dtype=np.uint8)
        if (part := within(x, y, width, height, self.levels[level])) is not None:
            x0, y0, x1, y1 = part
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = self._pixels[y0:y1, x0:x1]
        return pixels

    def read_associated(self, name: str) -> np.ndarray:
        raise KeyError(name)

    def close(self) -> None:
        """Does nothing: the file is closed already."""
