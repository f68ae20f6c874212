"""One sparse pass over two label maps: the table that every instance metric reads."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class OverlapTable:
    """Areas, centroids and intersections of the nuclei in a true and a predicted label map.

    T true nuclei, P predicted nuclei, K overlapping pairs. Nuclei are rows, in the order in which a raster scan first
    meets them and not by id, so that ties broken by row do not depend on how a label map is numbered.

    Attributes:
        shape: (H, W) of both maps in pixels.
        true_ids: (T,) ids in the true map, one per row.
        pred_ids: (P,) ids in the predicted map, one per row.
        true_areas: (T,) int64 pixels.
        pred_areas: (P,) int64 pixels.
        true_centroids: (T, 2) float64 x, y in pixels; the centre of pixel (column i, row j) is (i + .5, j + .5).
        pred_centroids: (P, 2) float64, likewise.
        pair_true: (K,) int64 row of the true nucleus of each overlapping pair.
        pair_pred: (K,) int64 row of the predicted nucleus of each pair; pairs are sorted by (pair_true, pair_pred).
        intersections: (K,) int64 pixels shared by each pair, at least 1.
    """

    shape: tuple[int, int]
    true_ids: np.ndarray
    pred_ids: np.ndarray
    true_areas: np.ndarray
    pred_areas: np.ndarray
    true_centroids: np.ndarray
    pred_centroids: np.ndarray
    pair_true: np.ndarray
    pair_pred: np.ndarray
    intersections: np.ndarray

    @property
    def num_true(self) -> int:
        """Number of true nuclei, T."""
        return len(self.true_ids)

    @property
    def num_pred(self) -> int:
        """Number of predicted nuclei, P."""
        return len(self.pred_ids)

    @cached_property
    def unions(self) -> np.ndarray:
        """(K,) int64 pixels in the union of each pair."""
        unions: np.ndarray = self.true_areas[self.pair_true] + self.pred_areas[self.pair_pred] - self.intersections
        return unions

    @cached_property
    def ious(self) -> np.ndarray:
        """(K,) float64 intersection over union of each pair."""
        ious: np.ndarray = self.intersections / self.unions
        return ious

    def matches(self, iou_threshold: float = 0.5) -> np.ndarray:
        """Indices into the pairs that match: IoU **greater than** the threshold, at least .5, so each nucleus once.

        Raises:
            ValueError: a threshold under .5, where one nucleus could match several.
        """
        if not 0.5 <= iou_threshold < 1:
            raise ValueError(
                f"iou_threshold must be in [0.5, 1) for a match to be unique, got {iou_threshold!r}; "
                "aggregated_jaccard_index_plus pairs nuclei at any overlap"
            )
        return np.flatnonzero(self.ious > iou_threshold)

    def select(self, true_rows: np.ndarray, pred_rows: np.ndarray) -> "OverlapTable":
        """The table of some nuclei only, as if the others had been erased from the maps.

        Args:
            true_rows: (T,) bool, the true nuclei to keep.
            pred_rows: (P,) bool, the predicted nuclei to keep.
        """
        new_true = np.cumsum(true_rows) - 1
        new_pred = np.cumsum(pred_rows) - 1
        pairs = true_rows[self.pair_true] & pred_rows[self.pair_pred]
        return OverlapTable(
            shape=self.shape,
            true_ids=self.true_ids[true_rows],
            pred_ids=self.pred_ids[pred_rows],
            true_areas=self.true_areas[true_rows],
            pred_areas=self.pred_areas[pred_rows],
            true_centroids=self.true_centroids[true_rows],
            pred_centroids=self.pred_centroids[pred_rows],
            pair_true=new_true[self.pair_true[pairs]],
            pair_pred=new_pred[self.pair_pred[pairs]],
            intersections=self.intersections[pairs],
        )


def overlap_table(true: np.ndarray, pred: np.ndarray) -> OverlapTable:
    """Measures every nucleus and every overlap of two label maps in one pass.

    The maps are cut into horizontal runs of constant (true id, predicted id). All further work takes time proportional
    to the number of runs, whatever the ids are (gaps and huge ids cost nothing).

    Args:
        true: (H, W) label map of any integer type, 0 is background.
        pred: (H, W) label map of any integer type, of the same shape.

    Returns:
        `OverlapTable`.

    Raises:
        TypeError: a map is not an integer array.
        ValueError: a map is not 2-D or holds negative ids, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> true = np.array([[1, 1, 0, 7], [1, 1, 0, 7]])
        >>> pred = np.array([[5, 5, 5, 0], [0, 0, 0, 9]])
        >>> table = overlap_table(true, pred)
        >>> table.true_ids.tolist(), table.true_areas.tolist(), table.pred_areas.tolist()
        ([1, 7], [4, 2], [3, 1])
        >>> table.intersections.tolist(), table.ious.round(2).tolist()
        ([2, 1], [0.4, 0.5])
    """
    true = check_label_map(true, "true")
    pred = check_label_map(pred, "pred")
    if true.shape != pred.shape:
        raise ValueError(f"label maps differ in shape: true is {true.shape}, pred is {pred.shape}; crop or resize one")

    starts, lengths = _runs(true, pred)
    row, column = np.divmod(starts, max(true.shape[1], 1))
    # The pixel centres of a run of n pixels from column c average to c + n / 2.
    x, y = column + lengths / 2, row + 0.5

    true_ids, true_row, true_areas, true_centroids = _measure(true.ravel()[starts], lengths, x, y)
    pred_ids, pred_row, pred_areas, pred_centroids = _measure(pred.ravel()[starts], lengths, x, y)

    both = (true_row >= 0) & (pred_row >= 0)
    code = true_row[both] * max(len(pred_ids), 1) + pred_row[both]
    pairs, which = np.unique(code, return_inverse=True)
    pair_true, pair_pred = np.divmod(pairs, max(len(pred_ids), 1))
    return OverlapTable(
        shape=true.shape,
        true_ids=true_ids,
        pred_ids=pred_ids,
        true_areas=true_areas,
        pred_areas=pred_areas,
        true_centroids=true_centroids,
        pred_centroids=pred_centroids,
        pair_true=pair_true,
        pair_pred=pair_pred,
        intersections=_sum_by(which, lengths[both], len(pairs)),
    )


def as_table(true: "np.ndarray | OverlapTable", pred: np.ndarray | None) -> OverlapTable:
    """The table of two label maps, or `true` itself if it is a table already."""
    if isinstance(true, OverlapTable):
        if pred is not None:
            raise TypeError("give either two label maps or one OverlapTable, not a table and a map")
        return true
    if pred is None:
        raise TypeError("pred is missing: give two label maps, or one OverlapTable")
    return overlap_table(true, pred)


def check_label_map(label_map: np.ndarray, name: str) -> np.ndarray:
    """Returns the label map as an array; raises the errors of `overlap_table` if it is not one."""
    label_map = np.asarray(label_map)
    if not np.issubdtype(label_map.dtype, np.integer):
        raise TypeError(
            f"{name} must be an integer label map (0 background, one id per nucleus), got dtype {label_map.dtype}; "
            "cast whole-numbered ids with .astype('int32'), label a mask with skimage.measure.label"
        )
    if label_map.ndim != 2:
        raise ValueError(f"{name} must be one (H, W) label map, got shape {label_map.shape}; pass images one by one")
    if label_map.size and np.issubdtype(label_map.dtype, np.signedinteger) and label_map.min() < 0:
        raise ValueError(f"{name} holds the negative id {label_map.min()}; background is 0 and ids are positive")
    return label_map


def _runs(true: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts (in the raveled maps) and lengths of the row-wise runs in which neither map changes."""
    if not true.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    begins = np.ones(true.shape, bool)
    np.not_equal(true[:, 1:], true[:, :-1], out=begins[:, 1:])
    begins[:, 1:] |= pred[:, 1:] != pred[:, :-1]
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=true.size)


def _measure(ids: np.ndarray, lengths: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Ids in raster order, the row of each run (-1 for background), areas and centroids of one map's nuclei."""
    unique, first, which = np.unique(ids, return_index=True, return_inverse=True)
    scan_order = np.argsort(first)
    scan_order = scan_order[unique[scan_order] != 0]
    row_of = np.full(len(unique), -1)
    row_of[scan_order] = np.arange(len(scan_order))
    row = row_of[which]
    foreground = row >= 0
    row_in, lengths = row[foreground], lengths[foreground]
    areas = _sum_by(row_in, lengths, len(scan_order))
    sums = np.stack([np.bincount(row_in, lengths * axis[foreground], len(scan_order)) for axis in (x, y)], axis=-1)
    return unique[scan_order], row, areas, sums / np.maximum(areas, 1)[:, None]


def _sum_by(group: np.ndarray, values: np.ndarray, num_groups: int) -> np.ndarray:
    """Sums integers by group; exact, since pixel counts stay far below 2**53."""
    return np.bincount(group, values, num_groups).astype(np.int64)
