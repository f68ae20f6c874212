"""Maps of errors: the outline of every prediction in the colour of its class, without the tissue.

Many licences do not allow the tissue itself to be redistributed.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lettering import INK, MUTED, PAPER, fit_text, legend_strip
from .outlines import Color, ColoredNuclei, outlined

PANEL = 480
"""Length in pixels of a tile's longer side."""
COLUMNS = 3
GAP, TEXT = 12, 14
HEAD = round(1.6 * TEXT)
CROSS = 3
"""Half the size of a cross in pixels."""


def error_panel(caption: str, nuclei: ColoredNuclei, crosses: np.ndarray, cross_color: Color) -> Image.Image:
    """Draws the outlines of one tile's predictions on white, with a caption above.

    Args:
        caption: shortened if it is too long.
        nuclei: the predictions, coloured by class.
        crosses: (N, 2) xy in pixels of the tile, where a cross is drawn, such as on missed nuclei.
        cross_color: RGB.

    Returns:
        An RGB picture whose longer side is about `PANEL` pixels.
    """
    scale = PANEL / max(nuclei.label_map.shape)
    white = np.full((*nuclei.label_map.shape, 3), 255, np.uint8)
    picture = Image.fromarray(outlined(white, nuclei, scale))
    draw = ImageDraw.Draw(picture)
    for x, y in crosses * scale:
        for sign in (-1, 1):
            draw.line((x - CROSS, y - sign * CROSS, x + CROSS, y + sign * CROSS), fill=cross_color)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=MUTED)
    panel = Image.new("RGB", (picture.width, picture.height + HEAD), PAPER)
    panel.paste(picture, (0, HEAD))
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=TEXT)
    draw.text((0, 0.7 * TEXT), fit_text(draw, caption, font, picture.width), INK, font, anchor="lm")
    return panel


def error_map(title: str, panels: Sequence[Image.Image], legend: Sequence[tuple[Color, str]]) -> Image.Image:
    """Puts the panels of a data set on one page.

    Args:
        title: heading of the page.
        panels: of [`error_panel`].
        legend: RGB colour and label of each class.

    Returns:
        An RGB picture.
    """
    columns = max(1, min(COLUMNS, len(panels)))
    width = GAP + columns * (PANEL + GAP)
    font = ImageFont.load_default(size=1.4 * TEXT)
    head = round(3.0 * TEXT)
    key = legend_strip(legend, width, TEXT, GAP)
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    height = head + key.height + sum(max(panel.height for panel in row) + GAP for row in rows)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, head / 2), fit_text(draw, title, font, width - 2 * GAP), INK, font, anchor="lm")
    page.paste(key, (0, head))
    top = head + key.height
    for row in rows:
        for place, panel in enumerate(row):
            page.paste(panel, (GAP + place * (PANEL + GAP), top))
        top += max(panel.height for panel in row) + GAP
    return page
