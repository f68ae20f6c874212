"""One tile scored, and the scores of many tiles: types are compared by name, and only where all have them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data import Tile
from ..metrics import DetectionCounts, ImageMetrics, detection_radius, image_metrics, summarize
from .predictions import Prediction

DEFAULT_MPP = 0.25
"""Assumed for the detection radius of 3 um where a tile's pixel size is not known."""


@dataclass(frozen=True, eq=False)
class TileScore:
    """All metrics of one tile, and what is known of it.

    Attributes:
        id, tissue, fold: as in `cfsam_hf.data.Tile`.
        metrics: everything that `summarize` and the bootstrap need.
        type_names: names of the types that were compared, in the order of their ids; None where they were not.
        seconds: what finding the nuclei took; NaN where they were read from files.
    """

    id: str
    tissue: str | None
    fold: str | None
    metrics: ImageMetrics
    type_names: tuple[str, ...] | None = None
    seconds: float = float("nan")


def score_tile(tile: Tile, prediction: Prediction, *, seconds: float = float("nan")) -> TileScore:
    """Scores what a system found in a tile with every metric.

    Pixels that are not annotated are left out on both sides. Types are scored where every true nucleus has one that
    the prediction has a name for.

    Raises:
        ValueError: the prediction is of another size than the tile, or lacks the type or score of a nucleus; the
            message names the tile.
    """
    truth, found = tile.instance_map, np.asarray(prediction.instance_map)
    if found.shape != truth.shape:
        raise ValueError(
            f"tile {tile.id}: the prediction is {found.shape} (rows, columns) but the tile {truth.shape}; predictions "
            "must be in the tile's own pixels"
        )
    types = {}
    true_types = None if prediction.types is None else renumbered_types(tile, prediction.type_names)
    if true_types is not None:
        types = {"true_types": true_types, "pred_types": prediction.types, "num_types": len(prediction.type_names)}
    if tile.annotated is not None:
        truth, found = (np.where(tile.annotated, ids, 0) for ids in (truth, found))
    try:
        metrics = image_metrics(
            truth,
            found,
            pred_scores=prediction.scores,
            radius=detection_radius(tile.mpp or DEFAULT_MPP),
            **types,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"tile {tile.id}: {error}") from error
    names = tuple(prediction.type_names[i] for i in sorted(prediction.type_names)) if types else None
    return TileScore(tile.id, tile.tissue, tile.fold, metrics, names, seconds)


def compare_types_of_all_or_none(tiles: Sequence[TileScore]) -> list[TileScore]:
    """The tiles as they are where all were scored with the same types, else without types: a mixture means nothing."""
    if len({tile.type_names for tile in tiles}) == 1:
        return list(tiles)
    return [replace(tile, metrics=_untyped(tile.metrics), type_names=None) for tile in tiles]


def summarize_tiles(tiles: Sequence[TileScore]) -> dict[str, float]:
    """The scores of a data set, by [`cfsam_hf.metrics.summarize`]; with tissues where every tile has one.

    Scores of single tissues are left to the caller, who has the tiles of each.
    """
    tiles = compare_types_of_all_or_none(tiles)
    scores = summarize([tile.metrics for tile in tiles], tissues=known_tissues(tiles), type_names=tiles[0].type_names)
    tissues = {tile.tissue for tile in tiles}
    return {name: value for name, value in scores.items() if name.partition("/")[2] not in tissues}


def known_tissues(tiles: Iterable[TileScore]) -> list[str] | None:
    """The tissue of each tile, or None where that of any is unknown."""
    tissues = [tile.tissue for tile in tiles]
    return None if None in tissues else tissues


def renumbered_types(tile: Tile, type_names: Mapping[int, str]) -> np.ndarray | None:
    """The tile's type map (H, W) with the ids of `type_names`; None unless that knows the type of every nucleus."""
    if not type_names or tile.type_map is None:
        return None
    id_of_name = {name: type_id for type_id, name in type_names.items()}
    renumbered = np.zeros_like(tile.type_map)
    for type_id in np.unique(tile.type_map[tile.type_map != 0]).tolist():
        # An unknown type has no name.
        name = tile.type_names.get(type_id)
        if name not in id_of_name:
            return None
        renumbered[tile.type_map == type_id] = id_of_name[name]
    return renumbered


def _untyped(metrics: ImageMetrics) -> ImageMetrics:
    counts = metrics.detection
    untyped = DetectionCounts(
        np.array([[counts.true_positives]]), np.array([counts.false_negatives]), np.array([counts.false_positives])
    )
    return replace(metrics, detection=untyped, typed=None)
