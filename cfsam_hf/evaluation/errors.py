"""Classes of errors and their cost: a nucleus is matched, loose, missed, spurious, split or merged, or mistyped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..data import Tile
from ..metrics import (
    OverlapTable,
    PanopticQuality,
    defined_mean,
    detection_radius,
    overlap_table,
    pair_centroids,
    pooled,
)
from ..metrics.nucleus_types import table_types
from .predictions import Prediction
from .scoring import DEFAULT_MPP, renumbered_types

MATCHED, LOOSE, MISSED, SPURIOUS, SPLIT, MERGED = "matched", "loose", "missed", "spurious", "split", "merged"
MISTYPED, OUTLINES = "mistyped", "outlines"

DEFINITIONS = {
    MATCHED: "paired at IoU > .5",
    MERGED: "not matched, and one prediction holds more than half of the area of each of two or more true nuclei",
    SPLIT: "not matched, and more than half of the area of each of two or more predictions lies in one true nucleus",
    LOOSE: "not matched, merged or split, but the centroids of a true nucleus and a prediction pair within 3 um",
    MISSED: "a true nucleus that is none of the above",
    SPURIOUS: "a prediction that is none of the above",
    MISTYPED: "of the matched, those whose types differ",
}
"""The classes in the order in which they are tested. A nucleus of either side has exactly one of the first six."""

REPAIRS = {
    MERGED: "its predictions are removed and each of its true nuclei is matched",
    SPLIT: "its predictions are removed and each of its true nuclei is matched",
    LOOSE: "each pair becomes a match",
    MISSED: "each true nucleus is matched",
    SPURIOUS: "each prediction is removed",
    OUTLINES: "each match has IoU 1",
}
"""How the nuclei of one class are repaired; new matches have the mean IoU of the data set's matches."""


@dataclass(frozen=True, eq=False)
class NucleusErrors:
    """The classes of the nuclei of one tile.

    Attributes:
        table: areas, centroids and overlaps of the T true and P predicted nuclei; all rows below are rows of it.
        true_classes, pred_classes: (T,) and (P,) str, the class of each nucleus.
        loose_pairs: (L, 2) rows of the true nucleus and the prediction of each loose pair.
        covers: (K,) bool, whether the prediction of each overlapping pair holds most of the true nucleus.
        lies_in: (K,) bool, whether most of the prediction lies in the true nucleus.
        mistyped: (M, 2) rows of the true nucleus and the prediction of each match whose types differ.
        confusion: matches by (name of the true type, name of the predicted type); empty if types are not compared.
    """

    table: OverlapTable
    true_classes: np.ndarray
    pred_classes: np.ndarray
    loose_pairs: np.ndarray
    covers: np.ndarray
    lies_in: np.ndarray
    mistyped: np.ndarray
    confusion: Counter = field(default_factory=Counter)

    @cached_property
    def split_nuclei(self) -> list[tuple[int, list[int]]]:
        """Each true nucleus that holds two or more predictions, at least one of class `split`, with these."""
        return self._groups(self.lies_in, self.table.pair_true, self.table.pair_pred, SPLIT)

    @cached_property
    def merging_predictions(self) -> list[tuple[int, list[int]]]:
        """Each prediction that holds two or more true nuclei, at least one of class `merged`, with these."""
        return self._groups(self.covers, self.table.pair_pred, self.table.pair_true, MERGED)

    def counts(self) -> "ErrorCounts":
        """The number of nuclei in each class."""
        matches = self.table.matches()
        return ErrorCounts(
            true=Counter(self.true_classes.tolist()),
            pred=Counter(self.pred_classes.tolist()),
            iou_sum=float(self.table.ious[matches].sum()),
            split_nuclei=len(self.split_nuclei),
            merging_predictions=len(self.merging_predictions),
            confusion=self.confusion,
        )

    def _groups(self, chosen: np.ndarray, one: np.ndarray, many: np.ndarray, of_class: str) -> list:
        members: dict[int, list[int]] = {}
        for group, member in zip(one[chosen].tolist(), many[chosen].tolist(), strict=True):
            members.setdefault(group, []).append(member)
        of_members = self.pred_classes if of_class == SPLIT else self.true_classes
        return [
            (group, found)
            for group, found in sorted(members.items())
            if len(found) > 1 and (of_members[found] == of_class).any()
        ]


