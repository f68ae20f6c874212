"""Why: scores are meant as probabilities; their calibration error must be the textbook one."""

import math

import numpy as np
import pytest

from cfsam_hf.metrics import calibration_counts, matched_nuclei, overlap_table, score_calibration_counts

from .. import metrics_literal as literal


def test_literal_definition():
    rng = np.random.default_rng(0)
    for num_bins in (1, 7, 15):
        for _ in range(50):
            scores = np.append(rng.random(rng.integers(0, 60)), [0, 1])
            matched = rng.random(len(scores)) < scores
            found = calibration_counts(scores, matched, num_bins=num_bins)
            assert found.ece == pytest.approx(literal.calibration_error(scores, matched, num_bins))
            assert found.counts.sum() == len(scores)


def test_counts_pool_over_images():
    rng = np.random.default_rng(1)
    scores, matched = rng.random(100), rng.random(100) < 0.5
    parts = [calibration_counts(scores[i::3], matched[i::3]) for i in range(3)]
    assert sum(parts).ece == pytest.approx(calibration_counts(scores, matched).ece)
    with pytest.raises(ValueError, match="15 and 10 bins"):
        parts[0] + calibration_counts(scores, matched, num_bins=10)


def test_honest_scores_err_little_and_boasting_scores_much():
    rng = np.random.default_rng(2)
    scores = rng.random(50_000)
    matched = rng.random(50_000) < scores
    honest = calibration_counts(scores, matched)
    assert honest.ece < 0.01
    np.testing.assert_allclose(honest.mean_scores, honest.match_rates, atol=0.04)
    assert calibration_counts(np.ones(50_000), matched).ece == pytest.approx(0.5, abs=0.01)


def test_outcomes_of_label_maps():
    true = np.array([[1, 1, 1, 0, 2, 2]])
    pred = np.array([[9, 9, 0, 0, 0, 4]])
    # IoU 2/3 is a match, IoU 1/2 is none.
    assert matched_nuclei(true, pred) == {4: False, 9: True}
    counts = score_calibration_counts(overlap_table(true, pred), scores={4: 0.3, 9: 0.9}, num_bins=10)
    assert counts.ece == pytest.approx((0.3 + 0.1) / 2)
    assert counts.matched.tolist() == [0] * 9 + [1]


def test_no_nuclei():
    nothing = np.zeros((3, 3), int)
    counts = score_calibration_counts(nothing, nothing, scores=[])
    assert math.isnan(counts.ece)
    assert np.isnan(counts.mean_scores).all()


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got 1.5"):
        calibration_counts([1.5], [True])
    with pytest.raises(ValueError, match="got nan"):
        calibration_counts([math.nan], [True])
    with pytest.raises(ValueError, match="alike"):
        calibration_counts([0.5], [True, False])
    with pytest.raises(ValueError, match="num_bins must be at least 1"):
        calibration_counts([0.5], [True], num_bins=0)
    with pytest.raises(ValueError, match="scores has none for id 2"):
        score_calibration_counts(np.array([[1]]), np.array([[2]]), scores=[0.5])
