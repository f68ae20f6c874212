"""Aggregated Jaccard index, in its published form and with one-to-one pairing (AJI+)."""

import numpy as np

from .matching import best_pairs
from .overlap import OverlapTable, as_table


def aggregated_jaccard_index(true: np.ndarray | OverlapTable, pred: np.ndarray | None = None) -> float:
    """AJI: each true nucleus takes the prediction of highest IoU, and a prediction may be taken more than once.

    The summed intersections of these pairs are divided by their summed unions plus the areas of all nuclei left over.
    Among predictions of equal IoU the one with the larger intersection is taken.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.

    Returns:
        AJI in [0, 1]; NaN where neither map has a nucleus.

    References:
        Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for Computational Pathology",
        IEEE Transactions on Medical Imaging 36 (2017), algorithm 1; `get_fast_aji` of HoVer-Net.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> pred = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
        >>> aggregated_jaccard_index(true, pred)
        0.38461538461538464
    """
    table = as_table(true, pred)
    # Sorted by true nucleus and then best first, the first pair of each true nucleus is its choice.
    ranked = np.lexsort((table.pair_pred, -table.intersections, -table.ious, table.pair_true))
    first = np.diff(table.pair_true[ranked], prepend=-1) > 0
    return _aggregate(table, ranked[first])


def aggregated_jaccard_index_plus(true: np.ndarray | OverlapTable, pred: np.ndarray | None = None) -> float:
    """AJI+: as AJI, but the pairs are the one-to-one pairing with the largest summed IoU.

    A prediction that covers two nuclei is therefore penalised once, not twice.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.

    Returns:
        AJI+ in [0, 1]; NaN where neither map has a nucleus.

    References:
        Graham et al., "HoVer-Net", Medical Image Analysis 58 (2019); `get_fast_aji_plus` of its code.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> pred = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
        >>> aggregated_jaccard_index_plus(true, pred)
        0.5
    """
    table = as_table(true, pred)
    return _aggregate(table, best_pairs(table.pair_true, table.pair_pred, table.ious, table.num_true, table.num_pred))


def _aggregate(table: OverlapTable, pairs: np.ndarray) -> float:
    """Summed intersections of some pairs over their summed unions and the areas of all unpaired nuclei."""
    true_left = np.ones(table.num_true, bool)
    true_left[table.pair_true[pairs]] = False
    pred_left = np.ones(table.num_pred, bool)
    pred_left[table.pair_pred[pairs]] = False
    left_over = int(table.true_areas[true_left].sum() + table.pred_areas[pred_left].sum())
    union = int(table.unions[pairs].sum()) + left_over
    return int(table.intersections[pairs].sum()) / union if union else float("nan")
