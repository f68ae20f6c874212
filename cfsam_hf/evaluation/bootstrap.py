"""Bootstrap confidence intervals over images, of pooled scores too, in one matrix product.

Every score of a data set is a function of sums over its images: of counts where it is pooled, of values and of how
many are defined where it is a mean. So a resample needs no image again: how often it drew each image, times the table
of what each image adds to the sums, gives the sums, and these the scores.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..metrics import ImageMetrics

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_intervals(
    images: Sequence[ImageMetrics],
    *,
    tissues: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the scores of [`cfsam_hf.metrics.summarize`], images drawn with replacement.

    They tell how the score would move with other images of the same kind. Of a handful of images they are too narrow,
    as any bootstrap is.

    Args:
        images: metrics of each image; types were compared in all of them or in none.
        tissues: tissue of each image, for the means over tissues; or None.
        type_names: names of the types 1..T; by default the numbers.
        resamples: data sets drawn.
        confidence: share of them that the interval holds.
        seed: of the draws.

    Returns:
        (low, high) by the name of the score. NaN for a score that no resample defines, and for fewer than two images.

    Raises:
        ValueError: no images, or a number out of range.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    if not len(images):
        raise ValueError("no images to resample; score at least one")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples must be positive and confidence in (0, 1), got {resamples} and {confidence}")
    count = len(images)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    scores = weighted_scores(images, drawn, tissues=tissues, type_names=type_names)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    intervals = {}
    for name, values in scores.items():
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, tails) if len(values) and count > 1 else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def weighted_scores(
    images: Sequence[ImageMetrics],
    weights: np.ndarray,
    *,
    tissues: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """The scores of data sets that hold each image so many times.

    Args:
        images, tissues, type_names: as in [`bootstrap_intervals`].
        weights: (R, N) how often each of R data sets holds each of the N images.

    Returns:
        (R,) float64 by the name of the score; with weights of 1 what [`cfsam_hf.metrics.summarize`] gives, without
        the counts and the single tissues.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = partial(_total, weights)
    mean = partial(_weighted_mean, weights)
    per_image = {
        "dice": [image.dice for image in images],
        "dice2": [image.dice2 for image in images],
        "aji": [image.aji for image in images],
        "aji_plus": [image.aji_plus for image in images],
        "dq": [image.panoptic.dq for image in images],
        "sq": [image.panoptic.sq for image in images],
        "pq": [image.panoptic.pq for image in images],
        "boundary_f1": [image.boundary.f1 for image in images],
    }
    scores = {f"{name}_mean_over_images": mean(values) for name, values in per_image.items()}
    scores["dq_pooled"], scores["sq_pooled"], scores["pq_pooled"] = _panoptic(
        total([_panoptic_counts(image.panoptic) for image in images])
    )
    boundaries = [image.boundary for image in images]
    scores["boundary_f1_pooled"] = _boundary_f1(
        total([[b.pred_near, b.pred_total, b.true_near, b.true_total] for b in boundaries])
    )
    scores |= _detection(images, total, type_names)
    scores |= _pannuke(images, weights, tissues)
    if all(image.typed is not None for image in images):
        scores |= _typed(images, total, mean, weights, type_names)
    if all(image.calibration is not None for image in images):
        gaps = np.abs(total([image.calibration.score_sums - image.calibration.matched for image in images]))
        scores["score_ece_pooled"] = _ratio(gaps.sum(axis=1), total([i.calibration.counts.sum() for i in images]))
    return scores


def _detection(images, total, type_names) -> dict[str, np.ndarray]:
    counts = [image.detection for image in images]
    pairs = total([c.pairs for c in counts])  # (R, T + 1, T + 1)
    missed, spurious = total([c.missed for c in counts]), total([c.spurious for c in counts])
    compared, false_positives = pairs.sum(axis=(1, 2)), spurious.sum(axis=1)
    hits = compared + total([c.unknown_paired for c in counts])
    false_negatives = missed.sum(axis=1) + total([c.unknown_missed for c in counts])
    scores = {
        "detection_f1_pooled": _ratio(2 * hits, 2 * hits + false_positives + false_negatives),
        "detection_precision_pooled": _ratio(hits, hits + false_positives),
        "detection_recall_pooled": _ratio(hits, hits + false_negatives),
    }
    if not counts[0].num_types:
        return scores
    right = np.diagonal(pairs, axis1=1, axis2=2)  # (R, T + 1)
    given, denied = pairs.sum(axis=1) - right, pairs.sum(axis=2) - right
    by_type = {
        "f1": _ratio(2 * right, 2 * right + 2 * given + 2 * denied + missed + spurious),
        "precision": _ratio(right, right + 2 * given + spurious),
        "recall": _ratio(right, right + 2 * denied + missed),
    }
    scores["type_accuracy_pooled"] = _ratio(right.sum(axis=1), compared)
    scores["type_f1_pooled_mean_over_types"] = _mean_of_defined(by_type["f1"][:, 1:])
    for what, values in by_type.items():
        scores |= _by_type(f"type_{what}_pooled", values[:, 1:], type_names)
    return scores


