"""Distinguishes label maps from masks, class maps and damaged label maps by the pieces of each id."""

import numpy as np
from skimage.measure import label as connected_components

MOST_PIECES = 5
"""Label maps of public data sets have at most 3 pieces per id: nuclei that others cut through."""

LARGE_PIECE = 10
"""Pixels. Slips of the brush and crumbs at a cut are smaller."""

TORN_SHARE = 0.2
"""Share of ids with several large pieces above which the ids cannot be single nuclei; public data sets reach 0.022."""

FEWEST_TORN = 3
MASK_VALUE = 255
BACKGROUND_SHARE = 0.5
SMALLEST_TILE = 200 * 200
"""Pixels. Half of a smaller tile can be one nucleus."""

WAY_OUT = "In a label map each nucleus has its own id; assign ids (for a binary mask, with skimage.measure.label)"


def count_pieces(mask: np.ndarray) -> int:
    """Returns the number of 8-connected pieces of a mask `(H, W)`.

    >>> count_pieces(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]]))
    2
    """
    return int(connected_components(mask, background=0, connectivity=2).max(initial=0))


def label_map_fault(instance_map: np.ndarray) -> str | None:
    """Says why an array cannot be a label map; None if it may be one.

    Args:
        instance_map: `(H, W)` integers, 0 background.

    Example:

    >>> mask = np.zeros((20, 20), dtype=int)
    >>> mask[2:6, 2:6] = mask[2:6, 12:16] = mask[12:16, 2:6] = 255
    >>> label_map_fault(mask)[:43]
    'the only id, 255, lies in 3 separate pieces'
    """
    pieces = connected_components(instance_map, background=0, connectivity=2)
    count = int(pieces.max(initial=0))
    if count == 0:
        return None
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    ids_of_pieces = np.zeros(count + 1, dtype=np.int64)
    ids_of_pieces[pieces.ravel()] = instance_map.ravel()
    ids, owners = np.unique(ids_of_pieces[1:], return_inverse=True)
    numbers = np.bincount(owners)
    large = np.bincount(owners, weights=sizes >= LARGE_PIECE)
    torn = int((large > 1).sum())
    if len(ids) == 1 and (large[0] > 2 or (large[0] > 1 and ids[0] == MASK_VALUE)):
        return f"the only id, {ids[0]}, lies in {numbers[0]} separate pieces: is it a mask? {WAY_OUT}"
    most = int(numbers.argmax())
    if numbers[most] > MOST_PIECES:
        return (
            f"id {ids[most]} lies in {numbers[most]} separate pieces: is it a mask, a class map, or a label map "
            f"that JPEG or resampling has changed? {WAY_OUT}"
        )
    if (torn >= FEWEST_TORN and torn > TORN_SHARE * len(ids)) or torn == len(ids) > 1:
        return (
            f"{torn} of {len(ids)} ids lie in separate pieces: is it a class map, or were ids lost (8 bits hold "
            f"only 255)? {WAY_OUT}"
        )
    areas = np.bincount(owners, weights=sizes)
    if instance_map.size >= SMALLEST_TILE and areas.max() > BACKGROUND_SHARE * instance_map.size:
        share = areas.max() / instance_map.size
        return f"id {ids[areas.argmax()]} covers {share:.0%} of the tile: is it the background, which must be 0?"
    return None
