"""The picture of a fine-tuning: truth, before and after on some held-out tiles, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..data import Tile, TileRecord
from ..drawing.outlines import Color
from ..drawing.panel_rows import Panel, busiest_window, panel_rows
from ..drawing.worst_and_best import UNTYPED
from .colors import colored_prediction, colored_truth, type_colors
from .predictions import Prediction
from .scoring import score_tile
from .systems import System

ROWS = 4
"""Tiles at most, evenly spread over the list."""
WINDOW = 320
"""Pixels of the square of a tile that is shown, the one that holds the most nuclei."""


def before_after_picture(
    records: Sequence[TileRecord], systems: Mapping[str, System], rows: int = ROWS
) -> Image.Image:
    """Draws a row per tile: the truth and what each system finds.

    Contours have the colours of the types by name, the same in all panels. Nuclei without a type are black, and so is
    every nucleus of a system that lacks one of the true types. The PQ in a heading is that of the whole tile.

    Args:
        records: the tiles.
        systems: by the heading of their panels.
        rows: tiles at most.
    """
    chosen = np.unique(np.linspace(0, len(records) - 1, min(rows, len(records))).round().astype(int))
    found: list[tuple[Tile, dict[str, Prediction]]] = []
    colors: dict[str, Color] = {}
    for place in chosen:
        tile = records[place].load()
        predictions = {name: _comparable(tile, system.predict(tile)) for name, system in systems.items()}
        for prediction in predictions.values():
            colors |= type_colors(tile, prediction)
        found.append((tile, predictions))
    return panel_rows(
        [_row(tile, predictions, colors) for tile, predictions in found],
        colors | {"without type, or of other types": UNTYPED},
    )


def _comparable(tile: Tile, prediction: Prediction) -> Prediction:
    """The prediction, without its types if it lacks one of the tile's: two sets of types would share their colours."""
    if set(tile.type_names.values()) <= set(prediction.type_names.values()):
        return prediction
    return replace(prediction, types=None, type_names={})


def _row(
    tile: Tile, predictions: Mapping[str, Prediction], colors: Mapping[str, Color]
) -> tuple[np.ndarray, list[Panel]]:
    window = busiest_window(tile.instance_map, WINDOW)
    panels = [Panel(f"truth: {tile.id}", colored_truth(tile, colors).only(window), muted=True)]
    for name, prediction in predictions.items():
        quality = score_tile(tile, prediction).metrics.panoptic.pq
        panels.append(Panel(f"{name} PQ {quality:.2f}", colored_prediction(prediction, colors).only(window)))
    return np.ascontiguousarray(tile.image[window]), panels