def _pannuke(images, weights, tissues) -> dict[str, np.ndarray]:
    """bPQ and mPQ: what an image's truth does not hold has no score there."""
    per_image = {"bpq": [_where_true(i.panoptic if i.typed is None else i.typed.nuclei) for i in images]}
    if all(image.typed is not None for image in images):
        types = np.array([[_where_true(counts) for counts in image.typed.types] for image in images])
        per_image["mpq"] = _mean_of_defined(types)
    scores = {f"{name}_mean_over_images": _weighted_mean(weights, values) for name, values in per_image.items()}
    if tissues is not None:
        tissue_of = np.asarray(tissues)
        for name, values in per_image.items():
            of_tissue = [
                _weighted_mean(weights[:, tissue_of == tissue], np.asarray(values)[tissue_of == tissue])
                for tissue in dict.fromkeys(tissues)
            ]
            scores[f"{name}_mean_over_tissues"] = _mean_of_defined(np.stack(of_tissue, axis=1))
    return scores


def _typed(images, total, mean, weights, type_names) -> dict[str, np.ndarray]:
    counts = np.array([[_panoptic_counts(of_type) for of_type in image.typed.types] for image in images])  # (N, T, 4)
    pooled = _panoptic(total(counts))[2]
    true, pred = counts[..., 0] + counts[..., 2], counts[..., 0] + counts[..., 1]  # (N, T)
    number = weights.sum(axis=1)[:, None]
    residual, spread = total((true - pred) ** 2), total(true**2) - total(true) ** 2 / number
    # Whole numbers: what should be no spread may be a rounding error.
    varies = spread > 1e-6
    r2 = np.where(varies, 1 - residual / np.where(varies, spread, 1), np.where(residual == 0, 1.0, 0.0))
    r2[number[:, 0] < 2] = np.nan
    means = [mean([_where_true(image.typed.types[t]) for image in images]) for t in range(counts.shape[1])]
    return {
        "mpq_plus_pooled": _mean_of_defined(pooled),
        "r2_mean_over_types": _mean_of_defined(r2),
        **_by_type("type_pq_mean_over_images", np.stack(means, axis=1), type_names),
        **_by_type("type_pq_pooled", pooled, type_names),
        **_by_type("type_r2", r2, type_names),
    }


def _by_type(key, values, type_names) -> dict[str, np.ndarray]:
    names = type_names or range(1, values.shape[1] + 1)
    return {f"{key}/{name}": column for name, column in zip(names, values.T, strict=True)}


def _total(weights, values) -> np.ndarray:
    """(R, ...) sums over the images, of values (N, ...)."""
    return np.tensordot(weights, np.asarray(values, dtype=np.float64), axes=1)


def _weighted_mean(weights, values) -> np.ndarray:
    """(R,) means of the values (N,) that are defined."""
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    return _ratio(weights[:, defined] @ values[defined], weights[:, defined].sum(axis=1))


def _mean_of_defined(values) -> np.ndarray:
    """(R,) means over the columns that are defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _ratio(numerator, denominator) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def _panoptic_counts(counts) -> tuple[float, float, float, float]:
    return counts.true_positives, counts.false_positives, counts.false_negatives, counts.iou_sum


def _panoptic(sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DQ, SQ and PQ (...) from sums (..., 4)."""
    hits, false_positives, false_negatives, ious = np.moveaxis(sums, -1, 0)
    dq = _ratio(2 * hits, 2 * hits + false_positives + false_negatives)
    # Without a pair SQ is 0 where there are nuclei, and DQ, and with it PQ, is undefined where there are none.
    sq = np.where(np.isnan(dq), np.nan, np.where(hits > 0, ious / np.where(hits > 0, hits, 1), 0))
    return dq, sq, dq * sq


def _boundary_f1(sums) -> np.ndarray:
    pred_near, pred_total, true_near, true_total = sums.T
    precision, recall = (_ratio(near, total) for near, total in ((pred_near, pred_total), (true_near, true_total)))
    both = (pred_near > 0) & (true_near > 0)
    f1 = _ratio(2 * np.where(both, precision * recall, 0), np.where(both, precision + recall, 1))
    return np.where((pred_total == 0) & (true_total == 0), np.nan, f1)


def _where_true(counts) -> float:
    return counts.pq if counts.num_true else float("nan")
