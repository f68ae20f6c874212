"""Why: one call scores an image and one makes the data set's table; both must equal the single metrics."""

import math

import numpy as np
import pytest

from cfsam_hf.metrics import (
    UNKNOWN_TYPE,
    aggregated_jaccard_index,
    boundary_counts,
    detection_counts,
    image_metrics,
    pannuke_quality,
    panoptic_quality,
    summarize,
    typed_panoptic_quality,
)

from .. import metrics_literal as literal


def many_nuclei(side):
    """side x side discs of 8 px, and the same moved by (1, 1) with every 7th lost."""
    disc = np.hypot(*np.mgrid[-4:5, -4:5]) <= 3.6
    true = np.kron(np.arange(1, side * side + 1).reshape(side, side), disc).astype(np.int32)
    pred = np.roll(true, (1, 1), (0, 1))
    return true, np.where(pred % 7 == 0, 0, pred)


def test_table_of_a_data_set():
    rng = np.random.default_rng(0)
    pairs = [literal.random_pair(rng) for _ in range(12)]
    types = [[{int(n): 1 + int(n) % 2 for n in np.unique(side) if n} for side in pair] for pair in pairs]
    scores = [{int(n): 0.7 for n in np.unique(pred) if n} for _, pred in pairs]
    tissues = ["Breast", "Colon", "Liver"] * 4
    images = [
        image_metrics(*pair, true_types=kinds[0], pred_types=kinds[1], num_types=2, pred_scores=score)
        for pair, kinds, score in zip(pairs, types, scores, strict=True)
    ]
    table = summarize(images, tissues=tissues, type_names=["round", "long"])

    def mean(scores):
        return pytest.approx(literal.mean_defined(list(scores)))

    assert table["images"] == 12
    assert table["aji_mean_over_images"] == mean(aggregated_jaccard_index(*pair) for pair in pairs)
    assert table["pq_mean_over_images"] == mean(panoptic_quality(*pair).pq for pair in pairs)
    assert table["pq_pooled"] == sum(panoptic_quality(*pair) for pair in pairs).pq
    assert table["boundary_f1_pooled"] == sum(boundary_counts(*pair) for pair in pairs).f1
    both = list(zip(pairs, types, strict=True))
    detection = sum(detection_counts(*pair, true_types=k[0], pred_types=k[1]) for pair, k in both)
    assert table["detection_f1_pooled"] == detection.f1
    assert table["type_f1_pooled/long"] == detection.type_f1[1]
    typed = [typed_panoptic_quality(*pair, true_types=k[0], pred_types=k[1], num_types=2) for pair, k in both]
    pannuke = pannuke_quality(typed, tissues)
    assert table["mpq_mean_over_tissues"] == pannuke.mpq_over_tissues
    assert table["bpq_mean_over_images/Colon"] == pannuke.tissue_bpq["Colon"]
    hits = sum(image.panoptic.true_positives for image in images)
    assert table["score_ece_pooled"] == pytest.approx(abs(0.7 - hits / table["pred_nuclei"]))
    assert all(isinstance(value, int | float) for value in table.values())


def typed_metrics(true, pred, true_types, pred_types, scores):
    return image_metrics(true, pred, true_types=true_types, pred_types=pred_types, num_types=2, pred_scores=scores)


def test_a_perfect_prediction_scores_one_everywhere():
    rng = np.random.default_rng(1)
    images = []
    for _ in range(20):
        true = literal.random_label_map(rng)
        names = {int(n): 1 + int(n) % 2 for n in np.unique(true) if n}
        pred, renamed = literal.renamed(rng, true)
        pred_types = {new: names[old] for old, new in renamed.items()}
        images.append(typed_metrics(true, pred, names, pred_types, dict.fromkeys(pred_types, 1.0)))
    table = summarize(images, tissues=["Breast", "Colon"] * 10, type_names=["round", "long"])
    assert table.pop("images") == 20
    assert table.pop("true_nuclei") == table.pop("pred_nuclei") > 50
    assert table.pop("score_ece_pooled") == table.pop("true_nuclei_without_type") == 0
    # Dice2 counts a nucleus as often as it overlaps one, here once.
    assert {name: value for name, value in table.items() if value != pytest.approx(1, abs=1e-12)} == {}


