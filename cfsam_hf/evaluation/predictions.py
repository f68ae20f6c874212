"""The nuclei that any system found in a tile, in the form that is scored and drawn.

A [`cfsam_hf.NucleiResult`] has consecutive ids and 4-connected nuclei. Label maps of other systems may have neither,
and are scored unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..metrics.nucleus_types import NucleusTypes
from ..model.result import NucleiResult


@dataclass(eq=False)
class Prediction:
    """The nuclei that a system found in a tile.

    Attributes:
        instance_map: `(H, W)` integers in the tile's pixels, 0 background; ids may have gaps.
        types: {id: type}, or `(N,)` with the type of id i + 1 at i, or an `(H, W)` type map; None without types.
        type_names: names of the type ids 1..T; empty without types. They are compared with those of the truth.
        scores: {id: score}, or `(N,)` with the score of id i + 1 at i, in [0, 1]; None without scores.
        type_colors: RGB colours of the types for pictures; a type without one gets its default colour.
    """

    instance_map: np.ndarray
    types: NucleusTypes | None = None
    type_names: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, float] | np.ndarray | None = None
    type_colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    @classmethod
    def from_result(cls, result: NucleiResult) -> "Prediction":
        """Converts a result of the pipeline."""
        typed = bool(result.type_names)
        return cls(
            result.instance_map,
            result.table["type"].to_numpy() if typed else None,
            result.type_names,
            result.table["score"].to_numpy(),
            result.type_colors if typed else {},
        )
