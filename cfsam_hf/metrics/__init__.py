"""Metrics of nuclei segmentation and classification on label maps, with the averaging named.

Every function takes a true and a predicted (H, W) integer label map, or one `OverlapTable` of both, so that many
metrics share a single pass. Undefined scores (nothing to find and nothing found) are NaN, never a silent 0 or 1.
`image_metrics` and `summarize` compute everything at once; `evaluate_module` returns the path of a module for Hugging
Face's `evaluate`.
"""

from .averages import defined_mean, defined_mean_by, pooled
from .boundary import BoundaryCounts, boundary_counts
from .calibration import CalibrationCounts, calibration_counts, matched_nuclei, score_calibration_counts
from .conic import ConicQuality, conic_quality, count_r2
from .detection import (
    DetectionCounts,
    detection_counts,
    detection_counts_from_centroids,
    detection_radius,
    pair_centroids,
)
from .dice import dice, dice2
from .hub import EVALUATE_MODULES, evaluate_module
from .jaccard import aggregated_jaccard_index, aggregated_jaccard_index_plus
from .nucleus_types import UNKNOWN_TYPE, types_from_map
from .overlap import OverlapTable, overlap_table
from .pannuke import PanNukeQuality, pannuke_quality
from .panoptic import PanopticQuality, panoptic_quality
from .summary import ImageMetrics, image_metrics, summarize
from .typed_panoptic import TypedPanopticQuality, typed_panoptic_quality

__all__ = [
    "EVALUATE_MODULES",
    "UNKNOWN_TYPE",
    "BoundaryCounts",
    "CalibrationCounts",
    "ConicQuality",
    "DetectionCounts",
    "ImageMetrics",
    "OverlapTable",
    "PanNukeQuality",
    "PanopticQuality",
    "TypedPanopticQuality",
    "aggregated_jaccard_index",
    "aggregated_jaccard_index_plus",
    "boundary_counts",
    "calibration_counts",
    "conic_quality",
    "count_r2",
    "defined_mean",
    "defined_mean_by",
    "detection_counts",
    "detection_counts_from_centroids",
    "detection_radius",
    "dice",
    "dice2",
    "evaluate_module",
    "image_metrics",
    "matched_nuclei",
    "overlap_table",
    "pair_centroids",
    "pannuke_quality",
    "panoptic_quality",
    "pooled",
    "score_calibration_counts",
    "summarize",
    "typed_panoptic_quality",
    "types_from_map",
]
