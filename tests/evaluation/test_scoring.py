"""Why: scoring must compare what is comparable, name what is not, and not depend on which process computes it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cfsam_hf.data import UNKNOWN_TYPE, Tile, TileRecord
from cfsam_hf.evaluation import Prediction, Processes, System, evaluate_records, score_tile, summarize_tiles
from cfsam_hf.evaluation.pannuke_protocol import average_folds
from cfsam_hf.evaluation.per_image import per_image_table
from cfsam_hf.evaluation.results import dataset_record, results_record
from cfsam_hf.evaluation.tables import report

from ..data_cases import nuclei, painted

NAMES = {1: "round", 2: "long"}
TRUTH = nuclei(ids=(1, 2, 3, 4))
TYPES = np.array([0, 1, 2, 1, 2], np.int16)
COUNTS = {"images", "true_nuclei", "pred_nuclei", "true_nuclei_without_type"}


def tile(name="a", *, typed=True, tissue=None, **fields):
    fields = {"mpp": 0.25, "type_names": NAMES if typed else {}} | fields
    return Tile(painted(TRUTH), TRUTH, TYPES[TRUTH] if typed else None, name, tissue=tissue, **fields)


def perfect(**fields):
    return Prediction(TRUTH, TYPES[1:].astype(int), NAMES, **fields)


def test_types_are_compared_by_name():
    swapped = Prediction(TRUTH, 3 - TYPES[1:].astype(int), {1: "long", 2: "round"})
    for prediction in (perfect(), swapped):
        scores = summarize_tiles([score_tile(tile(), prediction)])
        assert scores["type_f1_pooled/round"] == scores["type_f1_pooled/long"] == scores["pq_mean_over_images"] == 1
    assert score_tile(tile(), swapped).type_names == ("long", "round")


@pytest.mark.parametrize(
    ("of_tile", "prediction"),
    [
        (tile(typed=False), perfect()),
        (tile(), Prediction(TRUTH)),
        (tile(type_names={1: "round", 2: "oval"}), perfect()),
        (Tile(painted(TRUTH), TRUTH, np.where(TRUTH > 0, UNKNOWN_TYPE, 0), "a", type_names=NAMES), perfect()),
    ],
)
def test_without_types_on_both_sides_none_are_scored(of_tile, prediction):
    record = TileRecord("d", of_tile.id, None, None, decode=lambda record: of_tile)
    [score] = evaluate_records([record], System("s", lambda tile: prediction))
    assert score.type_names is None
    assert (score.metrics.typed, score.metrics.detection.true_positives) == (None, 4)
    scores = summarize_tiles([score])
    assert not any(name.startswith(("type_", "mpq")) for name in scores)
    assert "true_nuclei_without_type" not in scores
    # It is the data set that decides, also where single tiles were scored.
    assert summarize_tiles([score_tile(of_tile, prediction)]) == scores


def without_type(ids, name="a", typed_pixels=0):
    """A tile in which the nuclei of these ids have no type, but for some of their pixels."""
    types = TYPES[TRUTH]
    for label in ids:
        places = np.flatnonzero(label == TRUTH)
        types.flat[places[typed_pixels:]] = UNKNOWN_TYPE
    return Tile(painted(TRUTH), TRUTH, types, name, mpp=0.25, type_names=NAMES)


@pytest.mark.parametrize(
    ("tiles", "reason"),
    [
        (
            [tile("a"), tile("b", type_names={1: "round", 2: "oval"}), tile("c")],
            "tile b: the type 'oval' is none of the system's (round, long)",
        ),
        (
            [tile("a"), tile("b", typed=False, mpp=0.5)],
            "the prediction of tile b has no types, but those of other tiles have",
        ),
        ([without_type([1, 2, 3, 4], "a"), tile("b", typed=False)], "no true nucleus has a known type"),
    ],
)
def test_the_record_and_the_report_say_why_types_were_not_compared(tiles, reason):
    system = System("s", lambda tile: Prediction(TRUTH) if tile.mpp == 0.5 else perfect())
    records = [TileRecord("d", t.id, None, None, decode=lambda r, t=t: t) for t in tiles]
    found = dataset_record(evaluate_records(records, system), resamples=10)
    assert found["types_not_compared"] == reason
    assert (found["types"], found["scores"]["detection_f1_pooled"]) == ([], 1)
    text = report(results_record(system, "all", {}, {"d": found}))
    assert f"Types of d are not compared: {reason}." in text.splitlines()
    folds = average_folds([dataset_record([score_tile(tile(), perfect())], resamples=10), found])
    assert folds["types_not_compared"] == reason


def test_no_reason_is_given_where_types_are_compared_or_one_side_has_none():
    for of_tile, prediction in ((tile(), perfect()), (tile(typed=False), perfect()), (tile(), Prediction(TRUTH))):
        found = dataset_record([score_tile(of_tile, prediction)], resamples=10)
        assert "types_not_compared" not in found
        assert "not compared" not in report(results_record(System("s", None), "all", {}, {"d": found}))


def test_a_few_pixels_or_unannotated_nuclei_without_type_keep_no_type_from_being_scored():
    annotated = TRUTH != 2
    for of_tile in (without_type([2], typed_pixels=1), replace(without_type([2]), annotated=annotated)):
        score = score_tile(of_tile, perfect())
        assert score.type_names == ("round", "long")
        scores = summarize_tiles([score])
        assert scores["type_f1_pooled/round"] == scores["type_f1_pooled/long"] == 1


@pytest.mark.parametrize("second", [without_type([3], "b"), without_type([1, 2, 3, 4], "b"), tile("b", typed=False)])
def test_nuclei_of_unknown_type_are_left_out_of_the_scores_of_types_alone(second):
    """Nucleus 3 of tile b is round; the system calls it long and misses 4, which is long."""
    found = Prediction(np.where(TRUTH == 4, 0, TRUTH), np.array([1, 2, 2]), NAMES)
    tiles = [score_tile(tile("a"), perfect()), score_tile(second, found)]
    record = dataset_record(tiles, resamples=10)
    unknown = 1 if second.type_map is not None and (second.type_map == 1).any() else 4
    assert "types_not_compared" not in record
    scores = record["scores"]
    assert (scores["true_nuclei"], scores["true_nuclei_without_type"]) == (8, unknown)
    assert scores["detection_recall_pooled"] == 7 / 8
    assert scores["pq_mean_over_images"] == scores["bpq_mean_over_images"] == pytest.approx((1 + 6 / 7) / 2)
    # Of the typed nuclei only number 4 of tile b, where it has a type, is missed.
    assert scores["type_accuracy_pooled"] == scores["type_f1_pooled/round"] == scores["type_pq_pooled/round"] == 1
    assert scores["type_f1_pooled/long"] == scores["type_pq_pooled/long"] == (6 / 7 if unknown == 1 else 1)
    assert set(record["intervals"]) == set(scores) - COUNTS
    text = report(results_record(System("s", None), "all", {}, {"d": record}))
    assert f"d: true nuclei without a known type: {unknown} of 8." in text
    per_image = per_image_table({"d": tiles})
    assert per_image["true_nuclei_without_type"].tolist() == [0, unknown]
    folds = average_folds([record, dataset_record(tiles[:1], resamples=10)])
    assert folds["scores"]["true_nuclei_without_type"] == unknown


def test_a_tissue_without_a_known_type_has_no_scores_of_types():
    untyped = replace(without_type([1, 2, 3, 4], "b"), tissue="Breast")
    tiles = [score_tile(t, perfect()) for t in (tile("a", tissue="Colon"), untyped)]
    record = dataset_record(tiles, resamples=10)
    breast, colon = (record["tissues"][name] for name in ("Breast", "Colon"))
    assert record["scores"]["mpq_mean_over_tissues"] == colon["scores"]["mpq_mean_over_images"] == 1
    assert not any(name.startswith(("type_", "mpq")) for part in breast.values() for name in part)
    for part in (breast, colon):
        assert set(part["intervals"]) == set(part["scores"]) - COUNTS


def test_predictions_of_other_types_from_tile_to_tile_are_told_of():
    swapped = Prediction(TRUTH, 3 - TYPES[1:].astype(int), {1: "long", 2: "round"})
    found = dataset_record([score_tile(tile("a"), perfect()), score_tile(tile("b"), swapped)], resamples=10)
    assert found["types_not_compared"] == "the predicted types are round, long in tile a, long, round in tile b"


def test_a_mixture_of_typed_and_untyped_predictions_is_scored_without_types():
    tiles = [score_tile(tile(), perfect()), score_tile(tile(), Prediction(TRUTH))]
    scores = summarize_tiles(tiles)
    assert (scores["true_nuclei"], scores["detection_f1_pooled"]) == (8, 1)
    assert not any(name.startswith(("type_", "mpq")) for name in scores)
    assert set(dataset_record(tiles, resamples=10)["intervals"]) == set(scores) - COUNTS


def test_what_is_not_annotated_does_not_count():
    annotated = np.ones(TRUTH.shape, bool)
    annotated[TRUTH == 2] = False
    found = np.where(TRUTH == 2, 0, TRUTH)
    metrics = score_tile(tile(annotated=annotated), Prediction(found)).metrics
    assert (metrics.panoptic.num_true, metrics.panoptic.pq) == (3, 1)


def test_predictions_that_do_not_fit_name_the_tile():
    with pytest.raises(ValueError, match=r"tile a: the prediction is \(5, 5\)"):
        score_tile(tile(), Prediction(np.zeros((5, 5), int)))
    with pytest.raises(ValueError, match="tile a: pred_types has no type for id 2"):
        score_tile(tile(), Prediction(TRUTH, {1: 1}, NAMES))
    with pytest.raises(TypeError, match="tile a: pred must be an integer label map"):
        score_tile(tile(), Prediction(TRUTH.astype(float)))


def test_both_averages_and_the_scores_of_each_tissue():
    half = Prediction(np.where(TRUTH > 2, 0, TRUTH))
    tiles = [score_tile(tile(str(i), tissue="Colon"), Prediction(TRUTH)) for i in range(3)]
    tiles.append(score_tile(tile("3", tissue="Breast"), half))
    record = dataset_record(tiles, resamples=50)
    low = 2 / 3
    assert record["scores"]["bpq_mean_over_images"] == pytest.approx((3 + low) / 4)
    assert record["scores"]["bpq_mean_over_tissues"] == pytest.approx((1 + low) / 2)
    assert list(record["tissues"]) == ["Breast", "Colon"]
    assert record["tissues"]["Breast"]["scores"]["images"] == 1
    assert record["tissues"]["Breast"]["scores"]["pq_mean_over_images"] == pytest.approx(low)
    assert not any("/" in name for name in record["scores"])
    interval = record["intervals"]["pq_mean_over_images"]
    assert interval[0] < record["scores"]["pq_mean_over_images"] < interval[1]
    assert "tissues" not in dataset_record([score_tile(tile(), perfect())], resamples=10)


def test_scores_of_single_images():
    tiles = [score_tile(tile("a"), perfect(scores=np.full(4, 0.5))), score_tile(tile("b"), Prediction(TRUTH * 0))]
    table = per_image_table({"one": tiles[:1], "two": tiles[1:]})
    assert table["tile"].tolist() == ["a", "b"]
    assert table["dataset"].tolist() == ["one", "two"]
    assert table["pq"].tolist() == [1, 0]
    assert table["detection_f1"].tolist() == [1, 0]
    assert table["type_f1/long"][0] == 1
    assert math.isnan(table["type_f1/long"][1])
    assert table["score_ece"][0] == 0.5


def records(count):
    return [
        TileRecord("painted", str(i), None, None, decode=lambda record: tile(record.id, typed=False))
        for i in range(count)
    ]


def painted_system(seen):
    """Finds as many nuclei as the tile's name says."""

    def predict(of_tile):
        seen.append(of_tile.id)
        return Prediction(np.where(int(of_tile.id) % 5 >= TRUTH, TRUTH, 0))

    return System("painted", predict)


@pytest.mark.parametrize(("count", "tiles"), [(2, 5), (3, 2), (4, 4)])
def test_every_tile_is_done_once_and_the_order_is_kept(count, tiles, monkeypatch):
    seen, gathered = [], []
    shares = [Processes() for _ in range(count)]
    monkeypatch.setattr(
        Processes, "gather", lambda self, found: gathered.extend(found) or [score for _, score in found]
    )
    for rank, processes in enumerate(shares):
        processes.rank, processes.count = rank, count
        if processes.share(range(tiles)):
            evaluate_records(records(tiles), painted_system(seen), processes)
    monkeypatch.undo()
    assert sorted(seen) == [str(i) for i in range(tiles)]
    assert [score.id for score in Processes().gather(gathered)] == [str(i) for i in range(tiles)]
    alone = evaluate_records(records(tiles), painted_system([]))
    assert summarize_tiles(Processes().gather(gathered)) == summarize_tiles(alone)


def test_no_tiles():
    with pytest.raises(ValueError, match="no tiles to evaluate"):
        evaluate_records([], painted_system([]))
