"""A calibration that bends the scores the wrong way, or judges itself, would be worse than none."""

import numpy as np
import pytest
from scipy.special import expit, logit

from cfsam_hf.data import Tile
from cfsam_hf.evaluation.score_calibration import (
    LEAST_SLOPE,
    ScoredTile,
    describe_scores,
    fit_score_calibration,
    fit_tiles,
    leave_tiles_out,
    scored_tile,
)
from cfsam_hf.image_processing_cfsam import calibrated_scores

from .export_cases import make_result


def draw(count, slope, intercept, seed=0, tile="t"):
    """Nuclei that match with the probability `sigmoid(slope * logit + intercept)`; as many more were not found."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.5, 1.0, count)
    matched = rng.random(count) < expit(slope * logits + intercept)
    return ScoredTile(tile, expit(logits), matched, true_nuclei=2 * int(matched.sum()))


@pytest.mark.parametrize(("slope", "intercept"), [(0.6, -0.5), (1.8, -2.0), (1.0, 0.0), (0.2, 1.0)])
def test_the_fit_finds_the_truth_and_the_error_falls(slope, intercept):
    tile = draw(20_000, slope, intercept)
    found = fit_score_calibration(tile.probabilities, tile.matched)
    assert found == pytest.approx((slope, intercept), abs=0.06)
    others = draw(20_000, slope, intercept, seed=1)
    before = describe_scores([others], [others.probabilities])
    after = describe_scores([others], [calibrated_scores(others.probabilities, found)])
    assert after["ece"] < 0.015
    assert after["log_loss"] <= before["log_loss"] + 1e-4
    if (slope, intercept) != (1.0, 0.0):
        assert before["ece"] > 5 * after["ece"]


def test_the_fit_is_the_best_that_there_is():
    tile = draw(3000, 1.8, -2.0)
    best = fit_score_calibration(tile.probabilities, tile.matched)
    logits = logit(tile.probabilities)

    def loss(slope, intercept):
        z = slope * logits + intercept
        shift = z.mean() - logits.mean()
        return np.logaddexp(0, np.where(tile.matched, -z, z)).sum() + ((slope - 1) ** 2 + shift**2) / 2

    for step in ((0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01), (0.01, -0.01), (-0.01, 0.01)):
        assert loss(*best) < loss(best[0] + step[0], best[1] + step[1])


def test_few_nuclei_move_little_and_nothing_makes_it_infinite():
    few = fit_score_calibration([0.9, 0.8], [True, True])
    assert few == pytest.approx((1.0, 0.0), abs=0.5)
    slope, intercept = fit_score_calibration([0.6, 0.9] * 50, [False, True] * 50)
    assert 1 < slope < 10
    low, high = calibrated_scores(np.array([0.6, 0.9]), [slope, intercept])
    assert low < 0.1
    assert high > 0.9


def test_scores_that_tell_the_opposite_keep_their_order():
    slope, intercept = fit_score_calibration([0.6, 0.9] * 50, [True, False] * 50)
    assert slope == pytest.approx(LEAST_SLOPE)
    low, high = calibrated_scores(np.array([0.6, 0.9]), [slope, intercept])
    assert 0.45 < low < high < 0.55


@pytest.mark.parametrize(
    ("probabilities", "matched", "message"),
    [([], [], "no nuclei"), ([0.5], [True, False], "alike"), (0.5, True, "alike")],
)
def test_what_cannot_be_fitted(probabilities, matched, message):
    with pytest.raises(ValueError, match=message):
        fit_score_calibration(probabilities, matched)


def test_no_tile_is_judged_by_its_own_outcomes():
    tiles = [draw(300, 1.0, 0.0, seed, f"t{seed}") for seed in range(3)]
    scores = leave_tiles_out(tiles)
    tiles[1] = ScoredTile("t1", tiles[1].probabilities, ~tiles[1].matched, tiles[1].true_nuclei)
    changed = leave_tiles_out(tiles)
    assert np.array_equal(scores[1], changed[1])
    assert not np.allclose(scores[0], changed[0])
    expected = calibrated_scores(tiles[0].probabilities, fit_tiles(tiles[1:]))
    assert np.array_equal(changed[0], expected)
    with pytest.raises(ValueError, match="at least two tiles"):
        leave_tiles_out(tiles[:1])


def test_the_figures_are_those_of_pooled_counts():
    tiles = [
        ScoredTile("a", np.array([0.95, 0.6]), np.array([True, False]), 4),
        ScoredTile("b", np.array([0.5]), np.array([True]), 1),
    ]
    found = describe_scores(tiles, [tile.probabilities for tile in tiles])
    assert found["ece"] == pytest.approx((0.05 + 0.6 + 0.5) / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.95, 0.4, 0.5]).mean())
    assert (found["recall_0.5"], found["recall_0.9"]) == pytest.approx((2 / 5, 1 / 5))
    assert (found["precision_0.5"], found["precision_0.9"]) == pytest.approx((2 / 3, 1))
    empty = ScoredTile("c", np.zeros(0), np.zeros(0, bool), 0)
    assert all(np.isnan(value) for value in describe_scores([empty], [empty.probabilities]).values())


def test_nuclei_are_paired_and_what_is_not_annotated_is_left_out():
    truth, found = np.zeros((2, 20, 40), np.int32)
    for column, true_id, nucleus in ((2, 7, 1), (12, 3, 2), (22, 5, 3), (32, 9, 4)):
        truth[2:8, column : column + 6] = true_id
        found[2:8, column : column + 6] = nucleus
    found[2:8, 12:16] = 0  # a third of the second nucleus is left
    result = make_result(found)
    result.table["score"] = [0.9, 0.8, 0.7, 0.6]
    tile = Tile(np.zeros((20, 40, 3), np.uint8), truth, None, "one")
    scored = scored_tile(tile, result)
    assert scored.id == "one"
    assert scored.true_nuclei == 4
    assert scored.probabilities.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert scored.matched.tolist() == [True, False, True, True]
    tile.annotated = np.ones((20, 40), bool)
    tile.annotated[:, 20:30] = False
    scored = scored_tile(tile, result)
    assert scored.true_nuclei == 3
    assert scored.probabilities.tolist() == [0.9, 0.8, 0.6]
    assert scored.matched.tolist() == [True, False, True]
