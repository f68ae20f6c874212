"""How sure a nucleus is: a logistic model of what its maps and its outline show.

The mean probability alone says little of the outline: two nuclei taken for one are as probable as one. A nucleus that
is well outlined has a sharp edge and the form of an ellipse. Default weights give the mean probability, kept 1e-6 away
from 0 and 1 and but for rounding.
"""

import math
from dataclasses import dataclass, fields
from numbers import Real

import numpy as np
from scipy.special import expit, logit

from .spans import InstanceRuns

# Columns of what `score_measures` gives, and fields of `ScoreWeights`.
MEASURES = ("probability", "edge", "fill", "touching", "area")


@dataclass(frozen=True)
class ScoreWeights:
    """`score = sigmoid(intercept + sum of weight * measure)`, all finite; how they are fitted: `fit_score_weights`.

    The edge is measured in the boundary energy of the decoding parameters, and other parameters find other nuclei:
    weights hold for the parameters that they were fitted with.

    Args:
        intercept: what is added.
        probability: of the logit of the mean nuclei probability inside the nucleus.
        edge: of the mean boundary energy of the pixels in which the nucleus' rows begin and end: 0 where the maps
            know of no edge; at a sure one about `boundary_weight`, and more where another nucleus touches.
        fill: of its area over that of the ellipse with the same second moments: 1 for an ellipse, less where it is
            bent or notched.
        touching: of the share of the ends of its rows beyond which the foreground goes on, in another nucleus.
        area: of the logarithm of its area in pixels.
    """

    intercept: float = 0.0
    probability: float = 1.0
    edge: float = 0.0
    fill: float = 0.0
    touching: float = 0.0
    area: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"score weight {field.name} is {value!r}: it must be a finite number")
            # NumPy's own numbers cannot be written as JSON.
            object.__setattr__(self, field.name, float(value))

    @classmethod
    def from_dict(cls, values: dict) -> "ScoreWeights":
        """The inverse of `dataclasses.asdict`; a name that is not a weight raises ValueError."""
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or set(values) - set(known):
            raise ValueError(f"score_weights are {values!r}: they must be a dictionary of {', '.join(known)}")
        return cls(**values)

    def scores(self, measures: np.ndarray) -> np.ndarray:
        """(N,) float64 in [0, 1] of the measures (N, 5) of nuclei."""
        # Summed one by one: a matrix product rounds differently for other numbers of nuclei.
        return expit(sum((getattr(self, name) * measures[:, i] for i, name in enumerate(MEASURES)), self.intercept))


def score_measures(
    runs: InstanceRuns, probabilities: np.ndarray, nuclei: np.ndarray, energy: np.ndarray, nuclei_threshold: float
) -> np.ndarray:
    """The measures (N, 5) float64 of instances, in the order of `MEASURES`.

    They depend on the maps inside an instance and beside it alone, and on the energy inside it.

    Args:
        runs: of the instances.
        probabilities: (N,) mean nuclei probabilities.
        nuclei: (H, W) nuclei probabilities.
        energy: (H + 2, W + 2) boundary energy.
        nuclei_threshold: a pixel is foreground where its probability reaches this.
    """
    starts, ends, index = runs.starts, runs.ends, runs.index
    # Runs of one instance meet where a hole was filled: no end of a row.
    inner = (starts[1:] == ends[:-1]) & (index[1:] == index[:-1])
    is_first, is_last = np.ones((2, len(starts)), dtype=bool)
    is_first[1:] = ~inner
    is_last[:-1] = ~inner
    energies = energy.reshape(-1)
    energy_at_ends = energies[starts] * is_first + energies[ends - 1] * is_last

    # Beyond the image's border there is nothing.
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
            probability_logits(probabilities),
            runs.sums(energy_at_ends) / row_ends,
            fill,
            runs.sums(on_left.astype(np.int8) + on_right) / row_ends,
            np.log(runs.areas),
        ],
        axis=1,
    )


def probability_logits(probabilities: np.ndarray) -> np.ndarray:
    """`log(p / (1 - p))` in float64; probabilities nearer to 0 or 1 than 1e-6 are taken to be that near."""
    return logit(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6))
