"""Panoptic counts per nucleus type, the common ground of the PanNuke and CoNIC protocols."""

from dataclasses import dataclass

import numpy as np

from .averages import Counts
from .nucleus_types import UNKNOWN_TYPE, NucleusTypes, table_types
from .overlap import OverlapTable, as_table
from .panoptic import PanopticQuality, panoptic_quality


@dataclass(frozen=True)
class TypedPanopticQuality(Counts):
    """Panoptic counts of one image (or of several, added), of all typed nuclei and of each type.

    Attributes:
        nuclei: counts of all nuclei with a type, known or not; types are not compared.
        types: counts of types 1..T. A type is scored as if the nuclei of the other types were erased from both maps,
            so a nucleus found with the wrong type is a miss of one type and a false alarm of another. True nuclei of
            unknown type and the predictions that match them are in none.
    """

    nuclei: PanopticQuality
    types: tuple[PanopticQuality, ...]

    def __add__(self, other: object) -> "TypedPanopticQuality":
        if not isinstance(other, TypedPanopticQuality):
            return NotImplemented
        if len(self.types) != len(other.types):
            raise ValueError(f"counts of {len(self.types)} and of {len(other.types)} types do not add")
        types = tuple(mine + theirs for mine, theirs in zip(self.types, other.types, strict=True))
        return TypedPanopticQuality(self.nuclei + other.nuclei, types)


def typed_panoptic_quality(
    true: np.ndarray | OverlapTable,
    pred: np.ndarray | None = None,
    *,
    true_types: NucleusTypes,
    pred_types: NucleusTypes,
    num_types: int,
    iou_threshold: float = 0.5,
) -> TypedPanopticQuality:
    """Panoptic quality of one image for all nuclei and for every type.

    A nucleus of type 0 has no channel in either protocol and counts nowhere, not even in `nuclei`. A true nucleus of
    `UNKNOWN_TYPE` counts in `nuclei` alone, and so does the prediction that matches it, which is neither right nor
    wrong.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.
        true_types: types of the true nuclei: {id: type}, or (N,) with the type of id i + 1 at i, or an (H, W) type
            map.
        pred_types: types of the predicted nuclei, likewise.
        num_types: T, at least 1; types are 1..T.
        iou_threshold: at least .5.

    Raises:
        TypeError: wrong kinds of arrays.
        ValueError: wrong shapes, an id without a type, a type out of range.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> result = typed_panoptic_quality(true, true, true_types=[1, 2], pred_types=[1, 1], num_types=2)
        >>> result.nuclei.pq, [round(quality.pq, 3) for quality in result.types]
        (1.0, [0.667, 0.0])
    """
    if num_types < 1:
        raise ValueError(f"num_types must be at least 1, got {num_types!r}; use panoptic_quality without types")
    table = as_table(true, pred)
    maps = (None, None) if isinstance(true, OverlapTable) else (np.asarray(true), np.asarray(pred))
    true_rows, pred_rows = table_types(table, maps, true_types, pred_types, num_types)
    return _by_type(table, true_rows, pred_rows, num_types, iou_threshold)


def _by_type(
    table: OverlapTable, true_rows: np.ndarray, pred_rows: np.ndarray, num_types: int, iou_threshold: float
) -> TypedPanopticQuality:
    """Counts of every type from the types of the table's rows, grouped in one pass."""
    known = true_rows != UNKNOWN_TYPE
    matched = table.matches(iou_threshold)
    to_unknown = ~known[table.pair_true[matched]]
    compared = np.ones(table.num_pred, bool)
    compared[table.pair_pred[matched[to_unknown]]] = False
    matched = matched[~to_unknown]
    pair_types = true_rows[table.pair_true[matched]]
    agree = pair_types == pred_rows[table.pair_pred[matched]]
    hits = np.bincount(pair_types[agree], minlength=num_types + 1)
    ious = np.bincount(pair_types[agree], table.ious[matched][agree], num_types + 1)
    true_counts = np.bincount(true_rows[known], minlength=num_types + 1)
    pred_counts = np.bincount(pred_rows[compared], minlength=num_types + 1)
    types = tuple(
        PanopticQuality(int(hits[t]), int(pred_counts[t] - hits[t]), int(true_counts[t] - hits[t]), float(ious[t]))
        for t in range(1, num_types + 1)
    )
    return TypedPanopticQuality(
        panoptic_quality(table.select(true_rows != 0, pred_rows > 0), iou_threshold=iou_threshold), types
    )