def test_permuting_ids_changes_no_score_at_all():
    rng = np.random.default_rng(2)
    for _ in range(60):
        true, pred = literal.random_pair(rng, size=10)
        sides = [{int(n): 1 + int(n) % 2 for n in np.unique(side) if n} for side in (true, pred)]
        scores = {n: 1 / (1 + n % 5) for n in sides[1]}
        (new_true, of_true), (new_pred, of_pred) = literal.renamed(rng, true), literal.renamed(rng, pred)
        renamed = typed_metrics(
            new_true,
            new_pred,
            {of_true[n]: kind for n, kind in sides[0].items()},
            {of_pred[n]: kind for n, kind in sides[1].items()},
            {of_pred[n]: score for n, score in scores.items()},
        )
        found, expected = summarize([renamed]), summarize([typed_metrics(true, pred, *sides, scores)])
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


def test_untyped_images_have_no_typed_scores():
    true = np.eye(5, dtype=int)
    images = [image_metrics(true, true), image_metrics(true, true, pred_scores=[0.5])]
    table = summarize(images)
    # bPQ needs no types.
    assert table["bpq_mean_over_images"] == 1
    assert summarize(images, tissues=["Skin", "Lung"])["bpq_mean_over_tissues"] == 1
    assert not [name for name in table if "type" in name or "mpq" in name or "ece" in name]
    assert table["dice_mean_over_images"] == 1


def test_unknown_types_change_no_score_but_those_of_types():
    rng = np.random.default_rng(5)
    known, unknown, nuclei = [], [], 0
    for _ in range(30):
        true, pred = literal.random_pair(rng)
        sides = [{int(n): 1 + int(n) % 2 for n in np.unique(side) if n} for side in (true, pred)]
        hidden = sides[0] | {n: UNKNOWN_TYPE for n in sides[0] if n % 3 == 0}
        nuclei += sum(n % 3 == 0 for n in sides[0])
        scores = dict.fromkeys(sides[1], 0.5)
        known.append(typed_metrics(true, pred, *sides, scores))
        unknown.append(typed_metrics(true, pred, hidden, sides[1], scores))
    known, unknown = summarize(known), summarize(unknown)
    assert (known.pop("true_nuclei_without_type"), unknown.pop("true_nuclei_without_type")) == (0, nuclei)
    assert nuclei > 20
    changed = {name.partition("/")[0] for name in known if known[name] != pytest.approx(unknown[name], nan_ok=True)}
    assert all(name.startswith(("type_", "mpq", "r2")) for name in changed)
    assert {"mpq_plus_pooled", "type_f1_pooled", "type_accuracy_pooled"} <= changed
    assert known.keys() == unknown.keys()


def test_an_image_without_anything_leaves_the_means_alone():
    true, nothing = np.eye(5, dtype=int), np.zeros((5, 5), int)
    table = summarize([image_metrics(true, true), image_metrics(nothing, nothing)])
    assert table["pq_mean_over_images"] == table["aji_mean_over_images"] == 1
    assert math.isnan(summarize([image_metrics(nothing, nothing)])["pq_mean_over_images"])


def test_ten_thousand_nuclei():
    true, pred = many_nuclei(100)
    types = {number: 1 + number % 5 for number in range(1, 10_001)}
    metrics = image_metrics(
        true, pred, true_types=types, pred_types=types, num_types=5, radius=6, pairing="within_radius"
    )
    assert (metrics.panoptic.num_true, metrics.panoptic.num_pred) == (10_000, 8_572)
    area = (true == 1).sum()
    shared = (true * (true == pred) > 0).sum() / 8_572
    assert metrics.panoptic.sq == pytest.approx(shared / (2 * area - shared))
    assert metrics.panoptic.dq == metrics.detection.f1 == pytest.approx(2 * 8_572 / 18_572)
    assert metrics.detection.type_recall == pytest.approx(np.full(5, 0.857), abs=0.001)


@pytest.mark.slow
def test_ten_thousand_nuclei_with_the_published_pairing():
    true, pred = many_nuclei(100)
    counts = detection_counts(true, pred, radius=6)
    assert counts.false_positives + counts.true_positives == 8_572


def test_wrong_input_is_named():
    true = np.eye(3, dtype=int)
    with pytest.raises(ValueError, match="no images to summarize"):
        summarize([])
    with pytest.raises(ValueError, match="1 images but 2 tissues"):
        summarize([image_metrics(true, true)], tissues=["a", "b"])
    with pytest.raises(TypeError, match="both true_types and pred_types"):
        image_metrics(true, true, true_types=[1], num_types=1)
    typed = image_metrics(true, true, true_types=[1], pred_types=[1], num_types=1)
    with pytest.raises(ValueError, match="2 type names for 1 types"):
        summarize([typed], type_names=["background", "round"])
