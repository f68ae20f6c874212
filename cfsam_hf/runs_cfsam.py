"""Horizontal runs of a mask: the compact form in which nuclei are found, measured and outlined.

A tile of a million pixels with a thousand nuclei has some fifteen thousand runs, so what can be said of runs
(connected regions, holes, areas, boxes, centroids, outlines) costs little beside one pass over the pixels.

All indices are flat indices into an image that is padded by one pixel of background on each side: neighbours always
exist and no run crosses a row's end. `width` is the padded width.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


def find_runs(values: np.ndarray, levels: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs of elements of at least 1, of at least 2, and so on, found in one pass.

    Args:
        values: (P,) uint8 from 0 to `levels`; the first and the last are 0.
        levels: how many lists of runs to make.

    Returns:
        For each level `starts` and `ends`, each (R,) int64, half-open, ascending.
    """
    changes = np.flatnonzero(values[1:] != values[:-1])
    changes += 1
    if levels == 1:
        return [(changes[0::2], changes[1::2])]
    following = values[changes]
    runs = []
    for level in range(1, levels + 1):
        inside = following >= level
        inside[1:] ^= inside[:-1].copy()
        ends = changes[np.flatnonzero(inside)]
        runs.append((ends[0::2], ends[1::2]))
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
    starts: np.ndarray, ends: np.ndarray, width: int, maximum_area: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of the holes of at most `maximum_area` pixels between given runs, at least one.

    A hole is a region of the background, 8-connected where the foreground is 4-connected, that does not reach the
    border and has no foreground inside it; hence a single foreground region surrounds it.

    Returns:
        `starts`, `ends` and the hole (a number of no further meaning) of each run, in raster order.
    """
    # The background's runs are the gaps. Those that pass a row's end hang together along the padding: the outside.
    margin = width + 1
    gap_starts = np.concatenate([[starts[0] - margin], ends])
    gap_ends = np.concatenate([starts, [ends[-1] + margin]])
    _, regions, touches = label_runs(gap_starts, gap_ends, width, diagonal=True)
    areas = np.bincount(regions, gap_ends - gap_starts)
    islands = np.bincount(regions, touches) - np.bincount(regions) + 1
    is_hole = (areas <= maximum_area) & (islands == 0)
    is_hole[regions[0]] = False
    chosen = np.flatnonzero(is_hole[regions])
    return gap_starts[chosen], gap_ends[chosen], regions[chosen]


def merge_pixels(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal label in a list of labelled pixels.

    Args:
        pixels: (P,) ascending flat indices, at least one.
        labels: (P,) label of each.

    Returns:
        `starts`, `ends` and `labels` of the runs, each (R,).
    """
    breaks = np.flatnonzero((pixels[1:] - pixels[:-1] != 1) | (labels[1:] != labels[:-1]))
    starts = pixels[np.concatenate([[0], breaks + 1])]
    lasts = np.concatenate([breaks, [len(pixels) - 1]])
    return starts, pixels[lasts] + 1, labels[lasts]


def run_summation(pixels: np.ndarray, lengths: np.ndarray, size: int) -> csr_array:
    """The matrix (R, size) float32 whose product with a flat map (size,) is the map's sum over each run.

    A sum is accumulated in its run's own order, so it is the same wherever the run lies.

    Args:
        pixels: the flat indices of all pixels of the runs, as `expand_runs` gives them.
        lengths: (R,) of the runs.
        size: number of elements of the maps.
    """
    # Indices of 32 bits, where they suffice, halve the memory to read.
    index_type = np.int32 if size <= np.iinfo(np.int32).max else np.int64
    row_pointer = np.zeros(len(lengths) + 1, dtype=index_type)
    np.cumsum(lengths, out=row_pointer[1:])
    ones = np.ones(len(pixels), dtype=np.float32)
    return csr_array((ones, pixels.astype(index_type), row_pointer), shape=(len(lengths), size))
