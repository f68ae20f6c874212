"""Validation as the papers do it: whole tiles are segmented, decoded and compared with the truth."""

from collections.abc import Callable, Iterable

import numpy as np

from ..data import Tile
from ..metrics import detection_radius, image_metrics, summarize
from ..nuclei_cfsam import NucleiResult

DEFAULT_MPP = 0.25


def evaluate_tiles(
    segment: Callable[[Tile], NucleiResult], tiles: Iterable[Tile], type_names: dict[int, str]
) -> dict[str, float]:
    """Segments tiles and scores them with every metric of [`cfsam_hf.metrics.summarize`].

    Args:
        segment (`Callable`): a tile to its nuclei, in the tile's pixels.
        tiles (`Iterable[Tile]`): with their truth. Pixels that are not annotated are left out on both sides. Of
            unknown mpp, 0.25 is assumed for the detection radius of 3 um.
        type_names (`dict[int, str]`): names of the types 1..T of the prediction; the tiles' types are found by name.

    Returns:
        Scores by name, each naming its averaging. Types are scored where every nucleus of every tile has one that
        `type_names` knows.
    """
    images = []
    for tile in tiles:
        result = segment(tile)
        types = {}
        true_types = _renumbered_types(tile, type_names)
        if true_types is not None:
            types = {
                "true_types": true_types,
                "pred_types": result.table["type"].to_numpy(),
                "num_types": len(type_names),
            }
        truth, found = tile.instance_map, result.instance_map
        if tile.annotated is not None:
            truth, found = (np.where(tile.annotated, ids, 0) for ids in (truth, found))
        images.append(
            image_metrics(
                truth,
                found,
                pred_scores=result.table["score"].to_numpy(),
                radius=detection_radius(tile.mpp or DEFAULT_MPP),
                **types,
            )
        )
    typed = all(image.typed is not None for image in images)
    return summarize(images, type_names=list(type_names.values()) if typed and type_names else None)


def _renumbered_types(tile: Tile, type_names: dict[int, str]) -> np.ndarray | None:
    """The tile's type map (H, W) with the ids of `type_names`; `None` unless that knows the type of every nucleus."""
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
