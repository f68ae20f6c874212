"""Polygons as horizontal runs of pixels, many polygons in one vectorised pass."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..model.spans import expand_runs


class PolygonRuns(NamedTuple):
    """Runs of pixels, sorted by polygon, row and column.

    Attributes:
        rows: (R,) int64.
        starts, ends: (R,) int64, half-open columns.
        owners: (R,) int64, the number of the polygon.
    """

    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    owners: np.ndarray


def polygon_runs(polygons: Sequence[Sequence[np.ndarray]]) -> PolygonRuns:
    """The pixels whose centres lie inside polygons, by the even-odd rule.

    A polygon along the edges of pixels gives exactly its pixels.

    Args:
        polygons: of each the rings (K, 2) xy, the first point not repeated. The centre of pixel (column i, row j) is
            (i + .5, j + .5).
    """
    rings = [ring for of_polygon in polygons for ring in of_polygon]
    if not rings:
        empty = np.zeros(0, dtype=np.int64)
        return PolygonRuns(empty, empty, empty, empty)
    owners = np.repeat(np.arange(len(polygons)), [sum(map(len, of_polygon)) for of_polygon in polygons])
    first = np.concatenate(rings).astype(np.float64)  # (E, 2), where each edge begins
    second = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]).astype(np.float64)
    upward = first[:, 1] > second[:, 1]
    low, high = np.where(upward[:, None], second, first), np.where(upward[:, None], first, second)
    # An edge crosses the rows whose middles lie in [low, high): level edges none.
    top, bottom = (np.ceil(ends[:, 1] - 0.5).astype(np.int64) for ends in (low, high))
    crossing = np.flatnonzero(bottom > top)
    low, high, top, owners = low[crossing], high[crossing], top[crossing], owners[crossing]
    counts = bottom[crossing] - top
    rows = expand_runs(top, counts)
    slopes = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    edges = np.repeat(np.arange(len(top)), counts)
    columns = low[edges, 0] + (rows + 0.5 - low[edges, 1]) * slopes[edges]
    owners = owners[edges]
    order = np.lexsort((columns, rows, owners))
    # Crossings of a row come in pairs; a pixel belongs to the run if its middle lies right of the first.
    places = np.ceil(columns[order] - 0.5).astype(np.int64)
    starts, ends = places[::2], places[1::2]
    kept = np.flatnonzero(ends > starts)
    rows, owners = rows[order][::2][kept], owners[order][::2][kept]
    return PolygonRuns(rows, starts[kept], ends[kept], owners)
