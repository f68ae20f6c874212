"""F1 of the nuclei's boundaries within a tolerance."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d

from .averages import Counts, ratio
from .overlap import check_label_map


@dataclass(frozen=True)
class BoundaryCounts(Counts):
    """Boundary pixels and how many of them lie near the other side's boundary; counts add over images.

    Attributes:
        pred_near: predicted boundary pixels within the tolerance of a true one.
        pred_total: predicted boundary pixels.
        true_near: true boundary pixels within the tolerance of a predicted one.
        true_total: true boundary pixels.
    """

    pred_near: int = 0
    pred_total: int = 0
    true_near: int = 0
    true_total: int = 0

    def __add__(self, other: object) -> "BoundaryCounts":
        if not isinstance(other, BoundaryCounts):
            return NotImplemented
        return BoundaryCounts(
            self.pred_near + other.pred_near,
            self.pred_total + other.pred_total,
            self.true_near + other.true_near,
            self.true_total + other.true_total,
        )

    @property
    def precision(self) -> float:
        """Share of the predicted boundary that lies near a true one; NaN without predicted boundary."""
        return self._scores()[1]

    @property
    def recall(self) -> float:
        """Share of the true boundary that lies near a predicted one; NaN without true boundary."""
        return self._scores()[2]

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where one side has no boundary, NaN where neither has."""
        return self._scores()[0]

    def _scores(self) -> tuple[float, float, float]:
        f1, precision, recall = boundary_scores(self.pred_near, self.pred_total, self.true_near, self.true_total)
        return float(f1), float(precision), float(recall)


def boundary_scores(
    pred_near: Any, pred_total: Any, true_near: Any, true_total: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1, precision and recall, each (...), from the counts of `BoundaryCounts` as arrays (...).

    Example:
        >>> [scores.round(3).tolist() for scores in boundary_scores([2, 0], [4, 4], [4, 0], [4, 0])]
        [[0.667, 0.0], [0.5, 0.0], [1.0, nan]]
    """
    precision, recall = ratio(pred_near, pred_total), ratio(true_near, true_total)
    f1 = np.where((precision > 0) & (recall > 0), ratio(2 * precision * recall, precision + recall), 0)
    return np.where(np.isnan(precision) & np.isnan(recall), np.nan, f1), precision, recall


def boundary_counts(true: np.ndarray, pred: np.ndarray, *, tolerance: float = 2.0) -> BoundaryCounts:
    """Compares the boundaries of the nuclei in two label maps.

    Boundary pixels are those of a nucleus with a 4-neighbour of another id or of the background, so a line between
    touching nuclei is boundary; the image's frame is background to them. Distances are Euclidean between pixel
    centres.

    Args:
        true: (H, W) integer label map, 0 background.
        pred: (H, W) integer label map of the same shape.
        tolerance: pixels, inclusive; the default is half a micrometre at 40x (this project's choice).

    Returns:
        `BoundaryCounts`, with `precision`, `recall` and `f1`.

    Raises:
        TypeError: a map is not an integer array.
        ValueError: a map is not 2-D or holds negative ids, the shapes differ, or the tolerance is negative.

    References:
        Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 3 (BF).

    Example:
        >>> import numpy as np
        >>> true = np.array([[0, 1, 1, 0, 0, 0]])
        >>> pred = np.array([[0, 0, 1, 1, 1, 0]])
        >>> boundary_counts(true, pred, tolerance=0).f1, boundary_counts(true, pred, tolerance=2).f1
        (0.4, 1.0)
    """
    true = check_label_map(true, "true")
    pred = check_label_map(pred, "pred")
    if true.shape != pred.shape:
        raise ValueError(f"label maps differ in shape: true is {true.shape}, pred is {pred.shape}; crop or resize one")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more pixels, got {tolerance!r}")
    true_boundary, pred_boundary = _boundary(true), _boundary(pred)
    return BoundaryCounts(
        pred_near=_count_near(pred_boundary, true_boundary, tolerance),
        pred_total=int(pred_boundary.sum()),
        true_near=_count_near(true_boundary, pred_boundary, tolerance),
        true_total=int(true_boundary.sum()),
    )


def _boundary(label_map: np.ndarray) -> np.ndarray:
    """(H, W) bool boundary pixels, inside the nuclei."""
    framed = np.pad(label_map, 1)
    inner = framed[1:-1, 1:-1]
    differs = (inner != framed[:-2, 1:-1]) | (inner != framed[2:, 1:-1])
    differs |= (inner != framed[1:-1, :-2]) | (inner != framed[1:-1, 2:])
    boundary: np.ndarray = differs & (label_map != 0)
    return boundary


def _count_near(points: np.ndarray, targets: np.ndarray, tolerance: float) -> int:
    """How many pixels of `points` lie within the tolerance of `targets`.

    The disc is painted row by row: each row is one horizontal dilation, whose cost does not depend on its length. For
    a few pixels this is far cheaper than a distance transform.
    """
    height, width = targets.shape
    near = np.zeros(targets.shape, bool)
    for rows in range(min(int(tolerance), height - 1) + 1):
        # The small term keeps a pixel at exactly the tolerance where the square root rounds down.
        columns = min(int(math.sqrt(max(tolerance**2 - rows**2, 0.0)) + 1e-9), width)
        wide = maximum_filter1d(targets.view(np.uint8), 2 * columns + 1, axis=1, mode="constant").view(bool)
        near[rows:] |= wide[: height - rows]
        near[: height - rows] |= wide[rows:]
    return int((near & points).sum())
