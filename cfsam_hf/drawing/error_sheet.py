"""A sheet of examples, a row per class of error: tissue with the truth on the left, the prediction on the right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lettering import INK, MUTED, PAPER, fit_text
from .outlines import ColoredNuclei, outlined

MARGIN = 4
"""Pixels of the tile cut off on every side after drawing; the outline of a cut nucleus runs along that edge."""
PANEL = 128
"""Pixels of a panel's side."""
GAP, TEXT = 10, 13
CONCERNED, OTHERS = (255, 225, 0), (70, 70, 80)


@dataclass(frozen=True, eq=False)
class ErrorExample:
    """One error.

    Attributes:
        image: (S, S, 3) uint8, the tissue around it and `MARGIN` pixels more on every side.
        truth, found: (S, S) integer label maps of the same place.
        true_ids, pred_ids: the nuclei concerned.
        caption: a few words.
    """

    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    true_ids: frozenset[int]
    pred_ids: frozenset[int]
    caption: str


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        heading: name of the class, and how many there are.
        definition: when a nucleus is of this class.
        examples: from left to right.
    """

    heading: str
    definition: str
    examples: Sequence[ErrorExample]


def error_sheet(title: str, rows: Sequence[SheetRow], columns: int, side_um: float) -> Image.Image:
    """Draws the examples of each class.

    Args:
        title: heading of the page.
        rows: each with at most `columns` examples.
        columns: examples in a row.
        side_um: micrometres of tissue that a panel shows, for the key.

    Returns:
        An RGB picture.
    """
    large, bold, small = (ImageFont.load_default(size=size) for size in (1.5 * TEXT, 1.15 * TEXT, TEXT))
    cell = 2 * PANEL + 2
    width = columns * (cell + GAP) + GAP
    head, line, foot = round(4.2 * TEXT), round(2.4 * TEXT), round(2.0 * TEXT)
    page = Image.new("RGB", (width, head + len(rows) * (line + PANEL + foot) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 1.4 * TEXT), fit_text(draw, title, large, width - 2 * GAP), INK, large, anchor="lm")
    key = f"Each pair: truth left, prediction right, {side_um:g} um wide. Yellow: the nuclei concerned; grey: others."
    draw.text((GAP, 3.3 * TEXT), fit_text(draw, key, small, width - 2 * GAP), MUTED, small, anchor="lm")
    top = head
    for row in rows:
        draw.text((GAP, top + 1.4 * TEXT), row.heading, INK, bold, anchor="lm")
        start = GAP + draw.textlength(row.heading, font=bold) + TEXT
        text = fit_text(draw, row.definition, small, width - GAP - start)
        draw.text((start, top + 1.4 * TEXT), text, MUTED, small, anchor="lm")
        top += line
        for place, example in enumerate(row.examples):
            left = GAP + place * (cell + GAP)
            page.paste(_panel(example.image, example.truth, example.true_ids), (left, top))
            page.paste(_panel(example.image, example.found, example.pred_ids), (left + PANEL + 2, top))
            text = fit_text(draw, example.caption, small, cell)
            draw.text((left, top + PANEL + 0.8 * TEXT), text, INK, small, anchor="lm")
        top += PANEL + foot
    return page


def _panel(image: np.ndarray, label_map: np.ndarray, concerned: frozenset[int]) -> Image.Image:
    scale = PANEL / (max(image.shape[:2]) - 2 * MARGIN)
    cut = round(MARGIN * scale)
    # Those concerned come last, and so lie on top.
    colors = dict.fromkeys(np.unique(label_map[label_map > 0]).tolist(), OTHERS) | dict.fromkeys(concerned, CONCERNED)
    colors = dict(sorted(colors.items(), key=lambda item: item[1] == CONCERNED))
    picture = outlined(image, ColoredNuclei(label_map, colors), scale)
    panel = Image.new("RGB", (PANEL, PANEL), PAPER)
    panel.paste(Image.fromarray(picture[cut:-cut, cut:-cut][:PANEL, :PANEL]))
    return panel
