"""Where on its tiles a system errs, drawn without the tissue, which many licences do not allow to pass on."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data import Tile
from ..evaluation.errors import LOOSE, MATCHED, MERGED, MISSED, MISTYPED, SPLIT, SPURIOUS, NucleusErrors
from ..evaluation.predictions import Prediction
from ..model.nucleus_types import rgb
from .lettering import INK, MUTED, PAPER, fit_text, legend_strip
from .worst_and_best import outlined

PANEL = 480
"""Side in pixels that a tile has about."""
COLUMNS = 3
GAP, TEXT = 12, 14
CROSS = 3
"""Half the size of the mark of a missed nucleus."""

# The palette of the types, which is told apart by colour-blind readers too.
COLORS = {
    MATCHED: (190, 190, 190),
    MISTYPED: rgb("#0072b2"),
    LOOSE: rgb("#009e73"),
    SPLIT: rgb("#cc79a7"),
    MERGED: rgb("#d55e00"),
    SPURIOUS: rgb("#56b4e9"),
    MISSED: (0, 0, 0),
}
LABELS = {
    MATCHED: "prediction, matched",
    MISTYPED: "matched, another type",
    LOOSE: "loose",
    SPLIT: "part of a split nucleus",
    MERGED: "merges several",
    SPURIOUS: "spurious",
    MISSED: "x: missed nucleus",
}


def error_panel(tile: Tile, prediction: Prediction, errors: NucleusErrors) -> Image.Image:
    """One tile: the outline of every prediction in the colour of its class, a cross where a nucleus was missed.

    Args:
        tile, prediction: what was classified.
        errors: of [`cfsam_hf.evaluation.errors.classify_nuclei`].

    Returns:
        An RGB picture of about `PANEL` pixels, with the tile's name and counts above.
    """
    table = errors.table
    classes = dict(zip(table.pred_ids.tolist(), errors.pred_classes.tolist(), strict=True))
    # Those are among the matched.
    classes |= dict.fromkeys(table.pred_ids[errors.mistyped[:, 1]].tolist(), MISTYPED)
    found = np.asarray(prediction.instance_map)
    # What lies where nobody looked is in no class.
    found = np.where(np.isin(found, list(classes)), found, 0)
    scale = PANEL / max(found.shape)
    picture = Image.fromarray(
        outlined(np.full((*found.shape, 3), 255, np.uint8), found, lambda i: COLORS[classes[i]], scale)
    )
    draw = ImageDraw.Draw(picture)
    for x, y in table.true_centroids[errors.true_classes == MISSED] * scale:
        for sign in (-1, 1):
            draw.line((x - CROSS, y - sign * CROSS, x + CROSS, y + sign * CROSS), fill=COLORS[MISSED])
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=MUTED)
    panel = Image.new("RGB", (picture.width, picture.height + round(1.6 * TEXT)), PAPER)
    panel.paste(picture, (0, round(1.6 * TEXT)))
    matched = int((errors.true_classes == MATCHED).sum())
    about = [tile.id, tile.tissue, f"{matched:,} of {table.num_true:,} nuclei matched"]
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=TEXT)
    text = fit_text(draw, " · ".join(filter(None, about)), font, picture.width)
    draw.text((0, 0.7 * TEXT), text, INK, font, anchor="lm")
    return panel


def error_map(title: str, panels: Sequence[Image.Image]) -> Image.Image:
    """The panels of a data set on one page, with a legend.

    Args:
        title: what was classified on what.
        panels: of [`error_panel`].

    Returns:
        An RGB picture.
    """
    columns = max(1, min(COLUMNS, len(panels)))
    width = GAP + columns * (PANEL + GAP)
    font = ImageFont.load_default(size=1.4 * TEXT)
    head = round(3.0 * TEXT)
    key = legend_strip([(COLORS[name], label) for name, label in LABELS.items()], width, TEXT, GAP)
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
