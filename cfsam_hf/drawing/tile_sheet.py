"""The picture of a data set's annotation: a sheet of tiles with every nucleus outlined in the colour of its type."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.records import Tile, TileRecord
from ..data.true_nuclei import all_nuclei, annotated_nuclei, true_styles
from ..model.result import TypeStyle
from .lettering import INK, MUTED, PAPER, fit_text, legend_strip
from .outlines import ColoredNuclei, outlined

CELL = 480
"""Pixels of a tile's longer side on the sheet."""

GAP = 16
TEXT = 18
CAPTION = round(2.9 * TEXT)
MOST_COLUMNS = 4
UNANNOTATED_SHADE = 0.55
"""Share of grey blended over unannotated pixels."""


def choose_tiles(records: Sequence[TileRecord], most: int) -> list[TileRecord]:
    """Chooses tiles for a sheet: the same number of each fold and tissue as far as possible, evenly spaced in each.

    Args:
        records: all tiles.
        most: how many to choose.

    Returns:
        At most `most` records in the order of `records`.
    """
    groups: dict[tuple, list[int]] = {}
    for position, record in enumerate(records):
        groups.setdefault((record.fold, record.tissue), []).append(position)
    shares = dict.fromkeys(groups, 0)
    for _ in range(min(most, len(records))):
        # The next place goes to the group with the fewest chosen that has tiles left; the first of equals wins.
        key = min((key for key in groups if shares[key] < len(groups[key])), key=shares.__getitem__)
        shares[key] += 1
    chosen = [
        group[(2 * place + 1) * len(group) // (2 * shares[key])]
        for key, group in groups.items()
        for place in range(shares[key])
    ]
    return [records[position] for position in sorted(chosen)]


def tile_sheet(tiles: Sequence[Tile], title: str) -> Image.Image:
    """Draws a sheet of tiles.

    Contours have the colours of their types, in the palette of all pictures. Unannotated pixels are greyed.
    The caption below each tile gives its id, fold, tissue, size and number of nuclei.

    Args:
        tiles: at least one; their types have the same names.
        title: the heading.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no tiles.
    """
    if not tiles:
        raise ValueError("a sheet needs at least one tile")
    columns = min(MOST_COLUMNS, max(2, math.ceil(math.sqrt(len(tiles)))))
    width = columns * CELL + (columns + 1) * GAP
    counts: dict[TypeStyle, int] = {}
    cells = []
    for tile in tiles:
        cell, tile_counts = _cell(tile)
        cells.append(cell)
        for style, count in tile_counts.items():
            counts[style] = counts.get(style, 0) + count
    legend = legend_strip([(style.color, f"{style.name}  {n:,}") for style, n in counts.items()], width, TEXT, GAP)
    head = 3 * TEXT
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    picture = Image.new("RGB", (width, head + sum(heights) + (len(rows) - 1) * GAP + legend.height), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=1.25 * TEXT)
    draw.text((GAP, head / 2), fit_text(draw, title, font, width - 2 * GAP), INK, font, anchor="lm")
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            picture.paste(cell, (GAP + column * (CELL + GAP), top + height - cell.height))
        top += height + GAP
    picture.paste(legend, (0, picture.height - legend.height))
    return picture


def _cell(tile: Tile) -> tuple[Image.Image, dict[TypeStyle, int]]:
    """A tile with its caption, and the number of its annotated nuclei by type."""
    nuclei = all_nuclei(tile)
    styles = true_styles(tile, nuclei)
    image = tile.image
    if tile.annotated is not None:
        shaded = (image * (1 - UNANNOTATED_SHADE) + 128 * UNANNOTATED_SHADE).astype(np.uint8)
        image = np.where(tile.annotated[..., None], image, shaded)
    height, width = image.shape[:2]
    colored = ColoredNuclei.by_type(tile.instance_map, nuclei.ids, nuclei.types, styles)
    scale = CELL / max(height, width, 1)
    drawn = outlined(image, colored, scale, thickness=1 if scale < 1 else 2)
    cell = Image.new("RGB", (CELL, drawn.shape[0] + CAPTION), PAPER)
    cell.paste(Image.fromarray(drawn), ((CELL - drawn.shape[1]) // 2, 0))
    draw = ImageDraw.Draw(cell)
    large, small = ImageFont.load_default(size=TEXT), ImageFont.load_default(size=0.8 * TEXT)
    types = annotated_nuclei(tile).types
    count = "1 nucleus" if len(types) == 1 else f"{len(types):,} nuclei"
    text = " · ".join(filter(None, (tile.fold and f"fold {tile.fold}", tile.tissue, f"{width} x {height} px", count)))
    draw.text((0, drawn.shape[0] + 0.9 * TEXT), fit_text(draw, tile.id, large, CELL), INK, large, anchor="lm")
    draw.text((0, drawn.shape[0] + 2.1 * TEXT), fit_text(draw, text, small, CELL), MUTED, small, anchor="lm")
    return cell, {style: int((types == style.type_id).sum()) for style in styles}
