"""A picture of what a model has learned: input, truth, prediction and boundary of a few crops, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .lettering import INK, PAPER
from .outlines import ColoredNuclei, draw_nuclei

COLUMNS = ("input", "truth", "prediction", "boundary")
GAP = 6
HEADER = 18
SMALLEST_SIDE = 192
"""Smaller crops are doubled until a panel is at least this many pixels wide."""


@dataclass(frozen=True, eq=False)
class ExampleRow:
    """One crop.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        truth, prediction: with label maps (S, S).
        boundary: (S, S) probability of the boundary; None for a model without a boundary map, which leaves the panel
            black.
    """

    image: np.ndarray
    truth: ColoredNuclei
    prediction: ColoredNuclei
    boundary: np.ndarray | None = None


def examples_picture(rows: Sequence[ExampleRow]) -> Image.Image:
    """Draws a row per crop.

    Args:
        rows: at least one; all crops have the same size.

    Returns:
        An RGB picture. The last column shows the boundary's probability from black, 0, to white, 1.
    """
    size, factor = rows[0].image.shape[0], 1
    while factor * size < SMALLEST_SIDE:
        factor *= 2
    side = factor * size
    width, height = len(COLUMNS) * (side + GAP) + GAP, len(rows) * (side + GAP) + GAP + HEADER
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        boundary = np.zeros_like(row.image)
        if row.boundary is not None:
            boundary[:] = np.rint(row.boundary * 255).astype(np.uint8)[..., None]
        panels = [picture.repeat(factor, axis=0).repeat(factor, axis=1) for picture in (*[row.image] * 3, boundary)]
        for panel, nuclei in zip(panels[1:3], (row.truth, row.prediction), strict=True):
            draw_nuclei(panel, nuclei, factor, 1 if factor == 1 else 2)
        for column, panel in enumerate(panels):
            place = (GAP + column * (side + GAP), HEADER + GAP + number * (side + GAP))
            canvas.paste(Image.fromarray(panel), place)
    for column, title in enumerate(COLUMNS):
        draw.text((GAP + column * (side + GAP), 4), title, fill=INK)
    return canvas
