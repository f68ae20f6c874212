"""What a system says about one tile, in the one form that is scored and drawn."""

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
        type_names: names of the type ids 1..T; empty without types. Types are compared with the truth by name.
        scores: {id: score}, or `(N,)` with the score of id i + 1 at i, in [0, 1]; None where there are none.
        type_colors: RGB colours of the types, for pictures; default colours where empty.
    """

    instance_map: np.ndarray
    types: NucleusTypes | None = None
    type_names: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, float] | np.ndarray | None = None
    type_colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    @classmethod
    def from_result(cls, result: NucleiResult) -> "Prediction":
        """From what the pipeline returns."""
        typed = bool(result.type_names)
        return cls(
            result.instance_map,
            result.table["type"].to_numpy() if typed else None,
            result.type_names,
            result.table["score"].to_numpy(),
            result.type_colors if typed else {},
        )
