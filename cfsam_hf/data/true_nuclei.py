"""The annotated nuclei of a tile: their ids, types and areas, and the names and colours of their types."""

from dataclasses import dataclass

import numpy as np

from ..metrics.nucleus_types import types_from_map
from ..model.configuration_cfsam import rgb
from ..model.result import TypeStyle, complete_styles
from .records import Tile

UNKNOWN_TYPE_NAME = "type unknown"
UNKNOWN_TYPE_COLOR = rgb("#bdbdbd")
"""Colour of nuclei without a type in a data set that has types. No colour of the palette is grey."""


@dataclass(frozen=True)
class AnnotatedNuclei:
    """N nuclei of a tile.

    Attributes:
        ids: `(N,)` int64, ascending, as in the tile's `instance_map`.
        types: `(N,)` int64, 1..T; 0 if the nucleus has no annotated type or the data set has no types.
        areas: `(N,)` int64, pixels.
    """

    ids: np.ndarray
    types: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def all_nuclei(tile: Tile) -> AnnotatedNuclei:
    """Measures every nucleus of a tile. The type of a nucleus is the most frequent one among its typed pixels."""
    ids, areas = np.unique(tile.instance_map[tile.instance_map > 0], return_counts=True)
    types = np.zeros(len(ids), dtype=np.int64)
    if tile.type_map is not None:
        by_id = types_from_map(tile.instance_map, np.maximum(tile.type_map, 0))
        types = np.array([by_id[label] for label in ids.tolist()], dtype=np.int64)
    return AnnotatedNuclei(ids.astype(np.int64), types, areas.astype(np.int64))


def annotated_nuclei(tile: Tile) -> AnnotatedNuclei:
    """Measures the nuclei that count.

    Nuclei outside the annotated area are left out, since the annotators did not outline all of their neighbours.
    """
    nuclei = all_nuclei(tile)
    if tile.annotated is None:
        return nuclei
    kept = np.isin(nuclei.ids, tile.instance_map[tile.annotated])
    return AnnotatedNuclei(nuclei.ids[kept], nuclei.types[kept], nuclei.areas[kept])


def true_styles(tile: Tile, nuclei: AnnotatedNuclei) -> list[TypeStyle]:
    """Names and colours of the types in a tile, in the order of their ids.

    In a data set that has types, a nucleus without one gets the style of id 0, "type unknown".

    Args:
        tile: the tile.
        nuclei: all of its nuclei, of [`all_nuclei`].
    """
    if not tile.type_names or nuclei.types.all():
        return complete_styles(tile.type_names)
    return complete_styles({0: UNKNOWN_TYPE_NAME, **tile.type_names}, {0: UNKNOWN_TYPE_COLOR})
