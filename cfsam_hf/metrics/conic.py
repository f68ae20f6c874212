"""mPQ+ and R2, the two scores of the CoNIC challenge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .averages import defined_mean
from .typed_panoptic import TypedPanopticQuality


@dataclass(frozen=True)
class ConicQuality:
    """CoNIC's scores of a data set.

    Attributes:
        mpq_plus: mean over types of `type_pq_plus`, types absent from truth and prediction left out.
        type_pq_plus: PQ of types 1..T from counts pooled over all images; NaN for a type absent from both sides. (The
            challenge's code gives such a type 0; its data has every type.)
        r2: mean over types of `type_r2`.
        type_r2: coefficient of determination of the nuclei counted per image, for types 1..T.
    """

    mpq_plus: float
    type_pq_plus: tuple[float, ...]
    r2: float
    type_r2: tuple[float, ...]


def conic_quality(images: Sequence[TypedPanopticQuality]) -> ConicQuality:
    """mPQ+ and R2 from the counts of single images.

    Counting pools what averaging per image would not: a type's false alarms in images where it is absent do cost.
    For R2 the nuclei of each type are counted per image by the label maps; the challenge asked for counts in the
    central 224 x 224 pixels of its 256 x 256 patches, for which `count_r2` takes any counts.

    Args:
        images: `typed_panoptic_quality` of each image (not added up).

    Raises:
        ValueError: no images, or differing numbers of types.

    References:
        Graham et al., "CoNIC Challenge", Medical Image Analysis 92 (2024), section 3.3; its `metrics/stats_utils.py`.

    Example:
        >>> from cfsam_hf.metrics import PanopticQuality
        >>> first, second = PanopticQuality(2, 0, 0, 1.6), PanopticQuality(1, 1, 1, 0.8)
        >>> quality = conic_quality([TypedPanopticQuality(counts, (counts,)) for counts in (first, second)])
        >>> round(quality.mpq_plus, 3)
        0.6
    """
    if not len(images):
        raise ValueError("no images: mPQ+ and R2 need at least one")
    total = sum(images)
    type_pq = tuple(counts.pq for counts in total.types)
    true_counts = [[counts.num_true for counts in image.types] for image in images]
    pred_counts = [[counts.num_pred for counts in image.types] for image in images]
    type_r2 = count_r2(np.array(true_counts), np.array(pred_counts))
    return ConicQuality(defined_mean(type_pq), type_pq, defined_mean(type_r2), tuple(type_r2.tolist()))


def count_r2(true_counts: np.ndarray, pred_counts: np.ndarray) -> np.ndarray:
    """Coefficient of determination of counts per image, for each type: 1 - sum (t - p)^2 / sum (t - mean t)^2.

    Where all true counts of a type are equal it is 1 for exact predictions and else 0 (`r2_score` of scikit-learn).

    Args:
        true_counts: (N, T) true nuclei of each type in each image.
        pred_counts: (N, T) predicted ones.

    Returns:
        (T,) float64, at most 1 and possibly negative; NaN for fewer than two images.

    Raises:
        ValueError: shapes that are not (N, T) or differ.

    Example:
        >>> count_r2([[1, 5], [3, 5]], [[1, 5], [2, 5]]).tolist()
        [0.5, 1.0]
    """
    true_counts = np.asarray(true_counts, dtype=np.float64)
    pred_counts = np.asarray(pred_counts, dtype=np.float64)
    if true_counts.ndim != 2 or true_counts.shape != pred_counts.shape:
        raise ValueError(
            f"counts must be two (images, types) arrays of one shape, got {true_counts.shape} and {pred_counts.shape}"
        )
    if len(true_counts) < 2:
        return np.full(true_counts.shape[1], np.nan)
    residual = ((true_counts - pred_counts) ** 2).sum(axis=0)
    spread = ((true_counts - true_counts.mean(axis=0)) ** 2).sum(axis=0)
    constant = np.where(residual == 0, 1.0, 0.0)
    return np.where(spread > 0, 1 - residual / np.where(spread > 0, spread, 1), constant)
