"""The fixed grid of regions over a slide: the units of work, of memory and of resuming.

Everything is in the model's pixels: a slide has `width` x `height` of them, whatever level they are read from. The
windows of the network are those of the whole slide, as [`tile_windows`] cuts it. A border between two regions runs
through the middle of a row or column of windows, so neighbours share that row or column and no more:

    core     the region itself; cores cover the slide without overlap
    inside   the core and its halo: the pixels that are decoded, because all windows that cover them are known
    image    the pixels that are read: everything that its windows cover

A window is left out if no tissue lies in it or within `TISSUE_MARGIN` of it. Pixels nearer to tissue than that keep
all their windows, so nuclei in tissue are found as if every window had been run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..model.tiling import Part, Window, axis_starts, view_shares, views_of

# Side of a region in the model's pixels: a millimetre at 0.25 um. Processing one takes less than 0.5 GiB.
REGION_SIDE = 4096
# Least number of pixels decoded around the core: 28 um at 0.25 um, more than any nucleus extends.
MIN_HALO = 112
# Pixels around tissue in which no window is left out.
TISSUE_MARGIN = 64

Touches = Callable[[float, float, float, float], bool]
"""Whether a box x0, y0, x1, y1 in pixels of level 0 holds tissue."""


class Box(NamedTuple):
    """Half-open rectangle of whole pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (N, 2), x and y, lie in it: (N,) bool."""
        x, y = points[:, 0], points[:, 1]
        inside: np.ndarray = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        return inside

    def meet(self, other: "Box") -> "Box":
        """The rectangle that both have in common, if they overlap."""
        return Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))


@dataclass(frozen=True)
class Region:
    """
    A region of a slide. A small object that can be pickled.

    Attributes:
        row, column: its place in the grid, from 0.
        core, inside, image: see the top of this module; in the model's pixels of the slide.
        windows: the windows of the network, in the model's pixels of the slide, row by row from the top.
    """

    row: int
    column: int
    core: Box
    inside: Box
    image: Box
    windows: tuple[Window, ...]

    @property
    def name(self) -> str:
        """A name that sorts in the raster order of the grid."""
        return f"{self.row:04d}_{self.column:04d}"


class AxisPart(NamedTuple):
    """Core and halo along one axis: pixels `first` to `last`, decoded from `inside_first` to `inside_last`."""

    first: int
    last: int
    inside_first: int
    inside_last: int


@dataclass(frozen=True)
class RegionGrid:
    """
    The regions of a slide; they depend on these numbers alone.

    Attributes:
        width, height: the slide in the model's pixels.
        tiling: size, overlap and views of the windows, as for `tile_windows`.
        scale: width and height of a pixel of the model in pixels of level 0.
        side: approximate width and height of a region.
    """

    width: int
    height: int
    tiling: tuple[int, int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    side: int = REGION_SIDE

    @cached_property
    def columns(self) -> list[AxisPart]:
        """The regions along x."""
        return axis_parts(self.width, *self.tiling[:2], self.side)

    @cached_property
    def rows(self) -> list[AxisPart]:
        """The regions along y."""
        return axis_parts(self.height, *self.tiling[:2], self.side)

    @cached_property
    def _starts(self) -> list[tuple[list[int], list[int]]]:
        """First pixels of the windows of each view, along x and y."""
        size, overlap, views = self.tiling
        return [
            (
                axis_starts(self.width, size, overlap, number / views),
                axis_starts(self.height, size, overlap, number / views),
            )
            for number in range(views)
        ]

    def level0(self, box: Box, margin: int = 0) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels of level 0 of a box in the model's pixels, grown by `margin` of these."""
        across, down = self.scale
        return (
            (box.x0 - margin) * across,
            (box.y0 - margin) * down,
            (box.x1 + margin) * across,
            (box.y1 + margin) * down,
        )

    def regions(self, touches: Touches) -> list[Region]:
        """
        The regions whose cores hold tissue, in raster order.

        Args:
            touches: whether a box of level 0 holds tissue.
        """
        found = []
        for row, down in enumerate(self.rows):
            for column, across in enumerate(self.columns):
                core = Box(across.first, down.first, across.last, down.last)
                if not touches(*self.level0(core)):
                    continue
                inside = Box(across.inside_first, down.inside_first, across.inside_last, down.inside_last)
                windows = self._windows(inside, touches)
                size = self.tiling[0]
                image = Box(
                    min(window.x for window in windows),
                    min(window.y for window in windows),
                    min(max(window.x for window in windows) + size, self.width),
                    min(max(window.y for window in windows) + size, self.height),
                )
                found.append(Region(row, column, core, inside.meet(image), image, windows))
        return found

    def part(self, region: Region) -> Part:
        """The region's image as a part of the slide, for the pipeline."""
        left, top = region.image.x0, region.image.y0
        rows, columns = (slice(top, region.image.y1), slice(left, region.image.x1))
        size, overlap, views = self.tiling
        row_shares, column_shares = (
            {view: shares[shown] for view, shares in view_shares(length, size, overlap, views).items()}
            for length, shown in ((self.height, rows), (self.width, columns))
        )
        inside = region.inside
        return Part(
            tuple(Window(w.y - top, w.x - left, w.size, w.view) for w in region.windows),
            (inside.y0 - top, inside.x0 - left, inside.y1 - top, inside.x1 - left),
            row_shares,
            column_shares,
        )

    def _windows(self, inside: Box, touches: Touches) -> tuple[Window, ...]:
        """The windows of the slide's grid that cover pixels inside, but those without tissue."""
        size, _, views = self.tiling
        windows = [
            Window(y, x, size, view)
            for view, (starts_x, starts_y) in zip(views_of(views), self._starts, strict=True)
            for y in starts_y
            if y < inside.y1 and y + size > inside.y0
            for x in starts_x
            if x < inside.x1
            and x + size > inside.x0
            and touches(*self.level0(Box(x, y, x + size, y + size), TISSUE_MARGIN))
        ]
        return tuple(sorted(windows, key=lambda window: (window.y, window.x)))


def axis_parts(length: int, size: int, overlap: int, side: int) -> list[AxisPart]:
    """
    The regions along one axis.

    Each border is the middle of a window, and the halo ends where the windows beyond those of the region begin.

    >>> axis_parts(1000, 256, 64, 500)
    [AxisPart(first=0, last=500, inside_first=0, inside_last=744), AxisPart(first=500, last=1000, inside_first=256, \
inside_last=1000)]

    Args:
        length: pixels of the slide.
        size, overlap: of the windows, as for `axis_starts`.
        side: approximate length of a region.
    """
    starts = axis_starts(length, size, overlap)
    count = min(max(1, round(length / side)), len(starts))
    middles = [number * len(starts) // count for number in range(count)]
    borders = [0, *(starts[middle] + size // 2 for middle in middles[1:]), length]
    parts = []
    for first, last, middle, following in zip(borders, borders[1:], middles, [*middles[1:], None], strict=False):
        before, after = middle, following
        while before > 0 and first - (starts[before - 1] + size) < MIN_HALO:
            before -= 1
        inside_last = length
        if after is not None:
            after += 1
            while after < len(starts) and starts[after] - last < MIN_HALO:
                after += 1
            inside_last = starts[after] if after < len(starts) else length
        parts.append(AxisPart(first, last, starts[before - 1] + size if before > 0 else 0, inside_last))
    return parts
