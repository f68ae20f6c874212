"""Why: a calibration that distorts scores, or is judged on its own data, would be worse than none."""

import numpy as np
import pytest
from scipy.special import expit

from cfsam_hf.evaluation.decoding_search import CALIBRATED_MINIMUM_SCORES, choose_minimum_score, quality
from cfsam_hf.evaluation.score_calibration import (
    ScoredTile,
    describe_scores,
    fit_score_weights,
    fit_tiles,
    leave_tiles_out,
    scored_tile,
)
from cfsam_hf.model.decoding import DecodingParameters
from cfsam_hf.model.maps import NucleiMaps
from cfsam_hf.model.scores import MEASURES, ScoreWeights

from ..decoding_cases import perfect_maps

TRUTHS = [
    ScoreWeights(-0.5, 0.6),
    ScoreWeights(),
    ScoreWeights(-13.0, 0.5, 3.0, 9.0, -3.0, 0.5),
    ScoreWeights(1.0, 0.2, 0.0, 0.0, 2.0, 0.0),
]


def draw(count, weights, seed=0):
    """Nuclei that match with the probability that `weights` give; as many more were not found."""
    rng = np.random.default_rng(seed)
    means, deviations = np.array([1.5, 0.6, 0.97, 0.1, 5.5]), np.array([1.0, 0.3, 0.05, 0.15, 0.7])
    measures = rng.normal(means, deviations, (count, len(MEASURES)))
    matched = rng.random(count) < weights.scores(measures)
    return ScoredTile(measures, matched, true_nuclei=2 * int(matched.sum()))


def mean_probabilities(tile):
    return ScoreWeights().scores(tile.measures)


@pytest.mark.parametrize("weights", TRUTHS)
def test_the_fit_finds_the_truth_and_the_error_falls(weights):
    tile, others = draw(20_000, weights), draw(20_000, weights, seed=1)
    found = fit_score_weights(tile.measures, tile.matched)
    assert np.abs(found.scores(others.measures) - weights.scores(others.measures)).mean() < 0.02
    before = describe_scores([others], [mean_probabilities(others)])
    after = describe_scores([others], [found.scores(others.measures)])
    assert after["ece"] < 0.015
    assert after["log_loss"] <= before["log_loss"] + 1e-3
    if weights != ScoreWeights():
        assert before["ece"] > 3 * after["ece"]
    if weights.fill or weights.touching:
        assert after["auroc"] > before["auroc"] + 0.02


def test_the_fit_is_the_best_that_there_is():
    tile = draw(3000, TRUTHS[2])
    best = fit_score_weights(tile.measures, tile.matched)
    means, deviations = tile.measures.mean(axis=0), tile.measures.std(axis=0)
    vector = np.array([getattr(best, name) for name in MEASURES])

    def loss(vector, intercept):
        z = tile.measures @ vector + intercept
        changes = (vector - [1, 0, 0, 0, 0]) * deviations
        shift = z.mean() - tile.measures[:, 0].mean()
        return np.logaddexp(0, np.where(tile.matched, -z, z)).sum() + (changes @ changes + shift**2) / 2

    lowest = loss(vector, best.intercept)
    for place in range(len(MEASURES)):
        for step in (0.02, -0.02):
            moved = vector + step / deviations[place] * np.eye(len(MEASURES))[place]
            assert lowest < loss(moved, best.intercept - (moved - vector) @ means)
    assert lowest < min(loss(vector, best.intercept + step) for step in (0.02, -0.02))


def test_few_nuclei_move_little_and_nothing_makes_it_infinite():
    few = draw(2, ScoreWeights())
    found = fit_score_weights(few.measures, [True, True])
    assert np.abs(found.scores(few.measures) - mean_probabilities(few)).max() < 0.25
    separated = draw(200, ScoreWeights())
    right = separated.measures[:, 0] > 1.5
    found = fit_score_weights(separated.measures, right)
    scores = found.scores(separated.measures)
    assert np.isfinite(scores).all()
    assert scores[right].mean() > 0.85
    assert scores[~right].mean() < 0.15


