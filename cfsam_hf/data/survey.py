"""Counts of a data set: tiles, nuclei, types, sizes and scales, by fold and tissue."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from .polygons import Overlaps
from .records import Tile
from .true_nuclei import UNKNOWN_TYPE_NAME, annotated_nuclei

NO_GROUP = "(none)"
"""The group of tiles without fold or tissue."""

PERCENTILES = {"p5": 5, "median": 50, "p95": 95}


@dataclass(frozen=True)
class TileFacts:
    """The facts of a tile that a survey needs.

    Attributes:
        id, fold, tissue, mpp: as in `Tile`.
        size: (W, H) in pixels.
        types: `(N,)` type id of each nucleus; 0 if it has none.
        areas: `(N,)` pixels of each nucleus.
        annotated: share of the pixels that are annotated.
        overlaps: as in `Tile`.
    """

    id: str
    fold: str | None
    tissue: str | None
    mpp: float | None
    size: tuple[int, int]
    types: np.ndarray
    areas: np.ndarray
    annotated: float = 1.0
    overlaps: Overlaps = field(default_factory=Overlaps)

    @classmethod
    def of(cls, tile: Tile) -> "TileFacts":
        """The facts of a tile."""
        nuclei = annotated_nuclei(tile)
        height, width = tile.instance_map.shape
        return cls(
            id=tile.id,
            fold=tile.fold,
            tissue=tile.tissue,
            mpp=tile.mpp,
            size=(width, height),
            types=nuclei.types,
            areas=nuclei.areas,
            annotated=1.0 if tile.annotated is None else float(tile.annotated.mean()),
            overlaps=tile.overlaps,
        )


def survey(facts: Sequence[TileFacts], type_names: dict[int, str]) -> dict[str, Any]:
    """Counts tiles, nuclei and types.

    Args:
        facts: of all tiles, at least one.
        type_names: names of the types 1..T; empty without types.

    Returns:
        A JSON-ready record. `folds` and `tissues` hold the numbers of tiles, nuclei, and nuclei by type; `types` the
        number of nuclei, their share, the number of tiles that have some, and diameters of circles of the same area.
        Diameters are in micrometres if every tile's mpp is known, else in pixels (`diameter_unit`).
    """
    in_um = all(tile.mpp for tile in facts)
    diameters = [2 * np.sqrt(tile.areas / np.pi) * (tile.mpp if in_um else 1) for tile in facts]
    numbers = np.array([len(tile.areas) for tile in facts])
    names = dict(type_names) | ({0: UNKNOWN_TYPE_NAME} if _has_untyped(facts, type_names) else {})
    types = np.concatenate([tile.types for tile in facts])
    every_diameter = np.concatenate(diameters)
    return {
        "tiles": len(facts),
        "nuclei": int(numbers.sum()),
        "empty_tiles": int((numbers == 0).sum()),
        "nuclei_per_tile": {
            "least": int(numbers.min()),
            "median": float(np.median(numbers)),
            "most": int(numbers.max()),
        },
        "sizes": _tally([f"{tile.size[0]} x {tile.size[1]}" for tile in facts]),
        "mpp": _tally(["unknown" if tile.mpp is None else f"{tile.mpp:g}" for tile in facts]),
        "annotated_share": float(np.average([t.annotated for t in facts], weights=[np.prod(t.size) for t in facts])),
        "overlaps": {f.name: sum(getattr(tile.overlaps, f.name) for tile in facts) for f in fields(Overlaps)},
        "folds": _groups(facts, lambda tile: tile.fold, names),
        "tissues": _groups(facts, lambda tile: tile.tissue, names),
        "diameter_unit": "um" if in_um else "px",
        "diameter": _percentiles(every_diameter),
        "types": {
            name: {
                "nuclei": int((types == type_id).sum()),
                "share": float((types == type_id).mean()) if len(types) else 0.0,
                "tiles": sum(bool((tile.types == type_id).any()) for tile in facts),
                "diameter": _percentiles(every_diameter[types == type_id]),
            }
            for type_id, name in names.items()
        },
    }


def _has_untyped(facts: Iterable[TileFacts], type_names: dict[int, str]) -> bool:
    return bool(type_names) and any((tile.types == 0).any() for tile in facts)


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _groups(
    facts: Sequence[TileFacts], key: Callable[[TileFacts], str | None], names: dict[int, str]
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[TileFacts]] = {}
    for tile in facts:
        groups.setdefault(key(tile) or NO_GROUP, []).append(tile)
    return {
        group: {
            "tiles": len(tiles),
            "nuclei": sum(len(tile.types) for tile in tiles),
            "types": {name: sum(int((tile.types == i).sum()) for tile in tiles) for i, name in names.items()},
        }
        for group, tiles in sorted(groups.items())
    }


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    return {name: round(float(np.percentile(values, share)), 3) for name, share in PERCENTILES.items()}
