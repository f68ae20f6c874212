"""Expected calibration error of nucleus scores: of 10 nuclei with a score of .8, 8 should be right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .averages import Counts, ratio
from .overlap import OverlapTable, as_table


@dataclass(frozen=True, eq=False)
class CalibrationCounts(Counts):
    """Scores and outcomes by bin of score; counts add over images.

    M equal bins cover [0, 1]; bin m holds the scores in [m / M, (m + 1) / M), the last one also 1.

    Attributes:
        counts: (M,) int64 nuclei in each bin.
        score_sums: (M,) float64 their summed scores.
        matched: (M,) int64 how many of them match a true nucleus.
    """

    counts: np.ndarray
    score_sums: np.ndarray
    matched: np.ndarray

    def __add__(self, other: object) -> "CalibrationCounts":
        if not isinstance(other, CalibrationCounts):
            return NotImplemented
        if len(self.counts) != len(other.counts):
            raise ValueError(f"calibration counts with {len(self.counts)} and {len(other.counts)} bins do not add")
        return CalibrationCounts(
            self.counts + other.counts, self.score_sums + other.score_sums, self.matched + other.matched
        )

    @property
    def ece(self) -> float:
        """Mean over nuclei of the gap between their bin's mean score and its share of matches; NaN without nuclei."""
        return float(calibration_errors(self.counts, self.score_sums, self.matched))

    @property
    def mean_scores(self) -> np.ndarray:
        """(M,) mean score of each bin, NaN where empty; with `match_rates` the two axes of a reliability diagram."""
        return ratio(self.score_sums, self.counts)

    @property
    def match_rates(self) -> np.ndarray:
        """(M,) share of matches in each bin, NaN where empty."""
        return ratio(self.matched, self.counts)


def calibration_errors(counts: Any, score_sums: Any, matched: Any) -> np.ndarray:
    """Expected calibration errors (...) from the counts of `CalibrationCounts` as arrays (..., M).

    Example:
        >>> calibration_errors([[2, 2]], [[0.4, 1.8]], [[1, 2]]).round(3).tolist()
        [0.2]
    """
    gaps = np.abs(np.asarray(score_sums) - np.asarray(matched))
    return ratio(gaps.sum(axis=-1), np.asarray(counts).sum(axis=-1))


def calibration_counts(scores: np.ndarray, matched: np.ndarray, *, num_bins: int = 15) -> CalibrationCounts:
    """Bins scores with their outcomes; the `ece` of the result is the expected calibration error.

    Args:
        scores: (N,) scores in [0, 1].
        matched: (N,) bool, whether each nucleus matches a true one (`matched_nuclei`).
        num_bins: M, equal bins over [0, 1].

    Raises:
        ValueError: lengths differ, a score outside [0, 1] or NaN, fewer than one bin.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Example:
        >>> counts = calibration_counts([0.9, 0.9, 0.2, 0.2], [True, True, False, True], num_bins=10)
        >>> round(counts.ece, 3)
        0.2
    """
    scores = np.asarray(scores, dtype=np.float64)
    matched = np.asarray(matched, dtype=bool)
    if scores.ndim != 1 or scores.shape != matched.shape:
        raise ValueError(f"scores and matched must be (N,) alike, got {scores.shape} and {matched.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        wrong = scores[~((scores >= 0) & (scores <= 1))][0]
        raise ValueError(f"scores must be probabilities in [0, 1], got {wrong}")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins!r}")
    bins = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    return CalibrationCounts(
        counts=np.bincount(bins, minlength=num_bins),
        score_sums=np.bincount(bins, scores, num_bins),
        matched=np.bincount(bins[matched], minlength=num_bins),
    )


def matched_nuclei(
    true: np.ndarray | OverlapTable, pred: np.ndarray | None = None, *, iou_threshold: float = 0.5
) -> dict[int, bool]:
    """Whether each predicted nucleus matches a true one at IoU > `iou_threshold`, by ascending id.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.
        iou_threshold: at least .5.

    Example:
        >>> import numpy as np
        >>> matched_nuclei(np.array([[1, 1, 0, 0]]), np.array([[9, 9, 0, 4]]))
        {4: False, 9: True}
    """
    table = as_table(true, pred)
    hit = np.zeros(table.num_pred, bool)
    hit[table.pair_pred[table.matches(iou_threshold)]] = True
    order = np.argsort(table.pred_ids)
    return dict(zip(table.pred_ids[order].tolist(), hit[order].tolist(), strict=True))


def score_calibration_counts(
    true: np.ndarray | OverlapTable,
    pred: np.ndarray | None = None,
    *,
    scores: Mapping[int, float] | Sequence[float] | np.ndarray,
    iou_threshold: float = 0.5,
    num_bins: int = 15,
) -> CalibrationCounts:
    """Bins the scores of one image's predicted nuclei with their outcomes.

    Args:
        true: (H, W) integer label map, 0 background; or an `OverlapTable` of both maps.
        pred: (H, W) integer label map of the same shape; None with a table.
        scores: {id: score}, or (N,) with the score of id i + 1 at i.
        iou_threshold: at least .5.
        num_bins: equal bins over [0, 1].

    Raises:
        ValueError: an id without a score, a score outside [0, 1].

    Example:
        >>> import numpy as np
        >>> true, pred = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 2]])
        >>> score_calibration_counts(true, pred, scores=[0.75, 0.25]).ece
        0.25
    """
    outcomes = matched_nuclei(true, pred, iou_threshold=iou_threshold)
    if not isinstance(scores, Mapping):
        scores = dict(enumerate(np.asarray(scores, dtype=np.float64).ravel().tolist(), start=1))
    missing = [nucleus for nucleus in outcomes if nucleus not in scores]
    if missing:
        raise ValueError(f"scores has none for id {missing[0]} ({len(missing)} ids without one)")
    return calibration_counts(
        np.array([scores[nucleus] for nucleus in outcomes], dtype=np.float64),
        np.array(list(outcomes.values()), dtype=bool),
        num_bins=num_bins,
    )
