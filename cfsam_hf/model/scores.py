"""Score and type of each nucleus, from the maps and from its outline.

The score is a logistic model. The mean nuclei probability alone says little about the outline: two nuclei merged into
one have the same mean as one. A well-outlined nucleus has a sharp edge and the shape of an ellipse. With the default
weights the score is the mean probability, clipped to 1e-6 from 0 and 1 and up to rounding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from .spans import InstanceRuns

# Far beyond any use; larger numbers would overflow in sums.
MAX_WEIGHT = 1e6

# Columns of the array that `score_measures` returns, and fields of `ScoreWeights`.
MEASURES = ("probability", "edge", "fill", "touching", "area")


@dataclass(frozen=True)
class ScoreWeights:
    """`score = sigmoid(intercept + sum of weight * measure)`; `fit_score_weights` fits them.

    The edge is measured in the boundary energy of the decoding parameters, and other parameters find other nuclei, so
    weights are valid only for the parameters that they were fitted with.

    Args:
        intercept: the constant term.
        probability: weight of the logit of the mean nuclei probability inside the nucleus.
        edge: weight of the mean boundary energy of the first and last pixels of the nucleus's rows: 0 where the maps
            show no edge, about `boundary_weight` at a clear one, and more where another nucleus touches.
        fill: weight of its area over that of the ellipse with the same second moments: 1 for an ellipse, less for a
            bent or notched nucleus.
        touching: weight of the share of row ends beyond which the foreground continues, in another nucleus.
        area: weight of the logarithm of its area in pixels.
    """

    intercept: float = 0.0
    probability: float = 1.0
    edge: float = 0.0
    fill: float = 0.0
    touching: float = 0.0
    area: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= MAX_WEIGHT:  # type: ignore[operator]
                limits = f"{-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
                raise ValueError(f"score weight {field.name} is {value!r}: it must be a number from {limits}")
            # NumPy's own numbers cannot be written as JSON.
            object.__setattr__(self, field.name, float(value))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ScoreWeights":
        """The inverse of `dataclasses.asdict`; a name that is not a weight raises ValueError."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping) or set(values) - set(known):
            raise ValueError(f"score_weights are {values!r}: they must be a dictionary of {', '.join(known)}")
        return cls(**values)

    def scores(self, measures: np.ndarray) -> np.ndarray:
        """(N,) float64 scores in [0, 1] of nuclei with these measures (N, 5)."""
        # Added column by column: a matrix product rounds differently for other numbers of nuclei.
        total = np.full(len(measures), self.intercept)
        for column, name in zip(measures.T, MEASURES, strict=True):
            total += getattr(self, name) * column
        scores: np.ndarray = expit(total)
        return scores


def score_measures(runs: InstanceRuns, nuclei: np.ndarray, energy: np.ndarray, nuclei_threshold: float) -> np.ndarray:
    """The measures (N, 5) float64 of instances, in the order of `MEASURES`.

    They depend only on the maps inside an instance and beside it, and on the energy inside it.

    Args:
        runs: the instances.
        nuclei: (H, W) float32 nuclei probabilities.
        energy: (H + 2, W + 2) float32 boundary energy.
        nuclei_threshold: a pixel is foreground where its probability reaches this.
    """
    starts, ends, index = runs.starts, runs.ends, runs.index
    # Runs of one instance meet where a hole was filled: not the end of a row.
    inner = (starts[1:] == ends[:-1]) & (index[1:] == index[:-1])
    is_first, is_last = np.ones((2, len(starts)), dtype=bool)
    is_first[1:] = ~inner
    is_last[:-1] = ~inner
    energies = energy.reshape(-1)
    energy_at_ends = energies[starts] * is_first + energies[ends - 1] * is_last

    # There is no foreground beyond the image's border.
    width = nuclei.shape[1]
    row_starts, flat = runs.rows * width, nuclei.reshape(-1)
    before, after = runs.columns - 1, runs.columns + runs.lengths
    threshold = np.float32(nuclei_threshold)
    on_left = (flat[row_starts + np.maximum(before, 0)] >= threshold) & (before >= 0) & is_first
    on_right = (flat[row_starts + np.minimum(after, width - 1)] >= threshold) & (after < width) & is_last

    row_ends = runs.sums(is_first.astype(np.int8) + is_last)
    # The ellipse of these moments has the area 4 pi sqrt(determinant).
    fill = runs.areas / (4 * np.pi * np.sqrt(runs.covariance_determinants()))
    return np.stack(
        [
            probability_logits(runs.map_sums(nuclei) / runs.areas),
            runs.sums(energy_at_ends) / row_ends,
            fill,
            runs.sums(on_left.astype(np.int8) + on_right) / row_ends,
            np.log(runs.areas),
        ],
        axis=1,
    )


def probability_logits(probabilities: np.ndarray) -> np.ndarray:
    """`log(p / (1 - p))` in float64, of probabilities clipped to 1e-6 from 0 and 1."""
    logits: np.ndarray = logit(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6))
    return logits


class TypeVotes(NamedTuple):
    """The types of N instances.

    Attributes:
        types: (N,) int64, 1..T: the type with the largest sum of probabilities inside the instance.
        shares: (N,) float64, its share in the sums of all types.
        all_shares: (N, T) float32, the shares of all types.
    """

    types: np.ndarray
    shares: np.ndarray
    all_shares: np.ndarray


def elect_types(runs: InstanceRuns, type_maps: Iterable[np.ndarray]) -> TypeVotes:
    """The type of each instance: the one with the largest sum of probabilities inside it.

    Args:
        runs: the instances.
        type_maps: T maps (H, W) float32, the probabilities of types 1..T, without the background; read one at a time.
    """
    votes = np.stack([runs.map_sums(values) for values in type_maps])
    best = np.argmax(votes, axis=0)
    total = votes.sum(axis=0)
    # Where no type has any probability they share it equally.
    votes, total = np.where(total > 0, votes, 1), np.where(total > 0, total, len(votes))
    shares = votes[best, np.arange(runs.count)] / total
    return TypeVotes(best + 1, shares, (votes / total).T.astype(np.float32))
