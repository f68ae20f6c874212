"""Outlines of all nuclei of a label map, along pixel edges, in one vectorised pass.

The outline of a nucleus encloses exactly its pixels, so polygon area and pixel count agree and rasterising the polygon
restores the nucleus. The method is this project's own: corners are read off the ends of horizontal runs, joined to
their successors by sorting along rows and columns, and ordered by pointer doubling; there is no loop over nuclei.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def nucleus_contours(instance_map: np.ndarray, boxes: np.ndarray) -> list[list[np.ndarray]]:
    """Closed rings of each nucleus, the exterior first, then its holes.

    Where two pixels of a nucleus touch only at a corner, the ring passes between the two background pixels there. As
    the nucleus is 4-connected, a loop inside it encloses one of those two, so they lie on different rings: no ring
    meets itself, and two rings meet in at most one point. So each nucleus is a valid polygon in the sense of the OGC
    simple features, and its area is the pixel count.

    Args:
        instance_map: (H, W) integers, 0 for background and ids 1..N, each id a 4-connected region.
        boxes: (N, 4), half-open x0, y0, x1, y1 of the nuclei; only their number is used.

    Returns:
        For each nucleus a list of rings, each (K, 2) int64, x and y in pixels, every second edge horizontal. The first
        point is not repeated and belongs to the ring's uppermost left edge. With y pointing down exteriors run
        clockwise and holes counter-clockwise: their signed areas (half the sum of x_i * y_(i+1) - x_(i+1) * y_i) add
        up to the pixel count.

    Raises:
        ValueError: the map is not two-dimensional, or has ids without a box.
    """
    instance_map = np.asarray(instance_map)
    if instance_map.ndim != 2 or not np.issubdtype(instance_map.dtype, np.integer):
        raise ValueError(f"instance_map is {instance_map.dtype} {instance_map.shape}: it must be (H, W) integers")
    count = len(boxes)
    height, width = instance_map.shape
    padded = np.zeros((height + 2, width + 2), dtype=np.int32)
    padded[1:-1, 1:-1] = instance_map
    labels = padded.reshape(-1)
    changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    run_labels = labels[changes]
    inside = np.flatnonzero(run_labels)
    ids, starts = run_labels[inside], changes[inside]
    if len(ids) and (ids.min() < 1 or ids.max() > count):
        raise ValueError(f"instance_map holds ids from {ids.min()} to {ids.max()}, but there are {count} boxes")
    contours: list[list[np.ndarray]] = [[] for _ in range(count)]
    if len(ids) == 0:
        return contours
    lasts = changes[inside + 1] - 1

    points, lengths, ring_ids = _rings(labels, width + 2, ids, starts, lasts)
    end = 0
    for ring_id, length in zip(ring_ids.tolist(), lengths.tolist(), strict=True):
        contours[ring_id - 1].append(points[end : end + length])
        end += length
    return contours


def split_polygons(rings: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The polygons of a nucleus that may lie in several pieces: each an exterior ring and the holes in it.

    Args:
        rings: (K, 2) closed rings that do not cross; exteriors have positive signed area, holes negative.
    """
    if len(rings) < 2:
        return [list(rings)] if len(rings) else []
    areas = [signed_area(ring) for ring in rings]
    order = sorted((n for n, area in enumerate(areas) if area >= 0), key=lambda n: areas[n])
    polygons = {exterior: [rings[exterior]] for exterior in sorted(order)}
    for number, ring in enumerate(rings):
        if areas[number] < 0:
            # The smallest piece around it: a piece may lie in the hole of another one.
            point = _point_inside(ring)
            owner = next((n for n in order if _encloses(rings[n], point)), order[-1] if order else None)
            if owner is not None:
                polygons[owner].append(ring)
    return list(polygons.values())


def signed_area(ring: np.ndarray) -> float:
    """Half the sum of x_i * y_(i+1) - x_(i+1) * y_i of a ring (K, 2)."""
    x, y = (ring - ring[:1]).T.astype(np.float64)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _point_inside(ring: np.ndarray) -> np.ndarray:
    """A point (2,) of the area of a ring near its first edge that has a length."""
    steps = np.roll(ring, -1, axis=0) - ring
    edge = int(np.abs(steps).sum(axis=1).argmax())
    middle, step = ring[edge] + steps[edge] / 2, steps[edge].astype(np.float64)
    across = np.array([-step[1], step[0]]) / np.hypot(*step) * 1e-3
    # The area lies on the side that the direction of the ring tells.
    inside: np.ndarray = middle + across * np.sign(signed_area(ring))
    return inside


