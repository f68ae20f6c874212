"""True and predicted nuclei in the colours of their types, the same on both sides."""

from collections.abc import Mapping

import numpy as np

from ..data import Tile
from ..drawing.outlines import Color, ColoredNuclei
from ..drawing.worst_and_best import UNTYPED
from ..metrics.nucleus_types import NucleusTypes, row_types
from ..model.configuration_cfsam import default_type_color, rgb
from .predictions import Prediction


def type_colors(tile: Tile, prediction: Prediction) -> dict[str, Color]:
    """RGB by the name of the type; the prediction's own colours take precedence."""
    colors = {name: rgb(default_type_color(i)) for i, name in tile.type_names.items()}
    own = {n: prediction.type_colors.get(i, rgb(default_type_color(i))) for i, n in prediction.type_names.items()}
    return colors | own


def colored_truth(tile: Tile, colors: Mapping[str, Color]) -> ColoredNuclei:
    """The annotated nuclei of a tile; those without a type, or with one that `colors` lacks, are black."""
    return _colored(tile.instance_map, true_type_names(tile), colors)


def colored_prediction(prediction: Prediction, colors: Mapping[str, Color]) -> ColoredNuclei:
    """The predicted nuclei; those without a type, or with one that `colors` lacks, are black."""
    return _colored(np.asarray(prediction.instance_map), predicted_type_names(prediction), colors)


def true_type_names(tile: Tile) -> dict[int, str]:
    """Name of the type of each annotated nucleus that has one, by its id."""
    types = None if tile.type_map is None else np.maximum(tile.type_map, 0)
    return _names(tile.instance_map, types, tile.type_names)


def predicted_type_names(prediction: Prediction) -> dict[int, str]:
    """Name of the type of each predicted nucleus that has one, by its id."""
    return _names(np.asarray(prediction.instance_map), prediction.types, prediction.type_names)


def _names(label_map: np.ndarray, types: NucleusTypes | None, names: Mapping[int, str]) -> dict[int, str]:
    if types is None:
        return {}
    ids = np.unique(label_map[label_map > 0])
    rows = row_types(ids, types, label_map, None, "types")
    return {i: names[t] for i, t in zip(ids.tolist(), rows.tolist(), strict=True) if t in names}


def _colored(label_map: np.ndarray, names: Mapping[int, str], colors: Mapping[str, Color]) -> ColoredNuclei:
    ids = np.unique(label_map[label_map > 0]).tolist()
    return ColoredNuclei(label_map, {i: colors.get(names.get(i, ""), UNTYPED) for i in ids})
