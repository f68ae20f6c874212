"""A picture of rows of panels, such as truth, before and after of held-out tiles, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lettering import INK, MUTED, PAPER, Font, fit_text, legend_strip
from .outlines import Color, ColoredNuclei, outlined

SCALE = 1.5
GAP, TEXT = 10, 16


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row.

    Attributes:
        heading: the line above it.
        nuclei: with a label map of the row's (H, W).
        muted: whether the heading is grey.
    """

    heading: str
    nuclei: ColoredNuclei
    muted: bool = False


def panel_rows(rows: Sequence[tuple[np.ndarray, Sequence[Panel]]], legend: Mapping[str, Color]) -> Image.Image:
    """Draws rows of panels with a legend below them.

    Args:
        rows: the image (H, W, 3) uint8 RGB of each row, and its panels; at least one of both.
        legend: RGB by label.

    Returns:
        An RGB picture.
    """
    font = ImageFont.load_default(size=TEXT)
    pictures = [_row(image, panels, font) for image, panels in rows]
    width = max(picture.width for picture in pictures) + 2 * GAP
    entries = [(color, label) for label, color in legend.items()]
    pictures.append(legend_strip(entries, width - 2 * GAP, TEXT, 0))
    page = Image.new("RGB", (width, sum(picture.height + GAP for picture in pictures) + GAP), PAPER)
    top = GAP
    for picture in pictures:
        page.paste(picture, (GAP, top))
        top += picture.height + GAP
    return page


def _row(image: np.ndarray, panels: Sequence[Panel], font: Font) -> Image.Image:
    drawn = []
    for panel in panels:
        inside = outlined(image, panel.nuclei, SCALE, 2)
        picture = Image.new("RGB", (inside.shape[1], inside.shape[0] + 2 * TEXT), PAPER)
        picture.paste(Image.fromarray(inside), (0, 2 * TEXT))
        draw = ImageDraw.Draw(picture)
        text = fit_text(draw, panel.heading, font, inside.shape[1])
        draw.text((0, TEXT), text, MUTED if panel.muted else INK, font, anchor="lm")
        drawn.append(picture)
    strip = Image.new("RGB", (sum(p.width + GAP for p in drawn) - GAP, drawn[0].height), PAPER)
    for number, picture in enumerate(drawn):
        strip.paste(picture, (number * (picture.width + GAP), 0))
    return strip


def busiest_window(label_map: np.ndarray, size: int) -> tuple[slice, slice]:
    """The square of a label map (H, W) that holds the most pixels of nuclei, as (rows, columns).

    Squares start on a grid of an eighth of their size and are cut to the map where that is smaller.
    """
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
