"""The `evaluate` modules must load from their folder without network and agree with the plain functions."""

import numpy as np
import pytest

from cfsam_hf.metrics import (
    EVALUATE_MODULES,
    aggregated_jaccard_index,
    defined_mean,
    detection_counts,
    dice2,
    evaluate_module,
    overlap_table,
    pannuke_quality,
    panoptic_quality,
    typed_panoptic_quality,
    types_from_map,
)

from . import metrics_literal as literal

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


@pytest.mark.parametrize("name", EVALUATE_MODULES)
def test_modules_describe_themselves(load, name):
    metric = load(name)
    assert metric.name == name
    assert "@" in metric.citation
    assert "predictions" in metric.inputs_description


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="no evaluate module 'accuracy'; there are nuclei_"):
        evaluate_module("accuracy")
