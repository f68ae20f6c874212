"""Checks whether outlines have the size of nuclei, which reveals a wrong pixel size or coordinates in another unit."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

USUAL_DIAMETER = (4.0, 20.0)
"""Range in micrometres of the median diameter of nuclei in any tissue."""

SMALLEST_DIAMETER = 4.0
"""Pixels. A smaller median diameter is not that of nuclei at any pixel size that microscopes have."""

FEWEST_MEASURED = 10
"""Smallest number of nuclei for a meaningful median."""


def size_notes(tiles: Iterable[tuple[float | None, np.ndarray]]) -> list[str]:
    """Says what is unusual about the sizes of nuclei, one sentence for each pixel size.

    Args:
        tiles: for each tile its micrometres per pixel, None if unknown, and the areas of its nuclei in pixels.

    Example:

    >>> size_notes([(0.25, np.full(10, 400)), (None, np.full(20, 400))])
    []
    >>> size_notes([(0.25, np.full(10, 16))])[0][:72]
    'the median diameter of nuclei is 4.5 px, 1.1 um at 0.25 um per pixel, in'
    """
    by_mpp: dict[float | None, list[np.ndarray]] = defaultdict(list)
    for mpp, areas in tiles:
        by_mpp[mpp].append(areas)
    notes = []
    for mpp, parts in by_mpp.items():
        areas = np.concatenate(parts)
        if len(areas) < FEWEST_MEASURED:
            continue
        pixels = 2 * float(np.sqrt(np.median(areas) / np.pi))
        where = f"{len(parts):,} tile{'s' * (len(parts) != 1)}"
        if mpp is None:
            if pixels < SMALLEST_DIAMETER:
                notes.append(
                    f"the median diameter of nuclei is {pixels:.1f} px in {where}; are the coordinates micrometres "
                    "instead of pixels?"
                )
        elif not USUAL_DIAMETER[0] <= pixels * mpp <= USUAL_DIAMETER[1]:
            low, high = USUAL_DIAMETER
            notes.append(
                f"the median diameter of nuclei is {pixels:.1f} px, {pixels * mpp:.1f} um at {mpp:g} um per pixel, in "
                f"{where}; nuclei have {low:g} to {high:g} um: is mpp right, are the coordinates pixels, are the "
                "outlines nuclei?"
            )
    return notes