def _encloses(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a point (2,) that is not on the ring lies within it, by the even-odd rule."""
    starts, ends = ring, np.roll(ring, -1, axis=0)
    crosses = (starts[:, 1] > point[1]) != (ends[:, 1] > point[1])
    (x0, y0), (x1, y1) = starts[crosses].T, ends[crosses].T
    return bool((x0 + (point[1] - y0) * (x1 - x0) / (y1 - y0) > point[0]).sum() % 2)


def _rings(
    labels: np.ndarray, width: int, ids: np.ndarray, starts: np.ndarray, lasts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All points (K, 2), the number of points of each ring, and the ring's id, from the runs of the padded map.

    Clockwise, a ring goes up along left edges and down along right edges. Each corner ends a vertical edge, so all
    corners are found at the four vertices of the runs' first and last pixels: where the pixel diagonally outside has
    the same id the ring turns towards it (concave), else it turns around this pixel (convex) unless the edge
    continues.
    """
    left_top = _corners(labels, ids, starts, -width, -1)
    left_bottom = _corners(labels, ids, starts, width, -1)
    right_top = _corners(labels, ids, lasts, -width, 1)
    right_bottom = _corners(labels, ids, lasts, width, 1)
    # The vertex of a corner is stored as the flat index of the pixel below and right of it.
    vertices = [
        starts[left_top.run],
        starts[left_bottom.run] + width,
        lasts[right_top.run] + 1,
        lasts[right_bottom.run] + 1 + width,
    ]
    a, b, c, d = (len(v) for v in vertices)
    # A ring leaves left-top and right-bottom corners along a horizontal edge and arrives at the other two kinds.
    leaving = np.concatenate([vertices[0], vertices[3]])
    arriving = np.concatenate([vertices[1], vertices[2]])
    leaves_top = np.concatenate([left_top.convex, ~right_bottom.convex])
    arrives_top = np.concatenate([~left_bottom.convex, right_top.convex])

    # Edges of one kind on one grid line are disjoint: the k-th beginning belongs to the k-th end.
    arrival = np.empty(a + d, dtype=np.int64)
    for kind in (True, False):
        begin, finish = np.flatnonzero(leaves_top == kind), np.flatnonzero(arrives_top == kind)
        begin = begin[np.argsort(leaving[begin], kind="stable")]
        finish = finish[np.argsort(arriving[finish], kind="stable")]
        arrival[begin] = finish
    departure = np.empty(b + c, dtype=np.int64)
    departure[_by_column(vertices[1], width)] = _by_column(vertices[0], width)
    departure[b + _by_column(vertices[2], width)] = a + _by_column(vertices[3], width)

    leader, rank, length = _order_cycles(departure[arrival])
    leaders = np.flatnonzero(leader == np.arange(a + d))
    # Leaders are left-top corners in raster order, so a nucleus's exterior comes before its holes.
    ring_ids = ids[left_top.run[leaders]]
    order = np.argsort(ring_ids, kind="stable")
    leaders, ring_ids = leaders[order], ring_ids[order]
    lengths = length[leaders]
    first = np.empty(a + d, dtype=np.int64)
    first[leaders] = np.cumsum(lengths) - lengths
    place = first[leader] + rank
    ordered = np.empty((a + d, 2), dtype=np.int64)
    ordered[place, 0] = leaving
    ordered[place, 1] = arriving[arrival]
    rows, columns = np.divmod(ordered.reshape(-1), width)
    return np.stack([columns - 1, rows - 1], axis=1), 2 * lengths, ring_ids


class _Corners(NamedTuple):
    """Corners at one of the four vertices of the runs' end pixels: the run of each and whether it is convex."""

    run: np.ndarray
    convex: np.ndarray


def _corners(labels: np.ndarray, ids: np.ndarray, pixels: np.ndarray, beyond: int, outward: int) -> _Corners:
    concave = labels[pixels + (beyond + outward)] == ids
    run = np.flatnonzero(concave | (labels[pixels + beyond] != ids))
    return _Corners(run, ~concave[run])


def _by_column(vertices: np.ndarray, width: int) -> np.ndarray:
    """Order of the vertices by column, then row."""
    rows, columns = np.divmod(vertices, width)
    return np.argsort(columns * (vertices[-1] // width + 1) + rows) if len(vertices) else vertices


def _order_cycles(successor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each element of a permutation: the smallest of its cycle, the steps from there, and the cycle length."""
    elements = np.arange(len(successor))
    leader, pointer = elements, successor
    while True:
        smaller = np.minimum(leader, leader[pointer])
        if np.array_equal(smaller, leader):
            break
        leader, pointer = smaller, pointer[pointer]
    last = leader == successor
    pointer = np.where(last, elements, successor)
    remaining = (~last).astype(np.int64)
    while True:
        further = pointer[pointer]
        if np.array_equal(further, pointer):
            break
        remaining += remaining[pointer]
        pointer = further
    length = remaining[leader] + 1
    return leader, length - 1 - remaining, length
