"""Scores that mean what they say: a nucleus with .8 overlaps a true one with IoU > .5 in 8 of 10 cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..data import Tile
from ..image_processing_cfsam import calibrated_scores, probability_logits
from ..metrics import calibration_counts, matched_nuclei, overlap_table
from ..nuclei_cfsam import NucleiResult

LEAST_SLOPE = 0.01
"""A positive slope keeps the order of the scores, also where they tell nothing."""


@dataclass(frozen=True, eq=False)
class ScoredTile:
    """The nuclei found in a tile.

    Attributes:
        id: name of the tile.
        probabilities: (N,) scores before calibration.
        matched: (N,) bool, whether each overlaps a true nucleus with IoU > .5.
        true_nuclei: how many there are in truth.
    """

    id: str
    probabilities: np.ndarray
    matched: np.ndarray
    true_nuclei: int


def scored_tile(tile: Tile, result: NucleiResult) -> ScoredTile:
    """Pairs the nuclei found in a tile with the true ones; pixels that are not annotated are left out on both sides.

    Args:
        tile: with its truth.
        result: of a pipeline whose processor has no `score_calibration`.
    """
    truth, found = tile.instance_map, result.instance_map
    if tile.annotated is not None:
        truth, found = (np.where(tile.annotated, ids, 0) for ids in (truth, found))
    table = overlap_table(truth, found)
    outcomes = matched_nuclei(table)
    rows = np.array(list(outcomes), dtype=np.int64) - 1
    return ScoredTile(
        id=tile.id,
        probabilities=result.table["score"].to_numpy()[rows],
        matched=np.array(list(outcomes.values()), dtype=bool),
        true_nuclei=table.num_true,
    )


def fit_score_calibration(probabilities: np.ndarray, matched: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of `calibrated_scores` that make the outcomes most likely.

    A logistic regression on the logit (Platt scaling), with the prior that no calibration is needed: a slope of 1, and
    no shift of the mean logit, each with a standard deviation of 1. A few dozen nuclei outweigh it; it keeps the slope
    finite where the scores separate right from wrong without exception.

    Args:
        probabilities: (N,) scores before calibration, in [0, 1].
        matched: (N,) bool, whether each nucleus overlaps a true one with IoU > .5.

    Returns:
        The `score_calibration` of an image processor. The slope is at least `LEAST_SLOPE`, so that the order of the
        scores is kept.

    Raises:
        ValueError: lengths differ, or there are no nuclei.

    References:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999; Guo et al., "On Calibration of Modern Neural
        Networks", ICML 2017, section 4.1.
    """
    probabilities, matched = np.asarray(probabilities, dtype=np.float64), np.asarray(matched, dtype=bool)
    if probabilities.ndim != 1 or probabilities.shape != matched.shape:
        raise ValueError(f"probabilities and matched must be (N,) alike, got {probabilities.shape}, {matched.shape}")
    if not len(matched):
        raise ValueError("there are no nuclei to calibrate with")
    logits = probability_logits(probabilities)
    mean = logits.mean()
    centred = logits - mean

    def loss(change: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean negative log likelihood and prior, and their gradient, by the changes of slope and mean logit."""
        z = logits + change[0] * centred + change[1]
        error = expit(z) - matched
        value = np.logaddexp(0, np.where(matched, -z, z)).sum() + change @ change / 2
        gradient = np.array([error @ centred, error.sum()]) + change
        return value / len(matched), gradient / len(matched)

    bounds = [(LEAST_SLOPE - 1, None), (None, None)]
    options = {"ftol": 1e-14, "gtol": 1e-9}
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope, shift = 1 + found.x[0], found.x[1]
    return float(slope), float(shift + (1 - slope) * mean)


def fit_tiles(tiles: Sequence[ScoredTile]) -> tuple[float, float]:
    """[`fit_score_calibration`] of all nuclei of some tiles."""
    return fit_score_calibration(
        np.concatenate([tile.probabilities for tile in tiles]), np.concatenate([tile.matched for tile in tiles])
    )


def leave_tiles_out(tiles: Sequence[ScoredTile]) -> list[np.ndarray]:
    """Scores of each tile's nuclei under the calibration of the other tiles, so that none is judged by itself.

    Raises:
        ValueError: fewer than two tiles.
    """
    if len(tiles) < 2:
        raise ValueError(f"leaving a tile out needs at least two tiles, got {len(tiles)}")
    return [
        calibrated_scores(tile.probabilities, fit_tiles([*tiles[:place], *tiles[place + 1 :]]))
        for place, tile in enumerate(tiles)
    ]


def describe_scores(
    tiles: Sequence[ScoredTile], scores: Sequence[np.ndarray], thresholds: Sequence[float] = (0.5, 0.9)
) -> dict[str, float]:
    """How far scores can be trusted, pooled over tiles.

    Args:
        tiles: the nuclei.
        scores: (N,) for each tile: one score for each of its nuclei.
        thresholds: of the score.

    Returns:
        `ece`, the expected calibration error in 15 bins; `log_loss`, the mean negative logarithm of the probability of
        what is true; and for each threshold t `recall_t`, the share of true nuclei that are found with at least that
        score, and `precision_t`, the share of the nuclei with at least that score that are true. NaN where there is
        nothing to divide by.
    """
    pooled, matched = np.concatenate(scores), np.concatenate([tile.matched for tile in tiles])
    clipped = np.clip(pooled, 1e-6, 1 - 1e-6)
    true_nuclei = sum(tile.true_nuclei for tile in tiles)
    found = {
        "ece": calibration_counts(pooled, matched).ece,
        "log_loss": _ratio(-np.log(np.where(matched, clipped, 1 - clipped)).sum(), len(matched)),
    }
    for threshold in thresholds:
        kept = pooled >= threshold
        found[f"recall_{threshold:g}"] = _ratio((kept & matched).sum(), true_nuclei)
        found[f"precision_{threshold:g}"] = _ratio((kept & matched).sum(), kept.sum())
    return found


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
