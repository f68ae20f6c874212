"""Why: the `evaluate` modules must load from their folder without a network and agree with the functions."""

import numpy as np
import pytest

from cfsam_hf.metrics import (
    EVALUATE_MODULES,
    UNKNOWN_TYPE,
    aggregated_jaccard_index,
    boundary_counts,
    defined_mean,
    detection_counts,
    dice2,
    evaluate_module,
    overlap_table,
    pannuke_quality,
    panoptic_quality,
    score_calibration_counts,
    typed_panoptic_quality,
    types_from_map,
)

from .. import metrics_literal as literal

evaluate = pytest.importorskip("evaluate", reason="needs the extra `train`")


@pytest.fixture
def load(tmp_path):
    """Loads a module, with its cache in a folder of this test."""
    return lambda name: evaluate.load(evaluate_module(name), cache_dir=str(tmp_path))


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    return [literal.random_pair(rng, size) for size in (12, 20, 9, 15)]


def sides(pairs):
    return {"references": [true for true, _ in pairs], "predictions": [pred for _, pred in pairs]}


def test_panoptic_quality(load, pairs):
    found = load("nuclei_panoptic_quality").compute(**sides(pairs))
    images = [panoptic_quality(*pair) for pair in pairs]
    assert found["pq_mean_over_images"] == defined_mean(image.pq for image in images)
    assert found["pq_pooled"] == sum(images).pq
    assert found["true_positives"] == sum(images).true_positives


def test_batches_and_nested_lists_give_the_same(load, pairs):
    metric = load("nuclei_aggregated_jaccard_index")
    for true, pred in pairs[:2]:
        metric.add(reference=true.astype(np.uint16), prediction=pred.tolist())
    metric.add_batch(**sides(pairs[2:]))
    found = metric.compute()
    assert found["aji_mean_over_images"] == defined_mean(aggregated_jaccard_index(*pair) for pair in pairs)
    assert found["dice2_mean_over_images"] == defined_mean(dice2(*pair) for pair in pairs)


def test_detection(load, pairs):
    tables = [overlap_table(*pair) for pair in pairs]

    def rows(centroids, ids):
        return np.column_stack([centroids, 1 + ids % 2]).tolist()

    found = load("nuclei_detection").compute(
        references=[rows(table.true_centroids, table.true_ids) for table in tables],
        predictions=[rows(table.pred_centroids, table.pred_ids) for table in tables],
        num_types=2,
        radius=4,
    )
    types = [[{int(n): 1 + int(n) % 2 for n in np.unique(side) if n} for side in pair] for pair in pairs]
    expected = sum(
        detection_counts(*pair, true_types=kinds[0], pred_types=kinds[1], num_types=2, radius=4)
        for pair, kinds in zip(pairs, types, strict=True)
    )
    assert found["detection_f1_pooled"] == expected.f1
    assert found["type_f1_pooled"] == expected.type_f1.tolist()


def test_multiclass(load, pairs):
    def maps(side):
        return np.stack([side, np.where(side > 0, 1 + side % 3, 0)])

    tissues = ["Breast", "Colon", "Breast", "Liver"]
    found = load("nuclei_multiclass_panoptic_quality").compute(
        references=[maps(true) for true, _ in pairs],
        predictions=[maps(pred) for _, pred in pairs],
        num_types=3,
        tissues=tissues,
    )
    images = [
        typed_panoptic_quality(
            true,
            pred,
            true_types=types_from_map(*maps(true)),
            pred_types=types_from_map(*maps(pred)),
            num_types=3,
        )
        for true, pred in pairs
    ]
    expected = pannuke_quality(images, tissues)
    assert found["mpq_mean_over_tissues"] == expected.mpq_over_tissues
    assert found["type_pq_mean_over_images"] == pytest.approx(list(expected.type_pq), nan_ok=True)


def test_nuclei_of_unknown_type(load):
    maps = np.array([[[1, 1, 0, 2]], [[1, 1, 0, 2]]])
    hidden = np.where(maps[1:] == 2, UNKNOWN_TYPE, maps[1:])
    sides = {"predictions": [np.stack([maps[0], maps[0] > 0])], "references": [np.concatenate([maps[:1], hidden])]}
    found = load("nuclei_multiclass_panoptic_quality").compute(**sides, num_types=2)
    assert (found["bpq_mean_over_images"], found["mpq_plus_pooled"]) == (1, 1)
    points = {"predictions": [[[5, 5, 1], [50, 50, 1]]], "references": [[[5, 5, 1], [50, 50, UNKNOWN_TYPE]]]}
    found = load("nuclei_detection").compute(**points, num_types=2)
    assert (found["detection_f1_pooled"], found["type_f1_pooled"][0]) == (1, 1)


def test_boundary(load, pairs):
    images = [boundary_counts(*pair, tolerance=1) for pair in pairs]
    found = load("nuclei_boundary_f1").compute(**sides(pairs), tolerance=1)
    assert found["boundary_f1_mean_over_images"] == defined_mean(image.f1 for image in images)
    total = sum(images)
    assert found["boundary_f1_pooled"] == total.f1
    assert (found["boundary_precision_pooled"], found["boundary_recall_pooled"]) == (total.precision, total.recall)


def test_calibration(load, pairs):
    rng = np.random.default_rng(1)
    scores = [rng.random(pred.max()).tolist() for _, pred in pairs]
    expected = sum(
        score_calibration_counts(*pair, scores=s, num_bins=5) for pair, s in zip(pairs, scores, strict=True)
    )
    metric = load("nuclei_score_calibration")
    found = metric.compute(**sides(pairs), scores=scores, num_bins=5)
    assert found["score_ece_pooled"] == expected.ece > 0
    assert found["bin_counts"] == expected.counts.tolist()
    assert found["bin_match_rates"] == pytest.approx(expected.match_rates.tolist(), nan_ok=True)
    assert found["bin_mean_scores"] == pytest.approx(expected.mean_scores.tolist(), nan_ok=True)
    # Image by image it is the same.
    for (true, pred), of_image in zip(pairs, scores, strict=True):
        metric.add_batch(references=[true], predictions=[pred], scores=[of_image])
    assert metric.compute(num_bins=5)["score_ece_pooled"] == expected.ece


@pytest.mark.parametrize("name", EVALUATE_MODULES)
def test_modules_describe_themselves(load, name):
    metric = load(name)
    assert metric.name == name
    assert "@" in metric.citation
    assert "predictions" in metric.inputs_description


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="no evaluate module 'accuracy'; choose from nuclei_"):
        evaluate_module("accuracy")
