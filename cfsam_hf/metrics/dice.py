"""Dice of the foreground, and Dice2 over overlapping pairs."""

import numpy as np

from .overlap import OverlapTable, as_table


def dice(true: np.ndarray | OverlapTable, pred: np.ndarray | None = None) -> float:
    """Dice coefficient of the foreground: 2 |A and B| / (|A| + |B|), ids ignored.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.

    Returns:
        Dice in [0, 1]; NaN where neither map has a nucleus.

    Example:
        >>> import numpy as np
        >>> dice(np.array([[1, 1, 0, 2]]), np.array([[3, 3, 3, 0]]))
        0.6666666666666666
    """
    table = as_table(true, pred)
    total = int(table.true_areas.sum() + table.pred_areas.sum())
    return 2 * int(table.intersections.sum()) / total if total else float("nan")


def dice2(true: np.ndarray | OverlapTable, pred: np.ndarray | None = None) -> float:
    """Dice2 (ensemble Dice): 2 sum |t and p| / sum (|t| + |p|), both sums over all overlapping pairs.

    Nuclei that overlap nothing do not count at all, and one that overlaps several counts several times: it rewards
    missing a nucleus over touching it. Use it to compare with papers that report it, not to choose a model.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.

    Returns:
        Dice2 in [0, 1]; 0 where nothing overlaps, NaN where neither map has a nucleus.

    References:
        Vu et al., "Methods for Segmentation and Classification of Digital Microscopy Tissue Images", Frontiers in
        Bioengineering and Biotechnology 7 (2019); `get_fast_dice_2` of HoVer-Net.

    Example:
        >>> import numpy as np
        >>> dice2(np.array([[1, 1, 0, 2]]), np.array([[3, 3, 3, 0]]))
        0.8
    """
    table = as_table(true, pred)
    if not table.num_true and not table.num_pred:
        return float("nan")
    total = int(table.true_areas[table.pair_true].sum() + table.pred_areas[table.pair_pred].sum())
    return 2 * int(table.intersections.sum()) / total if total else 0.0
