"""The interface of every slide, whichever library reads it: levels, pixel size, associated images and regions."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np

from ..model.pixel_size import GIVEN, PixelSize
from .resampling import ON_GRID, Axis, read_resampled

# A level whose pixels differ so little in size from those asked for is read without resampling.
UNSCALED = 1e-9
WHITE = 255
# How far a level's extent may be off that of level 0; scanners pad and round.
LEVEL_TOLERANCE = 0.1
# The end of messages about a file that could be opened but not read.
SHARE_ADVICE = "if it lies on a network share, check the connection and run again, otherwise get the file again"


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: `width` x `height` in its own pixels, `downsample` times smaller than level 0."""

    width: int
    height: int
    downsample: float


def _check_levels_fit(path: str, levels: list[Level]) -> None:
    """Raises OSError for levels whose stated size would turn a small region into many pixels to read."""
    first = levels[0]
    for number, level in enumerate(levels):
        for side, whole in ((level.width, first.width), (level.height, first.height)):
            reaches = whole * (1 - LEVEL_TOLERANCE) <= (side + 1) * level.downsample
            if not (reaches and (side - 1) * level.downsample <= whole * (1 + LEVEL_TOLERANCE)):
                raise OSError(
                    f"{path!r} is damaged: its level {number} of {level.width} x {level.height} px does not fit its "
                    f"largest level of {first.width} x {first.height} px; get the file again"
                )


class Slide(ABC):
    """
    A slide open for reading; a context manager that closes it.

    Args:
        path: the file.
        vendor: the scanner's maker or the format.
        levels: the resolutions, from the largest to the smallest.
        pixel_size: of level 0; None if the file does not state it.
        objective_power: magnification of the objective, such as 20 or 40; None if the file does not state it.
        associated: size (width, height) of the label, macro and other associated images, by name.
        has_color_profile: whether the file holds an ICC profile. It is not applied.

    Raises:
        OSError: a level does not have the proportions of level 0; the message names the file.
    """

    def __init__(
        self,
        path: str,
        vendor: str,
        levels: list[Level],
        pixel_size: PixelSize | None,
        objective_power: float | None = None,
        associated: Mapping[str, tuple[int, int]] | None = None,
        has_color_profile: bool = False,
    ):
        _check_levels_fit(path, levels)
        self.path = path
        self.vendor = vendor
        self.levels = levels
        self.pixel_size = pixel_size
        self.objective_power = objective_power
        self.associated = dict(associated or {})
        self.has_color_profile = has_color_profile

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.levels[0].width, self.levels[0].height

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """
        Pixels of one level as they are stored.

        Args:
            level: its number, from 0.
            x, y: the upper left corner in pixels of that level; it may lie outside.
            width, height: size in pixels of that level.

        Returns:
            (height, width, 3) uint8, white beyond the slide and where nothing was scanned.

        Raises:
            OSError: the file is damaged or cannot be read; the message names it.
        """
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, self.levels[level].width), min(y + height, self.levels[level].height)
        if (x0, y0, x1 - x0, y1 - y0) == (x, y, width, height):
            # Without a second copy, which a region of a slide would make large.
            return self._read_inside(level, x, y, width, height)
        pixels = np.full((height, width, 3), WHITE, dtype=np.uint8)
        if x0 < x1 and y0 < y1:
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = self._read_inside(level, x0, y0, x1 - x0, y1 - y0)
        return pixels

    @abstractmethod
    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Like [`read_level`], for a rectangle that lies entirely on the level."""

    @abstractmethod
    def read_associated(self, name: str) -> np.ndarray:
        """The associated image of this name, (H, W, 3) uint8. Raises KeyError if there is none."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def use_pixel_size(self, mpp: float) -> None:
        """Replaces the pixel size by `mpp` micrometres."""
        self.pixel_size = PixelSize(mpp, mpp, GIVEN)

    def best_level(self, downsample: float) -> int:
        """The smallest level with at least the resolution of level 0 divided by `downsample`; level 0 if none has."""
        fitting = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * 1.001]
        return max(fitting, key=lambda i: self.levels[i].downsample, default=0)

    def read_region(self, x: float, y: float, width: int, height: int, mpp: float | None = None) -> np.ndarray:
        """
        A rectangle of the slide at any pixel size; see [`read_scaled`]. Pixels that are not square become square.

        Args:
            x, y: the upper left corner in pixels of level 0; it may lie outside.
            width, height: size of the result in pixels.
            mpp: micrometres per pixel of the result; None: the pixels of level 0.

        Returns:
            (height, width, 3) uint8, white beyond the slide.

        Raises:
            ValueError: the size is not positive, or `mpp` is given but the pixel size of the slide is unknown.
            OSError: the file is damaged or cannot be read; the message names it.
        """
        if mpp is None:
            steps = (1.0, 1.0)
        elif self.pixel_size is None:
            raise ValueError(f"{self.path!r} states no pixel size; pass mpp=... to open_slide")
        else:
            steps = (mpp / self.pixel_size.x, mpp / self.pixel_size.y)
        return self.read_scaled(x, y, width, height, steps)

    def read_scaled(self, x: float, y: float, width: int, height: int, steps: tuple[float, float]) -> np.ndarray:
        """
        A rectangle of the slide, each pixel of which covers `steps` (x, y) pixels of level 0.

        The best level is read and resampled: by area averaging when it shrinks, which avoids aliasing, and by cubic
        interpolation when it grows. Rectangles that begin at multiples of `steps` have the same pixels where they
        overlap. Arguments, result and errors are those of [`read_region`].
        """
        if width < 1 or height < 1:
            raise ValueError(f"a region must have at least one pixel, got {width}x{height}")
        number = self.best_level(min(steps))
        level = self.levels[number]
        # Pixels of the level that a pixel of the result covers.
        step_x, step_y = steps[0] * level.width / self.size[0], steps[1] * level.height / self.size[1]
        if math.isclose(step_x, 1, abs_tol=UNSCALED) and math.isclose(step_y, 1, abs_tol=UNSCALED):
            left, top = x * level.width / self.size[0], y * level.height / self.size[1]
            if abs(left - round(left)) < ON_GRID and abs(top - round(top)) < ON_GRID:
                return self.read_level(number, round(left), round(top), width, height)
        across, down = Axis.of(x / steps[0], width, step_x), Axis.of(y / steps[1], height, step_y)
        return read_resampled(partial(self.read_level, number), across, down)
