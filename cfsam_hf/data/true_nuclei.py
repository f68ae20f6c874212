"""The annotated nuclei of a tile: their ids, types and areas, and as a result that the exports can draw and write."""

from dataclasses import dataclass

import numpy as np
from skimage.measure import label as connected_components

from ..metrics.nucleus_types import types_from_map
from ..model.nucleus_types import rgb
from ..model.result import DecodedNuclei, NucleiResult
from .records import Tile

UNKNOWN_TYPE_NAME = "type unknown"
UNKNOWN_TYPE_COLOR = rgb("#bdbdbd")
"""For nuclei without a type in a data set that has types; no colour of the palette is grey."""


@dataclass(frozen=True)
class AnnotatedNuclei:
    """N nuclei of a tile.

    Attributes:
        ids: `(N,)` int64, ascending, as in the tile's `instance_map`.
        types: `(N,)` int64, 1..T; 0 where a nucleus has no annotated type or the data set has none.
        areas: `(N,)` int64, pixels.
    """

    ids: np.ndarray
    types: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def annotated_nuclei(tile: Tile) -> AnnotatedNuclei:
    """Measure the nuclei of a tile; a nucleus' type is that of most of its typed pixels.

    Nuclei that lie wholly where nobody annotated are left out: they were outlined in passing, others there were not.
    """
    nuclei = _all_nuclei(tile)
    if tile.annotated is None:
        return nuclei
    kept = np.isin(nuclei.ids, tile.instance_map[tile.annotated])
    return AnnotatedNuclei(nuclei.ids[kept], nuclei.types[kept], nuclei.areas[kept])


def _all_nuclei(tile: Tile) -> AnnotatedNuclei:
    ids, areas = np.unique(tile.instance_map[tile.instance_map > 0], return_counts=True)
    types = np.zeros(len(ids), dtype=np.int64)
    if tile.type_map is not None:
        by_id = types_from_map(tile.instance_map, np.maximum(tile.type_map, 0))
        types = np.array([by_id[label] for label in ids.tolist()], dtype=np.int64)
    return AnnotatedNuclei(ids.astype(np.int64), types, areas.astype(np.int64))


def true_nuclei(tile: Tile) -> NucleiResult:
    """Return the annotation of a tile in the form in which found nuclei are drawn and exported.

    A nucleus that lies in several pieces gives several rows, as every nucleus of a result is one 4-connected piece.
    Scores and type probabilities are 1. Nuclei without a type in a typed data set have the type 0, "type unknown".
    """
    pieces = connected_components(tile.instance_map, background=0, connectivity=1)
    count = int(pieces.max(initial=0))
    rows, columns = np.nonzero(pieces)
    labels = pieces[rows, columns] - 1
    boxes = np.empty((count, 4), dtype=np.int64)
    for column, positions in enumerate((columns, rows)):
        low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
        np.minimum.at(low, labels, positions)
        np.maximum.at(high, labels, positions)
        boxes[:, column], boxes[:, column + 2] = low, high + 1
    areas = np.bincount(labels, minlength=count)
    centroids = [np.bincount(labels, weights=places, minlength=count) / areas + 0.5 for places in (columns, rows)]
    nuclei = _all_nuclei(tile)
    whole = np.zeros(count, dtype=np.int64)
    whole[labels] = tile.instance_map[rows, columns]
    types = nuclei.types[np.searchsorted(nuclei.ids, whole)] if count else whole
    untyped = bool(tile.type_names) and bool((types == 0).any())
    return NucleiResult.from_decoded(
        DecodedNuclei(
            instance_map=pieces.astype(np.int32),
            type_ids=types,
            type_probabilities=np.full(count, 1.0 if tile.type_names else np.nan),
            scores=np.ones(count),
            boxes=boxes,
            centroids=np.stack(centroids, axis=1),
            areas=areas,
        ),
        mpp=tile.mpp,
        type_names=dict(tile.type_names) | ({0: UNKNOWN_TYPE_NAME} if untyped else {}),
        type_colors={0: UNKNOWN_TYPE_COLOR} if untyped else None,
        image_name=tile.id,
        checkpoint="annotation",
    )
