"""Separates features of several polygons: most hold several nuclei, some hold one nucleus in pieces."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree
from skimage.measure import points_in_poly

from ..polygons import Polygon

TORN_PARTS = 3
"""A feature with more separate polygons is a group of nuclei, as CellViT writes per class and QuPath after merging."""

TORN_GAP = 2.0
"""Largest gap in pixels between the parts of one nucleus."""

TOUCHING = 1.0
"""Pixels. Outlines along pixel edges that are nearer than this share an edge or a corner, or overlap."""

AT_BORDER = 1.0


def separate_nuclei(
    polygons: Sequence[Polygon], size: tuple[int, int] | None = None, whole: bool = False
) -> list[tuple[Polygon, ...]]:
    """Groups the polygons of a feature into nuclei.

    Polygons that touch belong together. So do two or three polygons that are at most `TORN_GAP` apart, or that the
    border of the image has cut from one nucleus.

    Args:
        polygons: of one feature.
        size: (height, width) of the image in pixels, None if unknown.
        whole: whether the feature is one nucleus regardless of its parts, as in cells.

    Returns:
        The polygons of each nucleus, in the order of their first ones.

    Example:

    >>> square = np.array([(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)])
    >>> [len(nucleus) for nucleus in separate_nuclei([(square,), (square + 4,), (square + 20,)])]
    [2, 1]
    """
    if whole or len(polygons) < 2:
        return [tuple(polygons)]
    torn = len(polygons) <= TORN_PARTS
    owner = list(range(len(polygons)))
    gap = TORN_GAP if torn else TOUCHING
    for first, second in _near_boxes(polygons, gap):
        apart = _root(owner, first) != _root(owner, second)
        if apart and _are_near(polygons[first][0], polygons[second][0], gap):
            owner[_root(owner, second)] = _root(owner, first)
    if torn and size is not None:
        for first in range(len(polygons)):
            for second in range(first + 1, len(polygons)):
                if _cut_by_border(polygons[first][0], polygons[second][0], size):
                    owner[_root(owner, second)] = _root(owner, first)
    groups: dict[int, list[Polygon]] = {}
    for position, polygon in enumerate(polygons):
        groups.setdefault(_root(owner, position), []).append(polygon)
    return [tuple(group) for group in groups.values()]


def _root(owner: list[int], position: int) -> int:
    while owner[position] != position:
        owner[position] = owner[owner[position]]
        position = owner[position]
    return position


def _near_boxes(polygons: Sequence[Polygon], gap: float) -> list[tuple[int, int]]:
    """Pairs of polygons whose boxes are not farther apart than `gap`."""
    low = np.array([polygon[0].min(axis=0) for polygon in polygons])
    high = np.array([polygon[0].max(axis=0) for polygon in polygons])
    order = np.argsort(low[:, 0], kind="stable")
    starts = low[order, 0]
    pairs = []
    for place, position in enumerate(order.tolist()):
        stop = int(np.searchsorted(starts, high[position, 0] + gap, side="right"))
        others = order[place + 1 : stop]
        near = (low[others, 1] <= high[position, 1] + gap) & (high[others, 1] + gap >= low[position, 1])
        pairs += [(min(position, other), max(position, other)) for other in others[near].tolist()]
    return sorted(pairs)


def _are_near(first: np.ndarray, second: np.ndarray, gap: float) -> bool:
    """Whether two rings are no farther apart than `gap` pixels, to half a pixel, or one lies within the other."""
    # Only what lies near the other's box matters: the rest may be large.
    points = [_dense(ring, other, gap) for ring, other in ((first, second), (second, first))]
    if min(map(len, points)) and np.min(cKDTree(points[0]).query(points[1], k=1)[0]) <= gap:
        return True
    return bool(points_in_poly(second[:1], first)[0] or points_in_poly(first[:1], second)[0])


def _dense(ring: np.ndarray, other: np.ndarray, gap: float) -> np.ndarray:
    """Points along a ring at most half a pixel apart, of the part near the box of another ring."""
    low, high = other.min(axis=0) - gap - 1, other.max(axis=0) + gap + 1
    starts, ends = ring, np.roll(ring, -1, axis=0)
    near = ((np.maximum(starts, ends) >= low) & (np.minimum(starts, ends) <= high)).all(axis=1)
    starts, ends = starts[near], ends[near]
    # The part of a segment inside the box is at most as long as the box.
    reach = float((high - low).sum())
    lengths = np.abs(ends - starts).sum(axis=1)
    parts = [
        start + (end - start) * np.linspace(0, 1, 2 + int(2 * min(length, 4 * reach)))[:, None]
        for start, end, length in zip(starts, ends, lengths.tolist(), strict=True)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 2))


def _cut_by_border(first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether both reach the same border of the image, with a gap shorter than the smaller one's length there."""
    for axis, extent in ((0, size[1]), (1, size[0])):
        along = 1 - axis
        for near in (
            [ring[:, axis].min() <= AT_BORDER for ring in (first, second)],
            [ring[:, axis].max() >= extent - AT_BORDER for ring in (first, second)],
        ):
            if all(near):
                gap = max(first[:, along].min(), second[:, along].min()) - min(
                    first[:, along].max(), second[:, along].max()
                )
                return bool(gap <= min(np.ptp(first[:, along]), np.ptp(second[:, along])))
    return False
