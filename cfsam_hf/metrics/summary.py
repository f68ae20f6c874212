"""Every metric of one image from one overlap table, and the table of a data set with each average named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .averages import defined_mean
from .boundary import BoundaryCounts, boundary_counts
from .calibration import CalibrationCounts, score_calibration_counts
from .conic import conic_quality
from .detection import DetectionCounts, detection_counts
from .dice import dice, dice2
from .jaccard import aggregated_jaccard_index, aggregated_jaccard_index_plus
from .nucleus_types import NucleusTypes, table_types
from .overlap import overlap_table
from .pannuke import pannuke_quality
from .panoptic import PanopticQuality, panoptic_quality
from .typed_panoptic import TypedPanopticQuality, typed_panoptic_quality


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
    if true_types is not None:
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
        Name to value; NaN where a score is undefined. mPQ and CoNIC's scores appear only where every image has types,
        calibration only where every image has scores. Without types bPQ counts all nuclei. With types
        `true_nuclei_without_type` tells how many true nuclei no score of types counts, their types being unknown.

    Raises:
        ValueError: no images, or a wrong number of tissues or type names.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> table = summarize([image_metrics(true, true), image_metrics(true, true * 0)])
        >>> table["pq_mean_over_images"], round(table["pq_pooled"], 3), round(table["detection_f1_pooled"], 3)
        (0.5, 0.667, 0.667)
    """
    if not len(images):
        raise ValueError("no images to summarize; score at least one with image_metrics")
    if tissues is not None and len(tissues) != len(images):
        raise ValueError(f"{len(images)} images but {len(tissues)} tissues; give one tissue per image")
    panoptic = sum(image.panoptic for image in images)
    boundary = sum(image.boundary for image in images)
    table = {
        "images": len(images),
        "true_nuclei": panoptic.num_true,
        "pred_nuclei": panoptic.num_pred,
        "dice_mean_over_images": defined_mean(image.dice for image in images),
        "dice2_mean_over_images": defined_mean(image.dice2 for image in images),
        "aji_mean_over_images": defined_mean(image.aji for image in images),
        "aji_plus_mean_over_images": defined_mean(image.aji_plus for image in images),
        "dq_mean_over_images": defined_mean(image.panoptic.dq for image in images),
        "sq_mean_over_images": defined_mean(image.panoptic.sq for image in images),
        "pq_mean_over_images": defined_mean(image.panoptic.pq for image in images),
        "dq_pooled": panoptic.dq,
        "sq_pooled": panoptic.sq,
        "pq_pooled": panoptic.pq,
        "boundary_f1_mean_over_images": defined_mean(image.boundary.f1 for image in images),
        "boundary_f1_pooled": boundary.f1,
    }
    table |= _detection(sum(image.detection for image in images), type_names)
    if all(image.typed is not None for image in images):
        table |= _typed([image.typed for image in images], tissues, type_names)
    else:
        table |= _bpq([image.panoptic for image in images], tissues)
    if all(image.calibration is not None for image in images):
        table["score_ece_pooled"] = sum(image.calibration for image in images).ece
    return table


def _detection(counts: DetectionCounts, type_names: Sequence[str] | None) -> dict[str, float]:
    table = {
        "detection_f1_pooled": counts.f1,
        "detection_precision_pooled": counts.precision,
        "detection_recall_pooled": counts.recall,
    }
    if counts.num_types:
        names = _names(type_names, counts.num_types)
        table["true_nuclei_without_type"] = counts.num_unknown
        table["type_accuracy_pooled"] = counts.type_accuracy
        table["type_f1_pooled_mean_over_types"] = defined_mean(counts.type_f1)
        for what, values in (
            ("f1", counts.type_f1),
            ("precision", counts.type_precision),
            ("recall", counts.type_recall),
        ):
            table |= {f"type_{what}_pooled/{name}": float(v) for name, v in zip(names, values, strict=True)}
    return table


def _bpq(images: list[PanopticQuality], tissues: Sequence[str] | None) -> dict[str, float]:
    pannuke = pannuke_quality([TypedPanopticQuality(counts, ()) for counts in images], tissues)
    table = {"bpq_mean_over_images": pannuke.bpq_over_images}
    if tissues is not None:
        table["bpq_mean_over_tissues"] = pannuke.bpq_over_tissues
        table |= {f"bpq_mean_over_images/{tissue}": value for tissue, value in pannuke.tissue_bpq.items()}
    return table


def _typed(
    images: list[TypedPanopticQuality], tissues: Sequence[str] | None, type_names: Sequence[str] | None
) -> dict[str, float]:
    pannuke, conic = pannuke_quality(images, tissues), conic_quality(images)
    names = _names(type_names, len(images[0].types))
    table = {
        "bpq_mean_over_images": pannuke.bpq_over_images,
        "mpq_mean_over_images": pannuke.mpq_over_images,
        "mpq_plus_pooled": conic.mpq_plus,
        "r2_mean_over_types": conic.r2,
    }
    for key, values in (
        ("type_pq_mean_over_images", pannuke.type_pq),
        ("type_pq_pooled", conic.type_pq_plus),
        ("type_r2", conic.type_r2),
    ):
        table |= {f"{key}/{name}": value for name, value in zip(names, values, strict=True)}
    if tissues is not None:
        table["bpq_mean_over_tissues"] = pannuke.bpq_over_tissues
        table["mpq_mean_over_tissues"] = pannuke.mpq_over_tissues
        table |= {f"bpq_mean_over_images/{tissue}": value for tissue, value in pannuke.tissue_bpq.items()}
        table |= {f"mpq_mean_over_images/{tissue}": value for tissue, value in pannuke.tissue_mpq.items()}
    return table


def _names(type_names: Sequence[str] | None, num_types: int) -> Sequence[str]:
    if type_names is None:
        return [str(number) for number in range(1, num_types + 1)]
    if len(type_names) != num_types:
        raise ValueError(
            f"{len(type_names)} type names for {num_types} types; name types 1..{num_types}, not background"
        )
    return type_names