def test_a_measure_that_never_changes_gets_no_weight():
    tile = draw(300, ScoreWeights())
    tile.measures[:, MEASURES.index("touching")] = 0
    # Nearly so: rounding is no measure.
    tile.measures[:, MEASURES.index("area")] = 5 + 1e-12 * np.random.default_rng(1).normal(size=300)
    found = fit_tiles([tile])
    assert found.touching == 0
    assert abs(found.area) < 1e-6


@pytest.mark.parametrize(
    ("measures", "matched", "message"),
    [(np.zeros((0, 5)), [], "no nuclei"), (np.zeros((1, 5)), [True, False], "got"), (np.zeros((1, 2)), [True], "got")],
)
def test_what_cannot_be_fitted(measures, matched, message):
    with pytest.raises(ValueError, match=message):
        fit_score_weights(measures, matched)


def test_no_tile_is_judged_by_its_own_outcomes():
    tiles = [draw(300, ScoreWeights(), seed) for seed in range(3)]
    scores = leave_tiles_out(tiles)
    tiles[1] = ScoredTile(tiles[1].measures, ~tiles[1].matched, tiles[1].true_nuclei)
    changed = leave_tiles_out(tiles)
    assert np.array_equal(scores[1], changed[1])
    assert not np.allclose(scores[0], changed[0])
    assert np.array_equal(changed[0], fit_tiles(tiles[1:]).scores(tiles[0].measures))
    with pytest.raises(ValueError, match="at least two tiles"):
        leave_tiles_out(tiles[:1])


def test_the_figures_are_those_of_pooled_counts():
    tiles = [
        ScoredTile(np.zeros((3, 5)), np.array([True, False, True]), 4),
        ScoredTile(np.zeros((1, 5)), np.array([True]), 1),
    ]
    scores = [np.array([0.95, 0.6, 0.6]), np.array([0.5])]
    found = describe_scores(tiles, scores)
    assert found["auroc"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["ece"] == pytest.approx((0.05 + abs(1.2 - 1) + 0.5) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.95, 0.4, 0.6, 0.5]).mean())
    assert (found["recall_0.5"], found["recall_0.9"]) == pytest.approx((3 / 5, 1 / 5))
    assert (found["precision_0.5"], found["precision_0.9"]) == pytest.approx((3 / 4, 1))
    empty = ScoredTile(np.zeros((0, 5)), np.zeros(0, bool), 0)
    assert all(np.isnan(value) for value in describe_scores([empty], [np.zeros(0)]).values())


def painted_case():
    """Maps of three nuclei, of which the second is doubtful, and a truth that lacks the second and has a fourth."""
    shown, truth = np.zeros((2, 30, 120), np.int32)
    for label, column in enumerate((5, 35, 65), start=1):
        shown[5:25, column : column + 20] = label
    maps = perfect_maps(shown)
    maps["nuclei_probability"][shown == 2] = 0.6
    truth[:] = np.where(shown == 2, 0, shown)
    truth[5:25, 95:115] = 9
    return NucleiMaps(maps["nuclei_probability"], maps["hv_maps"], maps["boundary_probability"]), truth


def test_all_nuclei_are_paired_however_doubtful():
    maps, truth = painted_case()
    scored = scored_tile(maps, truth, DecodingParameters(minimum_score=0.9))
    assert scored.true_nuclei == 3
    assert scored.matched.tolist() == [True, False, True]
    assert expit(scored.measures[:, 0]) == pytest.approx([1, 0.6, 1], abs=1e-5)


def test_the_least_score_of_the_highest_quality_is_chosen():
    cases = {"painted": [painted_case()]}
    parameters = DecodingParameters(score_weights=ScoreWeights(intercept=-1.5))
    chosen = choose_minimum_score(cases, parameters)
    # .6 becomes .25, and the doubtful one is none.
    assert chosen.minimum_score == 0.3
    assert quality(cases, chosen) > quality(cases, parameters)
    assert chosen.minimum_score in CALIBRATED_MINIMUM_SCORES
    maps, truth = painted_case()
    nothing = NucleiMaps(np.zeros_like(maps.nuclei), maps.hv, maps.boundary), np.zeros_like(truth)
    with pytest.raises(ValueError, match="no nuclei in its tiles"):
        choose_minimum_score({"empty": [nothing]}, parameters)
