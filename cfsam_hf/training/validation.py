"""Validation as the papers do it: whole tiles are segmented, decoded and compared with the truth."""

from collections.abc import Callable, Iterable

import numpy as np

from ..data import UNKNOWN_TYPE, Tile
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
        type_names (`dict[int, str]`): names of the types 1..T of the prediction; the tiles' types have the same ids.

    Returns:
        Scores by name, each naming its averaging. Types are scored where a tile has them for all of its nuclei.
    """
    images = []
    for tile in tiles:
        result = segment(tile)
        types = {}
        if type_names and tile.type_map is not None and not (tile.type_map == UNKNOWN_TYPE).any():
            types = {
                "true_types": tile.type_map,
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
