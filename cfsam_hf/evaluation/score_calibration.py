"""Calibration of scores: a nucleus with score .8 matches a true one at IoU > .5 in 8 of 10 cases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from ..metrics import calibration_counts, matched_nuclei, overlap_table
from ..model.decoding import DecodingParameters, decode_nuclei
from ..model.maps import NucleiMaps
from ..model.scores import MEASURES, ScoreWeights


@dataclass(frozen=True, eq=False)
class ScoredTile:
    """The nuclei decoded in a tile.

    Attributes:
        measures: (N, 5) the inputs of the scores, in the order of [`cfsam_hf.model.scores.MEASURES`].
        matched: (N,) bool, whether each overlaps a true nucleus with IoU > .5.
        true_nuclei: number of true nuclei.
    """

    measures: np.ndarray
    matched: np.ndarray
    true_nuclei: int


def scored_tile(maps: NucleiMaps, truth: np.ndarray, parameters: DecodingParameters) -> ScoredTile:
    """Decodes every nucleus of a tile, whatever its score, and pairs the nuclei with the true ones.

    Args:
        maps: of the tile.
        truth: (H, W) true label map.
        parameters: of decoding; `minimum_score` is ignored.
    """
    decoded = decode_nuclei(maps.nuclei, maps.hv, None, maps.boundary, replace(parameters, minimum_score=0.0))
    table = overlap_table(truth, decoded.instance_map)
    outcomes = matched_nuclei(table)
    matched = np.zeros(len(decoded), dtype=bool)
    matched[np.array(list(outcomes), dtype=np.int64) - 1] = list(outcomes.values())
    if decoded.measures is None:
        raise ValueError("the decoded nuclei have no measures, from which scores are computed")
    return ScoredTile(decoded.measures, matched, table.num_true)


def fit_score_weights(measures: np.ndarray, matched: np.ndarray) -> ScoreWeights:
    """Fits the weights that make the outcomes most likely, by logistic regression.

    The prior assumes that the mean probability is already right: the deviation of each weight (per standard deviation
    of its measure) and of the mean logit from it has mean 0 and standard deviation 1. A few dozen nuclei outweigh the
    prior; it keeps the weights finite if the measures separate right from wrong perfectly.

    Args:
        measures: (N, 5) in the order of [`cfsam_hf.model.scores.MEASURES`].
        matched: (N,) bool, whether each nucleus overlaps a true one with IoU > .5.

    Raises:
        ValueError: the shapes do not fit, or there are no nuclei.

    References:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999; Guo et al., "On Calibration of Modern Neural
        Networks", ICML 2017, section 4.1. The measures are this project's choice.
    """
    measures, matched = np.asarray(measures, dtype=np.float64), np.asarray(matched, dtype=bool)
    if measures.shape != (len(matched), len(MEASURES)):
        raise ValueError(
            f"measures must be (N, {len(MEASURES)}) and matched (N,), got {measures.shape}, {matched.shape}"
        )
    if not len(matched):
        raise ValueError("there are no nuclei to fit score weights to")
    means, deviations = measures.mean(axis=0), measures.std(axis=0)
    deviations[deviations < 1e-9] = 1
    columns = np.column_stack([(measures - means) / deviations, np.ones(len(matched))])
    logits = measures[:, 0]

    def loss(change: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean negative log likelihood and prior, and their gradient."""
        z = logits + columns @ change
        value = np.logaddexp(0, np.where(matched, -z, z)).sum() + change @ change / 2
        gradient = (expit(z) - matched) @ columns + change
        return value / len(matched), gradient / len(matched)

    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    start = np.zeros(columns.shape[1])
    # The types of scipy's stubs do not know that a loss may return its gradient.
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    *changes, shift = found.x
    weights = np.array(changes) / deviations
    intercept = float(shift - weights @ means)
    weights[0] += 1
    return ScoreWeights(intercept, **dict(zip(MEASURES, weights.tolist(), strict=True)))


def fit_tiles(tiles: Sequence[ScoredTile]) -> ScoreWeights:
    """Fits the weights to all nuclei of some tiles; see [`fit_score_weights`]."""
    return fit_score_weights(
        np.concatenate([tile.measures for tile in tiles]), np.concatenate([tile.matched for tile in tiles])
    )


def leave_tiles_out(tiles: Sequence[ScoredTile]) -> list[np.ndarray]:
    """Scores of each tile's nuclei with weights fitted to the other tiles, so that no tile judges itself.

    Raises:
        ValueError: fewer than two tiles.
    """
    if len(tiles) < 2:
        raise ValueError(f"leaving a tile out needs at least two tiles, got {len(tiles)}")
    return [fit_tiles([*tiles[:place], *tiles[place + 1 :]]).scores(tile.measures) for place, tile in enumerate(tiles)]


def describe_scores(
    tiles: Sequence[ScoredTile], scores: Sequence[np.ndarray], thresholds: Sequence[float] = (0.5, 0.9)
) -> dict[str, float]:
    """How trustworthy scores are, pooled over tiles.

    Args:
        tiles: the nuclei.
        scores: (N,) scores of the nuclei of each tile.
        thresholds: score thresholds of recall and precision.

    Returns:
        `auroc`, the probability that a matched nucleus has a higher score than an unmatched one (ties count half);
        `ece`, the expected calibration error in 15 bins; `log_loss`, the mean negative logarithm of the probability of
        the outcome; and for each threshold t `recall_t`, the share of true nuclei that a nucleus of at least that
        score matches, and `precision_t`, the share of matched nuclei among those of at least that score. A value is
        NaN if its denominator is 0.
    """
    pooled, matched = np.concatenate(scores), np.concatenate([tile.matched for tile in tiles])
    clipped = np.clip(pooled, 1e-6, 1 - 1e-6)
    true_nuclei = sum(tile.true_nuclei for tile in tiles)
    right = int(matched.sum())
    # Ranks among all nuclei minus ranks among the matched (Mann and Whitney).
    pairs_won = rankdata(pooled)[matched].sum() - right * (right + 1) / 2
    found = {
        "auroc": _ratio(pairs_won, right * (len(matched) - right)),
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
