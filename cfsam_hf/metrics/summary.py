"""Every metric of one image from one overlap table, and the table of a data set with each average named.

Every score of a data set is a function of sums over its images: of counts if it is pooled, of values and the number of
defined ones if it is a mean. One table therefore serves a data set and its resamples, which hold each image a given
number of times.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .averages import row_means, weighted_means, weighted_sums, weighted_totals
from .boundary import BoundaryCounts, boundary_counts, boundary_scores
from .calibration import CalibrationCounts, calibration_errors, score_calibration_counts
from .conic import weighted_conic_quality
from .detection import DetectionCounts, detection_counts, detection_scores, type_accuracies, type_scores
from .dice import dice, dice2
from .jaccard import aggregated_jaccard_index, aggregated_jaccard_index_plus
from .nucleus_types import NucleusTypes, table_types
from .overlap import overlap_table
from .pannuke import PanNukeQuality, weighted_pannuke_quality
from .panoptic import PanopticQuality, panoptic_quality, panoptic_scores
from .typed_panoptic import TypedPanopticQuality, typed_panoptic_quality

COUNTS = ("images", "true_nuclei", "pred_nuclei", "true_nuclei_without_type")
"""What is counted in the table of a data set; everything else in it is a score."""


@dataclass(frozen=True, eq=False)
class ImageMetrics:
    """All metrics of one image. Scores are NaN where the image does not define them.

    Attributes:
        dice, dice2, aji, aji_plus: scores of the image.
        panoptic: counts of all nuclei, types ignored; `panoptic.pq` is the image's PQ.
        boundary: boundary pixels near each other.
        detection: pairs of centroids, by type where types were given.
        typed: panoptic counts by type, or None without types.
        calibration: scores and outcomes, or None without scores.
    """

    dice: float
    dice2: float
    aji: float
    aji_plus: float
    panoptic: PanopticQuality
    boundary: BoundaryCounts
    detection: DetectionCounts
    typed: TypedPanopticQuality | None = None
    calibration: CalibrationCounts | None = None


def image_metrics(
    true: np.ndarray,
    pred: np.ndarray,
    *,
    true_types: NucleusTypes | None = None,
    pred_types: NucleusTypes | None = None,
    num_types: int = 0,
    pred_scores: Mapping[int, float] | Sequence[float] | np.ndarray | None = None,
    radius: float = 12.0,
    pairing: str = "hovernet",
    boundary_tolerance: float = 2.0,
) -> ImageMetrics:
    """Scores one image with every metric, from one pass over its label maps.

    Args:
        true: (H, W) integer label map, 0 background.
        pred: (H, W) integer label map of the same shape.
        true_types: types of the true nuclei: {id: type}, or (N,) with the type of id i + 1 at i, or an (H, W) type
            map, with `UNKNOWN_TYPE` where a type is unknown; None where types are not compared.
        pred_types: types of the predicted nuclei, likewise.
        num_types: T, needed with types.
        pred_scores: scores of the predicted nuclei in [0, 1]: {id: score}, or (N,) with the score of id i + 1 at i.
        radius: pixels within which centroids pair (`detection_radius`).
        pairing: how centroids pair (`pair_centroids`).
        boundary_tolerance: pixels within which boundaries agree.

    Raises:
        TypeError: wrong kinds of arrays, or types of one side only.
        ValueError: wrong shapes, an id without a type or a score, a type out of range.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> metrics = image_metrics(true, true, true_types=[1, 2], pred_types=[1, 2], num_types=2)
        >>> metrics.aji, metrics.panoptic.pq, metrics.detection.type_f1.tolist()
        (1.0, 1.0, [1.0, 1.0])
    """
    if (true_types is None) != (pred_types is None):
        raise TypeError("give both true_types and pred_types, or neither")
    table = overlap_table(true, pred)
    typed = None
    if true_types is not None and pred_types is not None:
        # By id from here on, so that a type map is read once.
        maps = (np.asarray(true), np.asarray(pred))
        true_rows, pred_rows = table_types(table, maps, true_types, pred_types, num_types)
        true_types = dict(zip(table.true_ids.tolist(), true_rows.tolist(), strict=True))
        pred_types = dict(zip(table.pred_ids.tolist(), pred_rows.tolist(), strict=True))
        typed = typed_panoptic_quality(table, true_types=true_types, pred_types=pred_types, num_types=num_types)
    return ImageMetrics(
        dice=dice(table),
        dice2=dice2(table),
        aji=aggregated_jaccard_index(table),
        aji_plus=aggregated_jaccard_index_plus(table),
        panoptic=panoptic_quality(table),
        boundary=boundary_counts(true, pred, tolerance=boundary_tolerance),
        detection=detection_counts(
            table,
            true_types=true_types,
            pred_types=pred_types,
            num_types=num_types,
            radius=radius,
            pairing=pairing,
        ),
        typed=typed,
        calibration=None if pred_scores is None else score_calibration_counts(table, scores=pred_scores),
    )


def summarize(
    images: Sequence[ImageMetrics],
    *,
    tissues: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """The scores of a data set, each named by how it was averaged.

    `..._mean_over_images` is the mean of the images' scores (images that do not define one left out; HoVer-Net's
    custom for Dice, AJI and PQ), `..._pooled` comes from counts added over all images (detection and CoNIC's mPQ+),
    `..._mean_over_tissues` is PanNuke's. Types appear by name after a slash.

    Args:
        images: `image_metrics` of each image.
        tissues: tissue of each image, for PanNuke's averages; or None.
        type_names: names of types 1..T; by default the numbers.

    Returns:
        Name to value; NaN where a score is undefined. mPQ and CoNIC's scores appear only if every image has types,
        calibration only if every image has scores. Without types bPQ counts all nuclei. With types
        `true_nuclei_without_type` is the number of true nuclei that no score of types counts, their type being
        unknown.

    Raises:
        ValueError: no images, or a wrong number of tissues or type names.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> table = summarize([image_metrics(true, true), image_metrics(true, true * 0)])
        >>> table["pq_mean_over_images"], round(table["pq_pooled"], 3), round(table["detection_f1_pooled"], 3)
        (0.5, 0.667, 0.667)
    """
    scores = weighted_scores(images, np.ones((1, len(images))), tissues=tissues, type_names=type_names)
    return {name: int(values[0]) if name in COUNTS else float(values[0]) for name, values in scores.items()}


def weighted_scores(
    images: Sequence[ImageMetrics],
    weights: np.ndarray,
    *,
    tissues: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """The scores of R data sets that hold each of N images a given number of times.

    Args:
        images, tissues, type_names: as in `summarize`.
        weights: (R, N) how often each data set holds each image.

    Returns:
        (R,) float64 by the names that `summarize` gives them.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> images = [image_metrics(true, true), image_metrics(true, true * 0)]
        >>> weighted_scores(images, np.array([[1, 1], [3, 1]]))["pq_mean_over_images"].tolist()
        [0.5, 0.75]
    """
    if not len(images):
        raise ValueError("no images to summarize; score at least one with image_metrics")
    if tissues is not None and len(tissues) != len(images):
        raise ValueError(f"{len(images)} images but {len(tissues)} tissues; give one tissue per image")
    weights = np.asarray(weights, dtype=np.float64)
    panoptic = [image.panoptic for image in images]
    boundary = [image.boundary for image in images]

    def mean(values: Iterable[float]) -> np.ndarray:
        return weighted_means(weights, list(values))

    dq, sq, pq = panoptic_scores(*weighted_totals(weights, panoptic))
    table = {
        "images": weights.sum(axis=1),
        "true_nuclei": weighted_sums(weights, [counts.num_true for counts in panoptic]),
        "pred_nuclei": weighted_sums(weights, [counts.num_pred for counts in panoptic]),
        "dice_mean_over_images": mean(image.dice for image in images),
        "dice2_mean_over_images": mean(image.dice2 for image in images),
        "aji_mean_over_images": mean(image.aji for image in images),
        "aji_plus_mean_over_images": mean(image.aji_plus for image in images),
        "dq_mean_over_images": mean(counts.dq for counts in panoptic),
        "sq_mean_over_images": mean(counts.sq for counts in panoptic),
        "pq_mean_over_images": mean(counts.pq for counts in panoptic),
        "dq_pooled": dq,
        "sq_pooled": sq,
        "pq_pooled": pq,
        "boundary_f1_mean_over_images": mean(counts.f1 for counts in boundary),
        "boundary_f1_pooled": boundary_scores(*weighted_totals(weights, boundary))[0],
    }
    table |= _detection([image.detection for image in images], weights, type_names)
    typed = [image.typed for image in images if image.typed is not None]
    if len(typed) == len(images):
        table |= _typed(typed, weights, tissues, type_names)
    else:
        untyped = [TypedPanopticQuality(counts, ()) for counts in panoptic]
        quality = weighted_pannuke_quality(untyped, weights, tissues)
        table |= {"bpq_mean_over_images": quality.bpq_over_images} | _tissues(quality, ("bpq",))
    calibration = [image.calibration for image in images if image.calibration is not None]
    if len(calibration) == len(images):
        table["score_ece_pooled"] = calibration_errors(*weighted_totals(weights, calibration))
    return table


def _detection(
    images: Sequence[DetectionCounts], weights: np.ndarray, type_names: Sequence[str] | None
) -> dict[str, np.ndarray]:
    num_types = max(counts.num_types for counts in images)
    totals = weighted_totals(weights, [counts.padded(num_types) for counts in images])
    pairs, missed, spurious, unknown_paired, unknown_missed = totals
    f1, precision, recall = detection_scores(
        pairs.sum(axis=(1, 2)) + unknown_paired, spurious.sum(axis=1), missed.sum(axis=1) + unknown_missed
    )
    table = {"detection_f1_pooled": f1, "detection_precision_pooled": precision, "detection_recall_pooled": recall}
    if num_types:
        type_f1, type_precision, type_recall = type_scores(pairs, missed, spurious)
        names = _names(type_names, num_types)
        table["true_nuclei_without_type"] = unknown_paired + unknown_missed
        table["type_accuracy_pooled"] = type_accuracies(pairs)
        table["type_f1_pooled_mean_over_types"] = row_means(type_f1)
        table |= _by_name("type_f1_pooled", names, type_f1.T)
        table |= _by_name("type_precision_pooled", names, type_precision.T)
        table |= _by_name("type_recall_pooled", names, type_recall.T)
    return table


def _typed(
    images: Sequence[TypedPanopticQuality],
    weights: np.ndarray,
    tissues: Sequence[str] | None,
    type_names: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    pannuke, conic = weighted_pannuke_quality(images, weights, tissues), weighted_conic_quality(images, weights)
    names = _names(type_names, len(images[0].types))
    return {
        "bpq_mean_over_images": pannuke.bpq_over_images,
        "mpq_mean_over_images": pannuke.mpq_over_images,
        "mpq_plus_pooled": conic.mpq_plus,
        "r2_mean_over_types": conic.r2,
        **_by_name("type_pq_mean_over_images", names, pannuke.type_pq),
        **_by_name("type_pq_pooled", names, conic.type_pq_plus),
        **_by_name("type_r2", names, conic.type_r2),
        **_tissues(pannuke, ("bpq", "mpq")),
    }


def _tissues(pannuke: PanNukeQuality[np.ndarray], scores: Sequence[str]) -> dict[str, np.ndarray]:
    """Means over tissues and those of each tissue; nothing where tissues are unknown."""
    if not pannuke.tissue_bpq:
        return {}
    means = {"bpq": pannuke.bpq_over_tissues, "mpq": pannuke.mpq_over_tissues}
    table = {f"{score}_mean_over_tissues": means[score] for score in scores}
    of_tissues = {"bpq": pannuke.tissue_bpq, "mpq": pannuke.tissue_mpq}
    for score in scores:
        table |= _by_name(f"{score}_mean_over_images", list(of_tissues[score]), list(of_tissues[score].values()))
    return table


def _by_name(score: str, names: Sequence[str], values: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{score}/{name}": value for name, value in zip(names, values, strict=True)}


def _names(type_names: Sequence[str] | None, num_types: int) -> Sequence[str]:
    if type_names is None:
        return [str(number) for number in range(1, num_types + 1)]
    if len(type_names) != num_types:
        raise ValueError(
            f"{len(type_names)} type names for {num_types} types; name types 1..{num_types}, not background"
        )
    return type_names
