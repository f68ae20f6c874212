"""Scores one tile or many. Types are compared by name, for the nuclei whose true type is known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import UNKNOWN_TYPE, Tile
from ..metrics import DetectionCounts, ImageMetrics, detection_radius, image_metrics, summarize
from .predictions import Prediction

DEFAULT_MPP = 0.25
"""Pixel size that the detection radius of 3 um assumes for a tile of unknown pixel size."""


@dataclass(frozen=True, eq=False)
class TileScore:
    """All metrics of one tile, with its tissue and fold.

    Attributes:
        id, tissue, fold: as in `cfsam_hf.data.Tile`.
        metrics: input of `summarize` and of the bootstrap.
        type_names: names of the compared types in the order of their ids; None if types were not compared.
        seconds: time that finding the nuclei took; NaN if they were read from files.
        types_not_compared: the reason why types were not compared although both sides have some; None if they were
            compared, or if one side has none.
        truth_has_types: whether the annotation of the tile has types at all; single nuclei may lack one.
    """

    id: str
    tissue: str | None
    fold: str | None
    metrics: ImageMetrics
    type_names: tuple[str, ...] | None = None
    seconds: float = float("nan")
    types_not_compared: str | None = None
    truth_has_types: bool = True


def score_tile(tile: Tile, prediction: Prediction, *, seconds: float = float("nan")) -> TileScore:
    """Scores the prediction of a tile with every metric.

    Pixels outside the annotated area are left out on both sides. True nuclei of unknown type (every nucleus of a tile
    without types) and the predictions that match them are left out of the scores of types and count in all others.
    Types are not scored if a true nucleus has a type whose name the prediction lacks; `types_not_compared` then gives
    the reason.

    Raises:
        ValueError: the sizes of prediction and tile differ, or the prediction lacks the type or score of a nucleus;
            the message names the tile.
    """
    truth, found = tile.instance_map, np.asarray(prediction.instance_map)
    if found.shape != truth.shape:
        raise ValueError(
            f"tile {tile.id}: the prediction is {found.shape} (rows, columns) but the tile {truth.shape}; predictions "
            "must be in the tile's own pixels"
        )
    types: dict[str, Any] = {}
    obstacle = None
    if prediction.types is not None:
        obstacle = type_obstacle(tile, prediction.type_names)
        true_types = renumbered_types(tile, prediction.type_names)
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
    typed = tile.type_map is not None
    return TileScore(tile.id, tile.tissue, tile.fold, metrics, names, seconds, obstacle, typed)


def compare_types_of_all_or_none(tiles: Sequence[TileScore]) -> list[TileScore]:
    """Returns the tiles unchanged if all were scored with the same types and some true type is known.

    Otherwise all tiles lose their types: scores of a mixture are meaningless, and so is a comparison with nuclei whose
    types are all unknown.
    """
    alike = len({tile.type_names for tile in tiles}) == 1
    if alike and (tiles[0].type_names is None or _types_known(tiles)):
        return list(tiles)
    reason = why_types_are_not_compared(tiles)
    return [
        replace(
            tile,
            metrics=_untyped(tile.metrics),
            type_names=None,
            types_not_compared=tile.types_not_compared or reason,
        )
        for tile in tiles
    ]


def why_types_are_not_compared(tiles: Sequence[TileScore]) -> str | None:
    """The first reason against comparing the tiles' types; None if they are compared, or if one side has none."""
    for tile in tiles:
        if tile.types_not_compared:
            return tile.types_not_compared
    if len({tile.type_names for tile in tiles}) == 1:
        if tiles[0].type_names is None or _types_known(tiles) or not any(tile.truth_has_types for tile in tiles):
            return None
        return "no true nucleus has a known type"
    texts: dict[tuple[str, ...], str] = {}
    for tile in tiles:
        if tile.type_names is None:
            return f"the prediction of tile {tile.id} has no types, but those of other tiles have"
        texts.setdefault(tile.type_names, f"{', '.join(tile.type_names)} in tile {tile.id}")
    return f"the predicted types are {', '.join(list(texts.values())[:2])}"


def summarize_tiles(tiles: Sequence[TileScore]) -> dict[str, float]:
    """The scores of a data set from [`cfsam_hf.metrics.summarize`], with means over tissues if every tile has one.

    Scores of single tissues are not among them; the caller has the tiles of each.
    """
    tiles = compare_types_of_all_or_none(tiles)
    scores = summarize([tile.metrics for tile in tiles], tissues=known_tissues(tiles), type_names=tiles[0].type_names)
    tissues = {tile.tissue for tile in tiles}
    return {name: value for name, value in scores.items() if name.partition("/")[2] not in tissues}


def known_tissues(tiles: Iterable[TileScore]) -> list[str] | None:
    """The tissue of each tile; None if that of any tile is unknown."""
    tissues = [tile.tissue for tile in tiles]
    known = [tissue for tissue in tissues if tissue is not None]
    return known if len(known) == len(tissues) else None


def renumbered_types(tile: Tile, type_names: Mapping[int, str]) -> np.ndarray | None:
    """The tile's type map (H, W) in the ids of `type_names`; None if these lack the name of a nucleus' type.

    Nuclei without an annotated type, and all nuclei of a tile without types, have `UNKNOWN_TYPE`.
    """
    if not type_names or type_obstacle(tile, type_names):
        return None
    if tile.type_map is None:
        return np.where(tile.instance_map > 0, UNKNOWN_TYPE, 0)
    id_of_name = {name: type_id for type_id, name in type_names.items()}
    renumbered = np.where(tile.type_map == UNKNOWN_TYPE, UNKNOWN_TYPE, 0)
    for type_id, name in tile.type_names.items():
        # Types that this tile does not hold need no counterpart.
        renumbered[tile.type_map == type_id] = id_of_name.get(name, 0)
    return renumbered


def type_obstacle(tile: Tile, type_names: Mapping[int, str]) -> str | None:
    """Why a tile's types cannot be compared with those of `type_names`: a nucleus has one that is none of these.

    Nuclei outside the annotated area are left out. None if types can be compared, or if one of the two sides has none
    at all.
    """
    if not type_names or tile.type_map is None:
        return None
    typed = (tile.instance_map > 0) & (tile.type_map > 0)
    if tile.annotated is not None:
        typed &= tile.annotated
    for type_id in np.unique(tile.type_map[typed]).tolist():
        if (name := tile.type_names.get(type_id)) not in type_names.values():
            return f"tile {tile.id}: the type {name!r} is none of the system's ({', '.join(type_names.values())})"
    return None


def _types_known(tiles: Sequence[TileScore]) -> bool:
    """Whether types can be compared: some true nucleus has a known type, or there are types but no nuclei at all."""
    true = sum(tile.metrics.panoptic.num_true for tile in tiles)
    unknown = sum(tile.metrics.detection.num_unknown for tile in tiles)
    return true > unknown or (true == 0 and any(tile.truth_has_types for tile in tiles))


def _untyped(metrics: ImageMetrics) -> ImageMetrics:
    counts = metrics.detection
    untyped = DetectionCounts(
        np.array([[counts.true_positives]]), np.array([counts.false_negatives]), np.array([counts.false_positives])
    )
    return replace(metrics, detection=untyped, typed=None)
