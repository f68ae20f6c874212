"""Panoptic quality: detection quality times segmentation quality."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .averages import Counts, ratio
from .overlap import OverlapTable, as_table


@dataclass(frozen=True)
class PanopticQuality(Counts):
    """Counts of a panoptic comparison; they add over images and classes, and give DQ, SQ and PQ.

    Attributes:
        true_positives: number of pairs with IoU above the threshold.
        false_positives: predictions without a pair.
        false_negatives: true nuclei without a pair.
        iou_sum: summed IoU of the pairs.

    Example:
        >>> total = PanopticQuality(3, 1, 1, 2.4) + PanopticQuality(0, 2, 0, 0.0)
        >>> total.true_positives, round(total.dq, 3), round(total.sq, 3), round(total.pq, 3)
        (3, 0.6, 0.8, 0.48)
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: object) -> "PanopticQuality":
        if not isinstance(other, PanopticQuality):
            return NotImplemented
        return PanopticQuality(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou_sum + other.iou_sum,
        )

    @property
    def num_true(self) -> int:
        """Number of true nuclei."""
        return self.true_positives + self.false_negatives

    @property
    def num_pred(self) -> int:
        """Number of predicted nuclei."""
        return self.true_positives + self.false_positives

    @property
    def dq(self) -> float:
        """Detection quality, the F1 of the pairs at this IoU: TP / (TP + FP / 2 + FN / 2); NaN without any nucleus."""
        return self._scores()[0]

    @property
    def sq(self) -> float:
        """Segmentation quality, the mean IoU of the pairs; 0 with nuclei but no pair, NaN without any nucleus."""
        return self._scores()[1]

    @property
    def pq(self) -> float:
        """Panoptic quality, DQ x SQ; NaN without any nucleus."""
        return self._scores()[2]

    @property
    def pq_of_present(self) -> float:
        """PQ if the truth has a nucleus, else NaN, as PanNuke counts it: without one, false alarms are free."""
        return self.pq if self.num_true else float("nan")

    def _scores(self) -> tuple[float, float, float]:
        counts = (self.true_positives, self.false_positives, self.false_negatives, self.iou_sum)
        dq, sq, pq = panoptic_scores(*counts)
        return float(dq), float(sq), float(pq)

    def to_dict(self) -> dict[str, float]:
        """The scores and the counts by name."""
        return {
            "dq": self.dq,
            "sq": self.sq,
            "pq": self.pq,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "iou_sum": self.iou_sum,
        }


def panoptic_scores(
    true_positives: Any, false_positives: Any, false_negatives: Any, iou_sum: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DQ, SQ and PQ, each (...), from the counts of `PanopticQuality` as arrays (...).

    Example:
        >>> [scores.round(3).tolist() for scores in panoptic_scores([3, 0], [3, 0], [1, 0], [2.4, 0.0])]
        [[0.6, nan], [0.8, nan], [0.48, nan]]
    """
    hits = np.asarray(true_positives)
    dq = ratio(2 * hits, 2 * hits + false_positives + false_negatives)
    # Without a pair SQ is 0 if there are nuclei; if there are none all three are undefined.
    sq = np.where(np.isnan(dq), np.nan, np.where(hits > 0, ratio(iou_sum, hits), 0))
    return dq, sq, dq * sq


def panoptic_quality(
    true: np.ndarray | OverlapTable, pred: np.ndarray | None = None, *, iou_threshold: float = 0.5
) -> PanopticQuality:
    """Panoptic quality of all nuclei in one image, types ignored. A pair matches at IoU > `iou_threshold`.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.
        iou_threshold: at least .5, so that a nucleus can match only once.

    Returns:
        `PanopticQuality`, with `dq`, `sq`, `pq` and the counts; results of several images add (then the counts are
        pooled; HoVer-Net and PanNuke instead average the `pq` of single images).

    References:
        Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4; `get_fast_pq` of HoVer-Net, whose SQ differs by
        its guard of 1e-6 in the denominator.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        >>> pred = np.array([[4, 4, 4, 0], [4, 4, 0, 9]])
        >>> result = panoptic_quality(true, pred)
        >>> result.true_positives, result.false_positives, result.false_negatives
        (1, 1, 1)
        >>> result.dq, result.sq, result.pq
        (0.5, 0.8, 0.4)
    """
    table = as_table(true, pred)
    matched = table.matches(iou_threshold)
    return PanopticQuality(
        true_positives=len(matched),
        false_positives=table.num_pred - len(matched),
        false_negatives=table.num_true - len(matched),
        iou_sum=float(table.ious[matched].sum()),
    )
