"""Panoptic quality: detection quality times segmentation quality."""

from dataclasses import dataclass

import numpy as np

from .overlap import OverlapTable, as_table


@dataclass(frozen=True)
class PanopticQuality:
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

    def __add__(self, other: "PanopticQuality") -> "PanopticQuality":
        if not isinstance(other, PanopticQuality):
            return NotImplemented
        return PanopticQuality(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou_sum + other.iou_sum,
        )

    def __radd__(self, other: int) -> "PanopticQuality":
        # sum() starts from the number 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

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
        total = self.num_true + self.num_pred
        return 2 * self.true_positives / total if total else float("nan")

    @property
    def sq(self) -> float:
        """Segmentation quality, the mean IoU of the pairs; 0 with nuclei but no pair, NaN without any nucleus."""
        if self.true_positives:
            return self.iou_sum / self.true_positives
        return 0.0 if self.num_true or self.num_pred else float("nan")

    @property
    def pq(self) -> float:
        """Panoptic quality, DQ x SQ; NaN without any nucleus."""
        return self.dq * self.sq

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
