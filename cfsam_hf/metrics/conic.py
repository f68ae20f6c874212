"""mPQ+ and R2, the two scores of the CoNIC challenge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from .averages import first_values, ratio, row_means, weighted_sums, weighted_totals
from .panoptic import panoptic_scores
from .typed_panoptic import TypedPanopticQuality

Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class ConicQuality(Generic[Value]):
    """CoNIC's scores of a data set as numbers, or of R data sets as arrays (R,).

    Attributes:
        mpq_plus: mean over types of `type_pq_plus`, types absent from truth and prediction left out.
        type_pq_plus: PQ of types 1..T from counts pooled over all images; NaN for a type absent from both sides. (The
            challenge's code gives such a type 0; its data has every type.)
        r2: mean over types of `type_r2`.
        type_r2: coefficient of determination of the nuclei counted per image, for types 1..T.
    """

    mpq_plus: Value
    type_pq_plus: tuple[Value, ...]
    r2: Value
    type_r2: tuple[Value, ...]


def conic_quality(images: Sequence[TypedPanopticQuality]) -> ConicQuality[float]:
    """mPQ+ and R2 from the counts of single images.

    Pooling counts what averaging per image leaves out: false alarms of a type in images where it is absent.
    For R2 the nuclei of each type are counted per image in the label maps; the challenge asked for counts in the
    central 224 x 224 pixels of its 256 x 256 patches, for which `count_r2` accepts any counts.

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
    quality: ConicQuality[float] = first_values(weighted_conic_quality(images, np.ones((1, len(images)))))
    return quality


def weighted_conic_quality(images: Sequence[TypedPanopticQuality], weights: np.ndarray) -> ConicQuality[np.ndarray]:
    """As `conic_quality`, of R data sets that hold the N images as often as weights (R, N) say.

    Example:
        >>> from cfsam_hf.metrics import PanopticQuality
        >>> image = TypedPanopticQuality(PanopticQuality(2, 0, 0, 1.6), (PanopticQuality(2, 0, 0, 1.6),))
        >>> weighted_conic_quality([image, image], np.array([[1, 1], [2, 0]])).mpq_plus.tolist()
        [0.8, 0.8]
    """
    if not len(images):
        raise ValueError("no images: mPQ+ and R2 need at least one")
    if len({len(image.types) for image in images}) > 1:
        raise ValueError("images were scored with differing numbers of types; score all with one num_types")
    types = list(zip(*(image.types for image in images), strict=True))
    type_pq = tuple(panoptic_scores(*weighted_totals(weights, counts))[2] for counts in types)
    true_counts = [[counts.num_true for counts in image.types] for image in images]
    pred_counts = [[counts.num_pred for counts in image.types] for image in images]
    type_r2 = count_r2(true_counts, pred_counts, weights)
    return ConicQuality(row_means(np.stack(type_pq, axis=1)), type_pq, row_means(type_r2), tuple(type_r2.T))


def count_r2(true_counts: Any, pred_counts: Any, weights: np.ndarray | None = None) -> np.ndarray:
    """Coefficient of determination of counts per image, for each type: 1 - sum (t - p)^2 / sum (t - mean t)^2.

    Where all true counts of a type are equal it is 1 for exact predictions and else 0 (`r2_score` of scikit-learn).

    Args:
        true_counts: (N, T) true nuclei of each type in each image.
        pred_counts: (N, T) predicted ones.
        weights: (R, N), how often each of R data sets holds each image; by default there is one that holds each once.

    Returns:
        (T,) float64, or (R, T) with weights; at most 1 and possibly negative; NaN for fewer than two images.

    Raises:
        ValueError: shapes that are not (N, T) or differ.

    Example:
        >>> count_r2([[1, 5], [3, 5]], [[1, 5], [2, 5]]).tolist()
        [0.5, 1.0]
    """
    true_counts, pred_counts = np.asarray(true_counts), np.asarray(pred_counts)
    if true_counts.ndim != 2 or true_counts.shape != pred_counts.shape:
        raise ValueError(
            f"counts must be two (images, types) arrays of one shape, got {true_counts.shape} and {pred_counts.shape}"
        )
    rows = np.ones((1, len(true_counts))) if weights is None else weights
    number = rows.sum(axis=1)[:, None]
    # Both sums times the number of images: whole numbers, so that equal counts have no spread at all.
    residual = number * weighted_sums(rows, (true_counts - pred_counts) ** 2)
    spread = number * weighted_sums(rows, true_counts**2) - weighted_sums(rows, true_counts) ** 2
    constant = np.where(residual == 0, 1.0, 0.0)
    r2 = np.where(number < 2, np.nan, np.where(spread > 0, 1 - ratio(residual, spread), constant))
    return r2[0] if weights is None else r2
