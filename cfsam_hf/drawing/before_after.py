"""The picture of a fine-tuning: truth, before and after of some held-out tiles, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data import Tile, TileRecord
from ..evaluation.predictions import Prediction
from ..evaluation.scoring import score_tile
from ..evaluation.systems import System
from .lettering import INK, MUTED, PAPER, fit_text, legend_strip
from .worst_and_best import UNTYPED, names_of_types, outlined, type_colors

ROWS = 4
"""Tiles at most, evenly spread over the list."""
WINDOW = 320
"""Pixels of a tile that are shown, around the most nuclei; tiles are not made smaller."""
SCALE = 1.5
GAP, TEXT = 10, 16


def before_after_picture(
    records: Sequence[TileRecord], systems: Mapping[str, System], rows: int = ROWS
) -> Image.Image:
    """Draws a row per tile: the truth and what each system finds there.

    Contours have the colours of the types by name, the same in all panels. Black is without a type, and all that a
    system finds that does not know the types of the truth. PQ is of the whole tile.

    Args:
        records: the tiles.
        systems: by the heading of their panels.
        rows: tiles at most.
    """
    font = ImageFont.load_default(size=TEXT)
    chosen = np.unique(np.linspace(0, len(records) - 1, min(rows, len(records))).round().astype(int))
    strips, colors = [], {}
    for i in chosen:
        tile = records[i].load()
        predictions = {name: _comparable(tile, system.predict(tile)) for name, system in systems.items()}
        for prediction in predictions.values():
            colors |= type_colors(tile, prediction)
        strips.append((tile, predictions))
    pictures = [_row(tile, predictions, colors, font) for tile, predictions in strips]
    width = max(picture.width for picture in pictures) + 2 * GAP
    entries = [(color, name) for name, color in colors.items()]
    pictures.append(legend_strip([*entries, (UNTYPED, "without type, or of other types")], width - 2 * GAP, TEXT, 0))
    page = Image.new("RGB", (width, sum(picture.height + GAP for picture in pictures) + GAP), PAPER)
    top = GAP
    for picture in pictures:
        page.paste(picture, (GAP, top))
        top += picture.height + GAP
    return page


def _comparable(tile: Tile, prediction: Prediction) -> Prediction:
    """The prediction, without types where it does not know the tile's: two sets of them would share their colours."""
    if set(tile.type_names.values()) <= set(prediction.type_names.values()):
        return prediction
    return replace(prediction, types=None, type_names={})


def _row(tile: Tile, predictions: Mapping[str, Prediction], colors: dict, font) -> Image.Image:
    window = busiest_window(tile.instance_map, WINDOW)
    shown = [("truth", "", tile.instance_map, names_of_types(tile.instance_map, tile.type_map, tile.type_names))]
    for name, prediction in predictions.items():
        quality = score_tile(tile, prediction).metrics.panoptic.pq
        names = names_of_types(prediction.instance_map, prediction.types, prediction.type_names)
        shown.append((name, f" PQ {quality:.2f}", prediction.instance_map, names))
    panels = []
    for heading, quality, label_map, names in shown:
        part = np.ascontiguousarray(label_map[window])
        panel = outlined(tile.image[window], part, lambda i, names=names: colors.get(names.get(i), UNTYPED), SCALE, 2)
        picture = Image.new("RGB", (panel.shape[1], panel.shape[0] + 2 * TEXT), PAPER)
        picture.paste(Image.fromarray(panel), (0, 2 * TEXT))
        draw = ImageDraw.Draw(picture)
        text = heading + quality if quality else f"{heading}: {tile.id}"
        draw.text((0, TEXT), fit_text(draw, text, font, panel.shape[1]), INK if quality else MUTED, font, anchor="lm")
        panels.append(picture)
    strip = Image.new("RGB", (sum(p.width + GAP for p in panels) - GAP, panels[0].height), PAPER)
    for number, panel in enumerate(panels):
        strip.paste(panel, (number * (panel.width + GAP), 0))
    return strip


def busiest_window(label_map: np.ndarray, size: int) -> tuple[slice, slice]:
    """The square of a label map (H, W), cut to it, that holds the most pixels of nuclei, on a grid of an eighth."""
    height, width = label_map.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    sums[1:, 1:] = (label_map > 0).cumsum(0).cumsum(1)
    step = max(1, size // 8)
    tall, wide = min(size, height), min(size, width)
    best = max(
        ((y, x) for y in range(0, height - tall + 1, step) for x in range(0, width - wide + 1, step)),
        key=lambda p: sums[p[0] + tall, p[1] + wide] - sums[p[0], p[1] + wide] - sums[p[0] + tall, p[1]] + sums[p],
    )
    return slice(best[0], best[0] + tall), slice(best[1], best[1] + wide)
