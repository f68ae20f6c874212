"""Resampling of a level in blocks of one fixed grid, so that a pixel has the same value in every rectangle read.

A resampler rounds: the place and size of the rectangle that it is given change some values by one. Regions of a slide
overlap, and windows in the overlap must be the same whichever region they are cut from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image

# Pixels of a level that are read beyond each side of a block, so that resampling at its edge sees its neighbours.
MARGIN = 4
# Side of a block in pixels of the result.
BLOCK = 512
# A rectangle that begins so near to a pixel of the grid, in pixels of the result, begins there.
ON_GRID = 1e-3


@dataclass(frozen=True)
class Axis:
    """One axis of a rectangle.

    Attributes:
        first, count: the pixels of the result, counted on the grid.
        offset: of the grid's first pixel from that of the level, in pixels of the result.
        step: pixels of the level that a pixel of the result covers.
    """

    first: int
    count: int
    offset: float
    step: float

    @classmethod
    def of(cls, start: float, count: int, step: float) -> "Axis":
        """The axis of `count` pixels from `start`, both in pixels of the result."""
        first = round(start)
        offset = start - first
        return cls(first, count, 0.0 if abs(offset) < ON_GRID else offset, step)

    def blocks(self) -> list["Axis"]:
        """The whole blocks that cover the axis."""
        numbers = range(self.first // BLOCK, -(-(self.first + self.count) // BLOCK))
        return [Axis(number * BLOCK, BLOCK, self.offset, self.step) for number in numbers]

    @property
    def span(self) -> tuple[float, float]:
        """First and last place in pixels of the level."""
        return (self.first + self.offset) * self.step, (self.first + self.count + self.offset) * self.step

    @property
    def read(self) -> tuple[int, int]:
        """The whole pixels of the level, with a margin, that resampling needs."""
        low, high = self.span
        return math.floor(low) - MARGIN, math.ceil(high) + MARGIN

    def shared(self, block: "Axis") -> tuple[slice, slice]:
        """The pixels of a block that belong to the axis: where they are in the axis, and in the block."""
        low, high = max(self.first, block.first), min(self.first + self.count, block.first + block.count)
        return slice(low - self.first, high - self.first), slice(low - block.first, high - block.first)


def read_resampled(read: Callable[[int, int, int, int], np.ndarray], across: Axis, down: Axis) -> np.ndarray:
    """
    Reads a rectangle of a level and resamples it: by area averaging when it shrinks, which avoids aliasing, and by
    cubic interpolation when it grows.

    Args:
        read: left, top, width and height in pixels of the level to (height, width, 3) uint8; white beyond the level.
        across, down: the axes of the rectangle.

    Returns:
        (down.count, across.count, 3) uint8.
    """
    columns, rows = across.blocks(), down.blocks()
    left, right = columns[0].read[0], columns[-1].read[1]
    top, bottom = rows[0].read[0], rows[-1].read[1]
    pixels = read(left, top, right - left, bottom - top)
    how = PIL.Image.Resampling.BOX if across.step * down.step > 1 else PIL.Image.Resampling.BICUBIC
    result = np.empty((down.count, across.count, 3), np.uint8)
    for row in rows:
        y0, y1 = row.read
        into_y, from_y = down.shared(row)
        for column in columns:
            x0, x1 = column.read
            into_x, from_x = across.shared(column)
            # Places within the block's own pixels are small numbers, equal for every rectangle that holds the block.
            box = (column.span[0] - x0, row.span[0] - y0, column.span[1] - x0, row.span[1] - y0)
            block = PIL.Image.fromarray(np.ascontiguousarray(pixels[y0 - top : y1 - top, x0 - left : x1 - left]))
            resized = np.asarray(block.resize((BLOCK, BLOCK), how, box=box))
            result[into_y, into_x] = resized[from_y, from_x]
    return result
