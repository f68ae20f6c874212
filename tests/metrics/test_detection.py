"""Why: detection and type F1 appear beside published figures; pairing and formula must be HoVer-Net's."""

import math

import numpy as np
import pytest

from cfsam_hf.metrics import (
    UNKNOWN_TYPE,
    DetectionCounts,
    detection_counts,
    detection_counts_from_centroids,
    detection_radius,
    pair_centroids,
)

from .. import metrics_literal as literal


def random_points(rng, side=60.0, most=15):
    """A true and a predicted set: some points found with jitter, some lost, some invented; and their types 1..3."""
    true = rng.random((rng.integers(0, most), 2)) * side
    found = true[rng.random(len(true)) < 0.7]
    pred = np.concatenate([found + rng.normal(0, 5, found.shape), rng.random((rng.integers(0, most // 2), 2)) * side])
    return true, pred, rng.integers(1, 4, len(true)), rng.integers(1, 4, len(pred))


def test_counts_and_type_f1_are_the_literal_ones():
    rng = np.random.default_rng(0)
    pooled, lists = 0, ([], [], [])
    for _ in range(500):
        true_xy, pred_xy, true_types, pred_types = random_points(rng)
        counts = detection_counts_from_centroids(
            true_xy, pred_xy, true_types=true_types, pred_types=pred_types, num_types=4
        )
        expected = literal.detection(true_xy, pred_xy, true_types.tolist(), pred_types.tolist(), 12)
        assert counts.true_positives == len(expected[0])
        assert counts.false_negatives == len(expected[1])
        assert counts.false_positives == len(expected[2])
        for kind in range(1, 5):
            f1, f1_literal = counts.type_f1[kind - 1], literal.type_f1(*expected, kind)
            assert f1 == pytest.approx(f1_literal, nan_ok=True)
        pooled += counts
        for collected, of_image in zip(lists, expected, strict=True):
            collected += of_image
    paired, missed, spurious = lists
    assert pooled.f1 == 2 * len(paired) / (2 * len(paired) + len(missed) + len(spurious))
    assert pooled.type_accuracy == pytest.approx(np.mean([t == p for t, p in paired]))
    np.testing.assert_allclose(pooled.type_f1[:3], [literal.type_f1(*lists, kind) for kind in (1, 2, 3)])
    assert math.isnan(pooled.type_f1[3])
    harmonic = 2 * pooled.type_precision * pooled.type_recall / (pooled.type_precision + pooled.type_recall)
    np.testing.assert_allclose(harmonic, pooled.type_f1)


def test_true_nuclei_of_unknown_type_are_detected_and_in_no_score_of_types():
    rng = np.random.default_rng(3)
    pooled, lists = 0, ([], [], [])
    for _ in range(500):
        true_xy, pred_xy, true_types, pred_types = random_points(rng)
        true_types[rng.random(len(true_types)) < 0.3] = UNKNOWN_TYPE
        counts = detection_counts_from_centroids(
            true_xy, pred_xy, true_types=true_types, pred_types=pred_types, num_types=4
        )
        everything = detection_counts_from_centroids(true_xy, pred_xy)
        assert (counts.f1, counts.precision, counts.recall) == pytest.approx(
            (everything.f1, everything.precision, everything.recall), nan_ok=True
        )
        paired, missed, spurious = literal.detection(true_xy, pred_xy, true_types.tolist(), pred_types.tolist(), 12)
        assert counts.num_unknown == (true_types == UNKNOWN_TYPE).sum()
        assert counts.unknown_missed == missed.count(UNKNOWN_TYPE)
        pooled += counts
        lists[0].extend(pair for pair in paired if pair[0] != UNKNOWN_TYPE)
        lists[1].extend(kind for kind in missed if kind != UNKNOWN_TYPE)
        lists[2].extend(spurious)
    assert pooled.unknown_paired > 300
    np.testing.assert_allclose(pooled.type_f1[:3], [literal.type_f1(*lists, kind) for kind in (1, 2, 3)])
    assert pooled.type_accuracy == pytest.approx(np.mean([t == p for t, p in lists[0]]))
    harmonic = 2 * pooled.type_precision * pooled.type_recall / (pooled.type_precision + pooled.type_recall)
    np.testing.assert_allclose(harmonic, pooled.type_f1)


def test_pairing_within_radius_is_the_closest_of_all():
    rng = np.random.default_rng(1)
    for _ in range(200):
        true_xy, pred_xy, *_ = random_points(rng, side=30, most=7)
        left, right = pair_centroids(true_xy, pred_xy, 12, pairing="within_radius")
        distances = np.linalg.norm(true_xy[left] - pred_xy[right], axis=1)
        assert len(set(left)) == len(set(right)) == len(left)
        assert (distances <= 12).all()
        best = literal.closest_within_radius(true_xy.tolist(), pred_xy.tolist(), 12)
        assert (12 - distances).sum() == pytest.approx(best, abs=1e-6)


def test_the_published_pairing_gives_up_near_pairs_for_far_ones():
    true_xy, pred_xy = [[0, 0], [10, 0]], [[10, 0], [21, 0.5]]
    assert len(pair_centroids(true_xy, pred_xy, 12, pairing="hovernet")[0]) == 1
    # The farther pair costs more than the nearer one gains: leaving it alone is closer.
    assert pair_centroids(true_xy, pred_xy, 12, pairing="within_radius")[0].tolist() == [1]
    # A far false alarm takes a near pair away from the published pairing (4 + 57.1 < 3 + 60), not from the local one.
    true_xy, near, far = [[0, 0], [4, 3]], [4, 0], [0, 60]
    assert pair_centroids(true_xy, [near], 3.5)[0].tolist() == [1]
    assert pair_centroids(true_xy, [near, far], 3.5)[0].tolist() == []
    assert pair_centroids(true_xy, [near, far], 3.5, pairing="within_radius")[0].tolist() == [1]


@pytest.mark.parametrize("pairing", ["hovernet", "within_radius"])
def test_the_order_of_points_changes_nothing(pairing):
    rng = np.random.default_rng(2)
    for _ in range(200):
        # Points on a coarse grid: equal distances everywhere.
        true_xy = np.unique(rng.integers(0, 6, (12, 2)), axis=0) * 5
        pred_xy = np.unique(rng.integers(0, 6, (9, 2)), axis=0) * 5
        shuffle_true, shuffle_pred = rng.permutation(len(true_xy)), rng.permutation(len(pred_xy))
        left, right = pair_centroids(true_xy, pred_xy, 6, pairing=pairing)
        new_left, new_right = pair_centroids(true_xy[shuffle_true], pred_xy[shuffle_pred], 6, pairing=pairing)
        found = sorted(zip(shuffle_true[new_left].tolist(), shuffle_pred[new_right].tolist(), strict=True))
        assert found == list(zip(left.tolist(), right.tolist(), strict=True))


@pytest.mark.parametrize("pairing", ["hovernet", "within_radius"])
def test_the_radius_belongs_to_the_circle(pairing):
    assert len(pair_centroids([[0, 0]], [[12, 0]], 12, pairing=pairing)[0]) == 1
    assert len(pair_centroids([[0, 0]], [[12.001, 0]], 12, pairing=pairing)[0]) == 0
    assert pair_centroids([[5, 5], [5, 5]], [[5, 5]], 12, pairing=pairing)[0].shape == (1,)


def test_label_maps_and_types_in_all_three_forms():
    true = np.zeros((30, 40), np.uint16)
    true[2:8, 2:8], true[2:8, 12:18], true[20:26, 20:26] = 1, 2, 3
    pred = np.zeros_like(true)
    pred[3:9, 2:8], pred[20:26, 21:27], pred[20:26, 34:38] = 1, 2, 3
    type_map = np.select([true == 1, true == 2, true == 3], [2, 1, 2], 0)
    forms = [[2, 1, 2], {1: 2, 2: 1, 3: 2}, type_map]
    for true_types in forms:
        counts = detection_counts(true, pred, true_types=true_types, pred_types=np.array([2, 1, 1]), radius=6)
        assert counts.pairs.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]
        assert counts.missed.tolist() == [0, 1, 0]
        assert counts.spurious.tolist() == [0, 1, 0]
        # Type 2: one right pair, one pair denied the type. Type 1: that pair wrongly given, one missed, one invented.
        assert counts.type_f1.tolist() == [0.0, 0.5]


def test_counts_of_fewer_types_add():
    one = detection_counts_from_centroids([[1, 1]], [[1, 1]], true_types=[1], pred_types=[1])
    two = detection_counts_from_centroids([[1, 1]], [[1, 1]], true_types=[3], pred_types=[1])
    total = sum([one, DetectionCounts(), two])
    assert total.num_types == 3
    assert total.pairs.sum() == 2
    np.testing.assert_array_equal(total.type_f1, [2 / 4, np.nan, 0.0])


def test_empty_sides():
    nothing = detection_counts_from_centroids([], [])
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.recall)
    misses = detection_counts_from_centroids([[1, 2]], [])
    assert (misses.f1, misses.recall) == (0.0, 0.0)
    assert math.isnan(misses.precision)
    alarms = detection_counts_from_centroids([], [[1, 2]])
    assert (alarms.f1, alarms.precision) == (0.0, 0.0)


def test_radius_follows_resolution():
    assert [detection_radius(mpp) for mpp in (0.25, 0.5)] == [12, 6]
    with pytest.raises(ValueError, match="mpp must be positive"):
        detection_radius(0)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"true_xy must be \(N, 2\)"):
        pair_centroids([[1, 2, 3]], [[1, 2]])
    with pytest.raises(ValueError, match="not finite"):
        pair_centroids([[1, np.nan]], [[1, 2]])
    with pytest.raises(ValueError, match="radius must be positive"):
        pair_centroids([[1, 2]], [[1, 2]], -1)
    with pytest.raises(ValueError, match="pairing must be one of"):
        pair_centroids([[1, 2]], [[1, 2]], pairing="greedy")
    with pytest.raises(TypeError, match="both true_types and pred_types"):
        detection_counts_from_centroids([[1, 2]], [[1, 2]], true_types=[1])
    with pytest.raises(ValueError, match="1 true points but 2 true types"):
        detection_counts_from_centroids([[1, 2]], [[1, 2]], true_types=[1, 1], pred_types=[1])
    with pytest.raises(ValueError, match=r"holds type 5, allowed are 0..4"):
        detection_counts_from_centroids([[1, 2]], [[1, 2]], true_types=[5], pred_types=[1], num_types=4)
    with pytest.raises(TypeError, match="true_types must be integers"):
        detection_counts_from_centroids([[1, 2]], [[1, 2]], true_types=[1.5], pred_types=[1])
    with pytest.raises(ValueError, match="use pairing='within_radius'"):
        pair_centroids(np.zeros((2**15, 2)), np.zeros((2**15, 2)))