@dataclass(frozen=True)
class ErrorCounts:
    """Numbers of nuclei by class, of one tile or summed over several.

    Attributes:
        true, pred: true nuclei and predictions by class.
        iou_sum: summed IoU of the matches.
        split_nuclei, merging_predictions: numbers of split true nuclei and of merging predictions.
        confusion: matches by (name of the true type, name of the predicted type).
    """

    true: Counter = field(default_factory=Counter)
    pred: Counter = field(default_factory=Counter)
    iou_sum: float = 0.0
    split_nuclei: int = 0
    merging_predictions: int = 0
    confusion: Counter = field(default_factory=Counter)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        if not isinstance(other, ErrorCounts):
            return NotImplemented
        return ErrorCounts(
            self.true + other.true,
            self.pred + other.pred,
            self.iou_sum + other.iou_sum,
            self.split_nuclei + other.split_nuclei,
            self.merging_predictions + other.merging_predictions,
            self.confusion + other.confusion,
        )

    @property
    def mistyped(self) -> int:
        """Matches whose types differ."""
        return sum(count for (true, pred), count in self.confusion.items() if true != pred)

    def panoptic(self, repaired: str | None = None, iou: float = float("nan")) -> PanopticQuality:
        """The panoptic counts, either unchanged or with one class of errors repaired (see `REPAIRS`).

        Args:
            repaired: a key of `REPAIRS`, or None.
            iou: IoU of the matches that a repair creates.

        Raises:
            ValueError: an unknown repair.

        Example:
            >>> counts = ErrorCounts(Counter(matched=3, missed=1), Counter(matched=3), 2.4)
            >>> round(counts.panoptic().pq, 3), round(counts.panoptic("missed", 0.8).pq, 3)
            (0.686, 0.8)
        """
        if repaired is not None and repaired not in REPAIRS:
            raise ValueError(f"the repair must be one of {', '.join(REPAIRS)}, got {repaired!r}")
        hits, iou_sum = self.true[MATCHED], self.iou_sum
        gained, removed = self.true[repaired], self.pred[repaired]
        if repaired == OUTLINES:
            iou_sum = float(hits)
        return PanopticQuality(
            true_positives=hits + gained,
            false_positives=self.pred.total() - hits - removed,
            false_negatives=self.true.total() - hits - gained,
            # The IoU is NaN if nothing was matched; without a repair it is not needed.
            iou_sum=iou_sum + (iou * gained if gained else 0.0),
        )


def classify_nuclei(tile: Tile, prediction: Prediction) -> NucleusErrors:
    """Sorts the nuclei of both sides into the classes of `DEFINITIONS`.

    Pixels outside the annotated area are left out. Types are compared where the scores compare them; a nucleus whose
    true type is unknown is never mistyped.

    Args:
        tile: with its truth. Loose pairs lie within 3 um; an unknown pixel size is taken as .25 um.
        prediction: what a system found in it.
    """
    truth, found = tile.instance_map, np.asarray(prediction.instance_map)
    if tile.annotated is not None:
        truth, found = (np.where(tile.annotated, ids, 0) for ids in (truth, found))
    table = overlap_table(truth, found)
    covers = 2 * table.intersections > table.true_areas[table.pair_true]
    lies_in = 2 * table.intersections > table.pred_areas[table.pair_pred]
    is_split = np.bincount(table.pair_true[lies_in], minlength=table.num_true) > 1
    merges = np.bincount(table.pair_pred[covers], minlength=table.num_pred) > 1

    true_classes = np.full(table.num_true, MISSED, dtype=object)
    pred_classes = np.full(table.num_pred, SPURIOUS, dtype=object)
    # Later assignments take precedence.
    true_classes[is_split] = SPLIT
    pred_classes[table.pair_pred[lies_in & is_split[table.pair_true]]] = SPLIT
    true_classes[table.pair_true[covers & merges[table.pair_pred]]] = MERGED
    pred_classes[merges] = MERGED
    matches = table.matches()
    true_rows, pred_rows = table.pair_true[matches], table.pair_pred[matches]
    true_classes[true_rows] = MATCHED
    pred_classes[pred_rows] = MATCHED

    open_true, open_pred = np.flatnonzero(true_classes == MISSED), np.flatnonzero(pred_classes == SPURIOUS)
    left, right = pair_centroids(
        table.true_centroids[open_true],
        table.pred_centroids[open_pred],
        detection_radius(tile.mpp or DEFAULT_MPP),
        pairing="within_radius",
    )
    loose = np.column_stack([open_true[left], open_pred[right]])
    true_classes[loose[:, 0]] = LOOSE
    pred_classes[loose[:, 1]] = LOOSE

    confusion: Counter[tuple[str, str]] = Counter()
    mistyped = np.zeros((0, 2), dtype=np.int64)
    numbers = renumbered_types(tile, prediction.type_names)
    if prediction.types is not None and numbers is not None:
        names = prediction.type_names
        types = table_types(table, (truth, found), numbers, prediction.types, len(names))
        pairs = np.column_stack([types[0][true_rows], types[1][pred_rows]])
        known = pairs[:, 0] > 0
        confusion.update((names[true], names.get(pred, "none")) for true, pred in pairs[known].tolist())
        wrong = known & (pairs[:, 0] != pairs[:, 1])
        mistyped = np.column_stack([true_rows[wrong], pred_rows[wrong]])
    return NucleusErrors(table, true_classes, pred_classes, loose, covers, lies_in, mistyped, confusion)


def repaired_quality(tiles: Sequence[ErrorCounts], iou: float) -> dict[str, float]:
    """PQ, mean over tiles, without repair (`none`) and with each class of errors repaired alone.

    Args:
        tiles: counts of each tile.
        iou: IoU of the matches that a repair creates, see [`mean_iou`].
    """
    return {
        repair or "none": defined_mean(tile.panoptic(repair, iou).pq for tile in tiles) for repair in (None, *REPAIRS)
    }


def mean_iou(tiles: Sequence[ErrorCounts]) -> float:
    """Mean IoU of all matches of some tiles; NaN if nothing was matched."""
    total = pooled(tile.panoptic() for tile in tiles)
    return total.sq if total.true_positives else float("nan")
