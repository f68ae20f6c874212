"""Why: errors that exist by construction must each be found once, in the right class, with the right cost."""

from collections import Counter

import numpy as np
import pytest

from cfsam_hf.data import UNKNOWN_TYPE, Tile
from cfsam_hf.evaluation import Prediction, score_tile
from cfsam_hf.evaluation.errors import DEFINITIONS, REPAIRS, ErrorCounts, classify_nuclei, mean_iou, repaired_quality

NAMES = {1: "round", 2: "long"}


def one_of_each() -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of 60 x 200 pixels with one match (IoU .8), one match with a wrong type, one split, one
    merge of two, one loose pair, one miss and one spurious prediction."""
    truth, found = np.zeros((60, 200), np.int32), np.zeros((60, 200), np.int32)
    truth[4:14, 4:14], found[4:14, 4:12] = 11, 21  # matched
    truth[4:14, 24:34], found[4:14, 24:34] = 12, 22  # mistyped
    truth[4:14, 44:64], found[4:14, 44:53], found[4:14, 54:64] = 13, 23, 24
    truth[4:14, 74:84], truth[4:14, 85:95], found[4:14, 74:95] = 14, 15, 25
    truth[4:14, 110:120], found[7:11, 112:118] = 16, 26  # loose: 24 of 100 pixels
    truth[4:14, 140:150] = 17
    found[4:14, 170:180] = 27
    return truth, found


def tile(truth: np.ndarray, types: dict[int, int] | None = None, **fields) -> Tile:
    type_map = np.where(truth > 0, 1, 0).astype(np.int16)
    for nucleus, kind in (types or {}).items():
        type_map[truth == nucleus] = kind
    fields = {"mpp": 0.25, "tissue": "Colon", "type_names": NAMES} | fields
    return Tile(np.full((*truth.shape, 3), 200, np.uint8), truth, type_map, "a", **fields)


def prediction(found: np.ndarray, wrong: tuple[int, ...] = (22,)) -> Prediction:
    ids = np.unique(found[found > 0]).tolist()
    return Prediction(found, {nucleus: 2 if nucleus in wrong else 1 for nucleus in ids}, NAMES)


def test_one_of_each():
    truth, found = one_of_each()
    errors = classify_nuclei(tile(truth), prediction(found))
    true = dict(zip(errors.table.true_ids.tolist(), errors.true_classes.tolist(), strict=True))
    pred = dict(zip(errors.table.pred_ids.tolist(), errors.pred_classes.tolist(), strict=True))
    # Half of nucleus 13 is fragment 24 (10 of 20 columns), and an IoU of exactly .5 is no match.
    assert true == {11: "matched", 12: "matched", 13: "split", 14: "merged", 15: "merged", 16: "loose", 17: "missed"}
    assert pred == {
        **{21: "matched", 22: "matched", 23: "split", 24: "split", 25: "merged", 26: "loose", 27: "spurious"}
    }
    counts = errors.counts()
    assert (counts.split_nuclei, counts.merging_predictions, counts.mistyped) == (1, 1, 1)
    assert counts.confusion == {("round", "round"): 1, ("round", "long"): 1}
    row = {nucleus: i for i, nucleus in enumerate(errors.table.true_ids.tolist())}
    assert errors.mistyped.tolist() == [[row[12], errors.table.pred_ids.tolist().index(22)]]


def test_what_each_repair_gives():
    truth, found = one_of_each()
    [counts] = tiles = [classify_nuclei(tile(truth), prediction(found)).counts()]
    iou = mean_iou(tiles)
    assert iou == pytest.approx(0.9)
    quality = repaired_quality(tiles, iou)
    # Two matches among 7 true nuclei and 7 predictions.
    assert quality["none"] == pytest.approx(1.8 / 7)
    assert quality["none"] == pytest.approx(score_tile(tile(truth), prediction(found)).metrics.panoptic.pq)
    assert quality["missed"] == pytest.approx(2.7 / 7.5)
    assert quality["spurious"] == pytest.approx(1.8 / 6.5)
    assert quality["loose"] == pytest.approx(2.7 / 7)
    assert quality["split"] == pytest.approx(2.7 / 6.5)  # two fragments become one match
    assert quality["merged"] == pytest.approx(3.6 / 7.5)  # one prediction becomes two matches
    assert quality["outlines"] == pytest.approx(2 / 7)
    with pytest.raises(ValueError, match="'mistyped'"):
        counts.panoptic("mistyped")


def test_all_repairs_together_leave_nothing_but_matches():
    truth, found = one_of_each()
    counts = classify_nuclei(tile(truth), prediction(found)).counts()
    classes = [name for name in DEFINITIONS if name not in ("matched", "mistyped")]
    assert sum(counts.true[name] for name in classes) + counts.true["matched"] == 7
    assert sum(counts.pred[name] for name in classes) + counts.pred["matched"] == 7
    assert set(classes) | {"outlines"} == set(REPAIRS)


def test_a_large_fragment_is_a_match_and_the_small_one_a_split():
    truth, found = np.zeros((2, 20, 40), np.int32)
    truth[5:15, 5:25], found[5:15, 5:20], found[5:15, 21:25] = 1, 1, 2
    errors = classify_nuclei(tile(truth), prediction(found))
    assert errors.true_classes.tolist() == ["matched"]
    assert sorted(errors.pred_classes.tolist()) == ["matched", "split"]
    assert errors.split_nuclei == [(0, [0, 1])]
    # Its repair takes the fragment away.
    assert errors.counts().panoptic("split", 0.5).pq == pytest.approx(0.75)


def test_of_a_merge_the_larger_nucleus_may_be_matched():
    truth, found = np.zeros((2, 20, 40), np.int32)
    truth[5:15, 5:25], truth[5:15, 26:30], found[5:15, 5:30] = 1, 2, 7
    errors = classify_nuclei(tile(truth), prediction(found))
    assert errors.true_classes.tolist() == ["matched", "merged"]
    assert errors.pred_classes.tolist() == ["matched"]
    assert errors.merging_predictions == [(0, [0, 1])]


@pytest.mark.parametrize(("mpp", "expected"), [(0.25, "loose"), (None, "loose"), (0.5, "missed")])
def test_loose_pairs_lie_within_three_micrometres(mpp, expected):
    truth, found = np.zeros((2, 40, 40), np.int32)
    truth[5:10, 5:10], found[5:10, 15:20] = 1, 1
    assert classify_nuclei(tile(truth, mpp=mpp), prediction(found)).true_classes.tolist() == [expected]


def test_what_is_not_annotated_is_left_out_and_unknown_types_are_not_mistyped():
    truth, found = one_of_each()
    errors = classify_nuclei(tile(truth, annotated=np.arange(200) < 100 + np.zeros((60, 1))), prediction(found))
    assert Counter(errors.true_classes.tolist()) == {"matched": 2, "split": 1, "merged": 2}
    unknown = classify_nuclei(tile(truth, {12: UNKNOWN_TYPE}), prediction(found))
    assert unknown.counts().mistyped == 0
    untyped = classify_nuclei(tile(truth), Prediction(found))
    assert not untyped.confusion
    assert untyped.true_classes.tolist() == [*errors.true_classes.tolist(), "loose", "missed"]


def test_nothing_there_and_nothing_found():
    nothing = np.zeros((8, 8), np.int32)
    empty = classify_nuclei(tile(nothing), Prediction(nothing)).counts()
    assert np.isnan(repaired_quality([empty], mean_iou([empty]))["missed"])
    alone = classify_nuclei(tile(nothing), prediction(np.eye(8, dtype=np.int32) * 3, ())).counts()
    assert alone.pred == {"spurious": 1}
    quality = repaired_quality([alone, empty], mean_iou([alone]))
    assert quality["none"] == 0
    assert np.isnan(quality["spurious"])


def test_counts_of_tiles_add():
    truth, found = one_of_each()
    counts = classify_nuclei(tile(truth), prediction(found)).counts()
    total = counts + counts
    assert total.true["merged"] == 4
    assert total.iou_sum == 2 * counts.iou_sum
    assert total.panoptic().pq == pytest.approx(counts.panoptic().pq)
    assert (ErrorCounts() + counts).confusion == counts.confusion
