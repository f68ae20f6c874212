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
# Largest side of a block in pixels of the result, and in pixels of the level, which keeps small what is read too much.
BLOCK, SOURCE_BLOCK = 512, 1024
# A rectangle that begins so near to a pixel of the grid, in pixels of the result, begins there.
ON_GRID = 1e-3


def block_side(step: float) -> int:
    """Side of a block in pixels of the result, each of which covers `step` pixels of the level; a power of 2."""
    return min(BLOCK, 2 ** max(0, math.floor(math.log2(SOURCE_BLOCK / step))))


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
        side = block_side(self.step)
        numbers = range(self.first // side, -(-(self.first + self.count) // side))
        return [Axis(number * side, side, self.offset, self.step) for number in numbers]

    @property
    def source_span(self) -> tuple[float, float]:
        """Where the axis begins and ends, in pixels of the level."""
        return (self.first + self.offset) * self.step, (self.first + self.count + self.offset) * self.step

    @property
    def source_pixels(self) -> tuple[int, int]:
        """The first whole pixel of the level that resampling needs, margin included, and the one after the last."""
        low, high = self.source_span
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
    left, right = columns[0].source_pixels[0], columns[-1].source_pixels[1]
    top, bottom = rows[0].source_pixels[0], rows[-1].source_pixels[1]
    pixels = read(left, top, right - left, bottom - top)
    how = PIL.Image.Resampling.BOX if across.step * down.step > 1 else PIL.Image.Resampling.BICUBIC
    result = np.empty((down.count, across.count, 3), np.uint8)
    for row in rows:
        y0, y1 = row.source_pixels
        into_y, from_y = down.shared(row)
        for column in columns:
            x0, x1 = column.source_pixels
            into_x, from_x = across.shared(column)
            # Places within the block's own pixels are small numbers, equal for every rectangle that holds the block.
            (left_edge, right_edge), (top_edge, bottom_edge) = column.source_span, row.source_span
            box = (left_edge - x0, top_edge - y0, right_edge - x0, bottom_edge - y0)
            block = PIL.Image.fromarray(np.ascontiguousarray(pixels[y0 - top : y1 - top, x0 - left : x1 - left]))
            resized = np.asarray(block.resize((column.count, row.count), how, box=box))
            result[into_y, into_x] = resized[from_y, from_x]
    return result
