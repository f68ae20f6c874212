"""Horizontal runs of a mask: the compact form in which nuclei are found, measured and outlined.

A tile of a million pixels with a thousand nuclei has some fifteen thousand runs, so everything computed from runs
(connected regions, holes, areas, boxes, centroids, outlines) costs little beside one pass over the pixels.

All indices are flat indices into an image padded by one pixel of background on each side: every pixel has neighbours
and no run crosses the end of a row. `width` is the padded width.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


class Runs(NamedTuple):
    """R runs.

    Attributes:
        starts, ends: (R,) int64, half-open, ascending.
    """

    starts: np.ndarray
    ends: np.ndarray


class LabelledRuns(NamedTuple):
    """R runs, each with the number of the region, hole or instance that it belongs to.

    Attributes:
        starts, ends: (R,) int64, half-open, ascending.
        labels: (R,) integers.
    """

    starts: np.ndarray
    ends: np.ndarray
    labels: np.ndarray


def find_runs(values: np.ndarray, levels: int = 1) -> list[Runs]:
    """Runs of elements of at least 1, of at least 2, and so on, found in one pass.

    Args:
        values: (P,) uint8 from 0 to `levels`; the first and the last are 0.
        levels: how many lists of runs to make.
    """
    changes = np.flatnonzero(values[1:] != values[:-1])
    changes += 1
    if levels == 1:
        return [Runs(changes[0::2], changes[1::2])]
    following = values[changes]
    runs = []
    for level in range(1, levels + 1):
        inside = following >= level
        inside[1:] ^= inside[:-1].copy()
        ends = changes[np.flatnonzero(inside)]
        runs.append(Runs(ends[0::2], ends[1::2]))
    return runs


def expand_runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Flat indices, (sum of lengths,) int64, of all elements of the runs, run after run."""
    if len(starts) == 0:
        return np.zeros(0, dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    return np.repeat(starts - firsts, lengths) + np.arange(firsts[-1] + lengths[-1])


def label_runs(
    starts: np.ndarray, ends: np.ndarray, width: int, diagonal: bool = False
) -> tuple[int, np.ndarray, np.ndarray]:
    """Connected regions of runs.

    Args:
        starts: (R,) ascending.
        ends: (R,), each at most the next start.
        width: length of a row.
        diagonal: whether pixels that touch at a corner are connected (8-connected) or not (4-connected).

    Returns:
        The number of regions, the region (R,) of each run, numbered from 0 in the order of their first runs, and the
        number (R,) of runs in the next row that touch each run. The graph of touching runs is planar, so a region
        encloses as many holes (of the opposite connectivity) as it has independent cycles: touches - runs + 1.
    """
    # The touching runs of the next row are consecutive.
    first = np.searchsorted(ends, starts + (width - diagonal), side="right")
    touches = np.searchsorted(starts, ends + (width + diagonal), side="left") - first
    np.maximum(touches, 0, out=touches)
    row_pointer = np.concatenate([[0], np.cumsum(touches)])
    below = expand_runs(first, touches)
    graph = csr_array((np.ones(len(below), dtype=np.int8), below, row_pointer), shape=(len(starts), len(starts)))
    count, regions = connected_components(graph, directed=False)
    return int(count), regions, touches


def find_holes(
    starts: np.ndarray, ends: np.ndarray, width: int, maximum_area: int, regions: np.ndarray | None = None
) -> LabelledRuns:
    """Runs of the holes of at most `maximum_area` pixels between given runs, labelled by hole in raster order.

    A hole is a region of the background, 8-connected where the foreground is 4-connected, that does not reach the
    border and has no foreground inside it; hence a single foreground region surrounds it.

    Args:
        starts, ends: (R,) runs of the foreground, at least one.
        width: length of a row.
        maximum_area: of a hole.
        regions: (R,) the 4-connected region of each run, if known, which saves work.
    """
    # The background's runs are the gaps; in a hole they are short, lie in one row, and have one region on both sides.
    # The first and the last, longer than a row, are the outside.
    margin = width + 1
    gap_starts = np.concatenate([[starts[0] - margin], ends])
    gap_ends = np.concatenate([starts, [ends[-1] + margin]])
    possible = gap_ends - gap_starts <= maximum_area
    if regions is not None:
        possible[1:-1] &= regions[1:] == regions[:-1]
    possible[possible] = gap_starts[possible] // width == gap_ends[possible] // width
    chosen = np.flatnonzero(possible)
    if len(chosen) == 0:
        return LabelledRuns(chosen, chosen, chosen)
    hole_starts, hole_ends = gap_starts[chosen], gap_ends[chosen]
    is_open = _touches_others(hole_starts, hole_ends, gap_starts, gap_ends, possible, width)
    count, holes, touches = label_runs(hole_starts, hole_ends, width, diagonal=True)
    areas = np.bincount(holes, hole_ends - hole_starts)
    islands = np.bincount(holes, touches) - np.bincount(holes) + 1
    is_hole = (areas <= maximum_area) & (islands == 0) & (np.bincount(holes, is_open, minlength=count) == 0)
    kept = np.flatnonzero(is_hole[holes])
    return LabelledRuns(hole_starts[kept], hole_ends[kept], holes[kept])


def _touches_others(
    starts: np.ndarray,
    ends: np.ndarray,
    gap_starts: np.ndarray,
    gap_ends: np.ndarray,
    possible: np.ndarray,
    width: int,
) -> np.ndarray:
    """Whether each run (C,) touches, by a corner at least, a gap in the row above or below that is not `possible`."""
    before = np.concatenate([[0], np.cumsum(possible)])
    is_open = np.zeros(len(starts), dtype=bool)
    for step in (-width, width):
        first = np.searchsorted(gap_ends, starts + (step - 1), side="right")
        last = np.searchsorted(gap_starts, ends + (step + 1), side="left")
        is_open |= before[last] - before[first] < last - first
    return is_open


def merge_pixels(pixels: np.ndarray, labels: np.ndarray) -> LabelledRuns:
    """Runs of equal label in a list of labelled pixels.

    Args:
        pixels: (P,) ascending flat indices, at least one.
        labels: (P,) label of each.
    """
    breaks = np.flatnonzero((pixels[1:] - pixels[:-1] != 1) | (labels[1:] != labels[:-1]))
    starts = pixels[np.concatenate([[0], breaks + 1])]
    lasts = np.concatenate([breaks, [len(pixels) - 1]])
    return LabelledRuns(starts, pixels[lasts] + 1, labels[lasts])


@dataclass(frozen=True, eq=False)
class InstanceRuns:
    """The runs of N instances, and what is summed over them.

    Attributes:
        starts, ends: (R,) ascending.
        index: (R,) the instance of each run, 0 to `count` - 1; each has at least one.
        count: their number N.
        shape: (H, W) of the image without padding.
    """

    starts: np.ndarray
    ends: np.ndarray
    index: np.ndarray
    count: int
    shape: tuple[int, int]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(R,) pixels of each run."""
        lengths: np.ndarray = self.ends - self.starts
        return lengths

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.divmod(self.starts, self.shape[1] + 2)
        return rows - 1, columns - 1

    @property
    def rows(self) -> np.ndarray:
        """(R,) row of each run in the image without padding."""
        return self._places[0]

    @property
    def columns(self) -> np.ndarray:
        """(R,) column in which each run begins in the image without padding."""
        return self._places[1]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Flat indices of all pixels, run after run, in the image without padding."""
        return expand_runs(self.rows * self.shape[1] + self.columns, self.lengths)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64: values (R,) summed over the runs of each instance, in their order."""
        return np.bincount(self.index, values, minlength=self.count)

    def map_sums(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64: a map (H, W) float32 summed over the pixels of each instance."""
        return self.sums(self._summation @ values.reshape(-1))

    @cached_property
    def _summation(self) -> csr_array:
        """The matrix (R, H * W) float32 whose product with a flat map is the map's sum over each run.

        A sum is accumulated in its run's own order, so it is the same wherever the run lies.
        """
        size = self.shape[0] * self.shape[1]
        # Indices of 32 bits, where they suffice, halve the memory to read.
        index_type = np.int32 if size <= np.iinfo(np.int32).max else np.int64
        row_pointer = np.zeros(len(self.lengths) + 1, dtype=index_type)
        np.cumsum(self.lengths, out=row_pointer[1:])
        ones = np.ones(len(self.pixels), dtype=np.float32)
        return csr_array((ones, self.pixels.astype(index_type), row_pointer), shape=(len(self.lengths), size))

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) float64, pixels."""
        return self.sums(self.lengths)

    @cached_property
    def first_runs(self) -> np.ndarray:
        """(N,) the first run of each instance."""
        first = np.empty(self.count, dtype=np.int64)
        # Of several assignments to one element the last one stays.
        first[self.index[::-1]] = np.arange(len(self.index))[::-1]
        return first

    @cached_property
    def _offsets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row and sum of columns (R,) of each run, and their means (N,), all counted from the instance's first pixel:
        their sums are whole numbers, the same wherever the instance lies."""
        first = self.first_runs
        rows = (self.rows - self.rows[first][self.index]).astype(np.float64)
        columns = self.lengths * (self.columns - self.columns[first][self.index] + (self.lengths - 1) / 2)
        return rows, columns, self.sums(self.lengths * rows) / self.areas, self.sums(columns) / self.areas

    def centroids(self, top: int = 0) -> np.ndarray:
        """(N, 2) float64, x and y, where pixel (column i, row j) has its centre at (i + .5, j + .5); rows are counted
        from `top`."""
        first = self.first_runs
        *_, mean_rows, mean_columns = self._offsets
        rows = self.rows[first] + top
        return np.stack([self.columns[first] + mean_columns + 0.5, rows + mean_rows + 0.5], axis=1)

    def boxes(self, top: int = 0) -> np.ndarray:
        """(N, 4) int64, half-open x0, y0, x1, y1; rows are counted from `top`."""
        boxes = np.empty((self.count, 4), dtype=np.int64)
        boxes[:, 0] = self.shape[1]
        boxes[:, 2] = 0
        np.minimum.at(boxes[:, 0], self.index, self.columns)
        np.maximum.at(boxes[:, 2], self.index, self.columns + self.lengths)
        boxes[:, 1] = self.rows[self.first_runs] + top
        # Runs come in raster order, and of several assignments to one element the last one stays.
        boxes[self.index, 3] = self.rows + (top + 1)
        return boxes

    def covariance_determinants(self) -> np.ndarray:
        """(N,) determinant of the covariance of the pixels, which are squares of side 1."""
        rows, columns, mean_rows, mean_columns = self._offsets
        # The columns of a run scatter about their mean by (lengths^2 - 1) / 12.
        squares = columns * columns / self.lengths + self.lengths * (self.lengths * self.lengths - 1) / 12
        variance_x = self.sums(squares) / self.areas - mean_columns**2 + 1 / 12
        variance_y = self.sums(self.lengths * rows * rows) / self.areas - mean_rows**2 + 1 / 12
        covariance = self.sums(columns * rows) / self.areas - mean_columns * mean_rows
        determinants: np.ndarray = variance_x * variance_y - covariance**2
        return determinants


def large_instances(runs: LabelledRuns, minimum_area: int, shape: tuple[int, int]) -> InstanceRuns:
    """The instances of at least `minimum_area` pixels in an image of `shape`, in the order of their first pixels."""
    starts, ends, labels = runs
    areas = np.bincount(labels, ends - starts) if len(labels) else np.zeros(1)
    kept = (areas >= minimum_area)[labels]
    starts, ends, labels = starts[kept], ends[kept], labels[kept]
    first_run = np.full(len(areas), -1, dtype=np.int64)
    first_run[labels[::-1]] = np.arange(len(labels))[::-1]
    present = np.flatnonzero(first_run >= 0)
    index = np.zeros(len(areas), dtype=np.int64)
    index[present[np.argsort(first_run[present])]] = np.arange(len(present))
    return InstanceRuns(starts, ends, index[labels], len(present), shape)
