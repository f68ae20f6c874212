"""Why: Dice, AJI and PQ must equal the values of published code and their literal definitions.

`pytest -s tests/metrics/test_segmentation.py -k values` prints ours beside the reference.
"""

import json
import math

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.metrics import (
    PanopticQuality,
    aggregated_jaccard_index,
    aggregated_jaccard_index_plus,
    dice,
    dice2,
    overlap_table,
    panoptic_quality,
)

from .. import metrics_literal as literal

METRICS = {
    "dice": dice,
    "dice2": dice2,
    "aji": aggregated_jaccard_index,
    "aji_plus": aggregated_jaccard_index_plus,
    "pq": lambda *maps: panoptic_quality(*maps).pq,
}


def grey(path):
    return np.array(Image.open(path).convert("L"))


@pytest.mark.parametrize(
    ("name", "published"), [("pred_1", (0.6477, 0.4790, 0.6375, 0.6803)), ("pred_2", (0.9007, 0.6414, 0.6414, 0.6863))]
)
def test_published_values_of_hovernet(real_data, name, published):
    folder = real_data / "metric_oracles" / "hovernet"
    table = overlap_table(grey(folder / "true.png"), grey(folder / f"{name}.png"))
    found = [METRICS[metric](table) for metric in ("dice2", "aji", "aji_plus", "pq")]
    print(f"\nHoVer-Net, {name}: Dice2, AJI, AJI+, PQ")
    print(f"  published {published}\n  here      {tuple(round(value, 6) for value in found)}")
    assert [round(value, 4) for value in found] == list(published)


def test_reference_values_of_pannuke_patches(real_data):
    folder = real_data / "metric_oracles" / "pannuke_breast25"
    errors: dict[str, float] = {}
    for name, reference in json.loads((folder / "hovernet_stats_oracle.json").read_text()).items():
        stem = name.removesuffix(".png")
        maps = [np.array(Image.open(folder / "labels" / f"{stem}_{side}.png")) for side in ("true", "pred")]
        table = overlap_table(*maps)
        quality = panoptic_quality(table)
        assert (table.num_true, table.num_pred) == (reference["n_true"], reference["n_pred"])
        found = {
            "aji": aggregated_jaccard_index(table),
            "aji_plus": aggregated_jaccard_index_plus(table),
            "dq": quality.dq,
            "sq": quality.sq,
            "pq": quality.pq,
            "dice2": dice2(table),
        }
        for metric, value in found.items():
            assert value == pytest.approx(reference[metric], abs=5e-7), (name, metric)
            errors[metric] = max(errors.get(metric, 0.0), abs(value - reference[metric]))
    print("\nPanNuke breast patches, largest difference to HoVer-Net's code over the 25 images:")
    print("  " + ", ".join(f"{metric} {error:.1e}" for metric, error in errors.items()))
    assert len(errors) == 6


@pytest.mark.parametrize("seed", range(8))
def test_literal_definitions(seed):
    rng = np.random.default_rng(seed)
    for _ in range(250):
        true, pred = literal.random_pair(rng, size=14)
        table = overlap_table(true, pred)
        assert dice(table) == pytest.approx(literal.dice(true, pred), nan_ok=True)
        assert dice2(table) == pytest.approx(literal.dice2(true, pred), nan_ok=True)
        assert aggregated_jaccard_index(table) == pytest.approx(literal.aji(true, pred), nan_ok=True)
        quality = panoptic_quality(table)
        hits, false_positives, false_negatives, ious = literal.panoptic(true, pred)
        assert quality == PanopticQuality(hits, false_positives, false_negatives, pytest.approx(ious))
        assert quality.pq == pytest.approx(literal.pq(true, pred), nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_aji_plus_literal_definition(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(250):
        true, pred = literal.random_pair(rng, size=24)
        assert aggregated_jaccard_index_plus(true, pred) == pytest.approx(literal.aji_plus(true, pred)[0], nan_ok=True)


def test_permuting_ids_changes_nothing_at_all():
    # Small maps are full of ties, which an order of ids would break one way or the other.
    rng = np.random.default_rng(5)
    for _ in range(300):
        true, pred = literal.random_pair(rng, size=8)
        renamed = literal.renamed(rng, true)[0], literal.renamed(rng, pred)[0]
        for name, metric in METRICS.items():
            np.testing.assert_equal(metric(*renamed), metric(true, pred), err_msg=name)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_scores_one(name):
    rng = np.random.default_rng(6)
    for _ in range(100):
        true = literal.random_label_map(rng)
        if true.any():
            assert METRICS[name](true, literal.renamed(rng, true)[0]) == 1.0


@pytest.mark.parametrize("name", METRICS)
def test_empty_sides(name):
    nothing, something = np.zeros((4, 4), int), np.eye(4, dtype=int)
    assert METRICS[name](something, nothing) == 0.0
    assert METRICS[name](nothing, something) == 0.0
    assert math.isnan(METRICS[name](nothing, nothing))


def test_scores_in_range_and_aji_below_aji_plus_when_one_prediction_covers_all():
    true = np.repeat(np.arange(1, 5), 3)[None]
    pred = np.ones_like(true)
    assert aggregated_jaccard_index(true, pred) == pytest.approx(12 / 48)
    # One nucleus keeps the prediction (3 shared, 12 joined), the other three stay unpaired.
    assert aggregated_jaccard_index_plus(true, pred) == pytest.approx(3 / 21)


def test_panoptic_counts_add():
    total = sum([PanopticQuality(2, 1, 0, 1.5), PanopticQuality(), PanopticQuality(0, 0, 3, 0.0)])
    assert total == PanopticQuality(2, 1, 3, 1.5)
    assert (total.num_true, total.num_pred) == (5, 3)
    assert total.to_dict()["pq"] == total.dq * total.sq == 0.5 * 0.75
    with pytest.raises(TypeError):
        total + 1


def test_exactly_one_half_is_no_match():
    assert panoptic_quality(np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])).true_positives == 0
    quality = panoptic_quality(np.array([[1, 1, 1, 1, 0]]), np.array([[0, 1, 1, 1, 1]]))
    assert (quality.true_positives, quality.iou_sum) == (1, 0.6)
    assert panoptic_quality(np.array([[1, 1, 1, 1, 0]]), np.array([[0, 1, 1, 1, 1]]), iou_threshold=0.6).dq == 0


def test_a_table_and_a_map_together_are_refused():
    nuclei = np.eye(3, dtype=int)
    with pytest.raises(TypeError, match="not a table and a map"):
        dice(overlap_table(nuclei, nuclei), nuclei)
    with pytest.raises(TypeError, match="pred is missing"):
        dice(nuclei)
