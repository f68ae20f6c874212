"""A page of tiles: truth, prediction and their differences side by side, the worst tiles first, then the best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lettering import INK, MUTED, PAPER, Font, fit_text, scale_bar_length
from .outlines import Color, ColoredNuclei, draw_nuclei, enlarge, outlined

PANEL = 900
"""Approximate side of a panel in pixels; small tiles are enlarged by an integer factor."""
MAX_SCALE = 4
GAP = 12
TEXT = 20
LONGEST_LINE = 2 * PANEL

UNTYPED = (0, 0, 0)
"""Colour of nuclei without a type; no type has it."""
# Drawn on the greyed image of the differences, and distinct to colour-blind readers too.
FOUND, OTHER_TYPE, MISSED, INVENTED = (200, 200, 200), (240, 228, 66), (255, 128, 0), (86, 190, 255)


@dataclass(frozen=True)
class Differences:
    """How the nuclei of a tile pair up: ids of predicted nuclei, and of true nuclei in `missed`.

    Attributes:
        found: predictions that match a true nucleus.
        other_type: predictions that match a true nucleus of another type; None if types were not compared.
        invented: predictions without a match.
        missed: true nuclei without a match.
    """

    found: frozenset[int] = frozenset()
    other_type: frozenset[int] | None = None
    invented: frozenset[int] = frozenset()
    missed: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class ComparedTile:
    """One row of a page.

    Attributes:
        captions: lines above the panels.
        image: (H, W, 3) uint8 RGB.
        truth, prediction: the nuclei of both sides, coloured by type.
        counts: how many true and how many predicted nuclei the headings report.
        differences: how they pair up.
        types: the entries of the legend, RGB by name.
        mpp: micrometres per pixel; without it there is no scale bar.
    """

    captions: Sequence[str]
    image: np.ndarray
    truth: ColoredNuclei
    prediction: ColoredNuclei
    counts: tuple[int, int]
    differences: Differences
    types: Mapping[str, Color] = field(default_factory=dict)
    mpp: float | None = None


def tiles_page(title: str, worst: Iterable[ComparedTile], best: Iterable[ComparedTile]) -> Image.Image:
    """Draws a row per tile, the worst first, with its captions above and its legend below.

    Args:
        title: heading of the page.
        worst, best: the tiles. They are drawn one by one, so an iterator may hold a single tile at a time.

    Returns:
        An RGB picture.
    """
    large, small = ImageFont.load_default(size=1.4 * TEXT), ImageFont.load_default(size=TEXT)
    strips = [_line(title, large, INK, 2.4)]
    for heading, tiles in (("Lowest PQ", worst), ("Highest PQ", best)):
        for place, tile in enumerate(tiles):
            if place == 0:
                strips.append(_line(heading, large, INK, 2.6))
            strips += [_line(caption, small, MUTED if i else INK, 1.4) for i, caption in enumerate(tile.captions)]
            strips += [_panels(tile), _legend(tile, small), _line("", small, INK, 1.2)]
    width = max(strip.width for strip in strips) + 2 * GAP
    page = Image.new("RGB", (width, sum(strip.height for strip in strips) + 2 * GAP), PAPER)
    top = GAP
    for strip in strips:
        page.paste(strip, (GAP, top))
        top += strip.height
    return page


def _panels(tile: ComparedTile) -> Image.Image:
    longest = max(tile.image.shape[:2])
    scale = float(min(MAX_SCALE, PANEL // longest)) if longest <= PANEL else PANEL / longest
    panels = [outlined(tile.image, nuclei, scale) for nuclei in (tile.truth, tile.prediction)]
    panels.append(_difference_panel(tile, scale))
    height, width = panels[0].shape[:2]
    font = ImageFont.load_default(size=TEXT)
    strip = Image.new("RGB", (3 * width + 2 * GAP, height + round(1.5 * TEXT)), PAPER)
    draw = ImageDraw.Draw(strip)
    titles = (f"truth: {tile.counts[0]:,} nuclei", f"prediction: {tile.counts[1]:,} nuclei", "differences")
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = place * (width + GAP)
        draw.text((left, 0.7 * TEXT), title, INK, font, anchor="lm")
        strip.paste(Image.fromarray(panel), (left, round(1.5 * TEXT)))
    if tile.mpp is not None:
        _scale_bar(draw, tile.mpp, scale, width, strip.height, font)
    return strip


def _difference_panel(tile: ComparedTile, scale: float) -> np.ndarray:
    """The greyed image with thin lines around what was found and thick ones around every difference."""
    grey = cv2.cvtColor(cv2.cvtColor(tile.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    # Darkened, so that the lines stand out on glass and stroma too.
    canvas = enlarge((grey * 0.5).astype(np.uint8), scale)
    differences, predicted = tile.differences, tile.prediction.label_map
    for label_map, ids, color, thickness in (
        (predicted, differences.found, FOUND, 1),
        (predicted, differences.other_type or (), OTHER_TYPE, 2),
        (predicted, differences.invented, INVENTED, 2),
        (tile.truth.label_map, differences.missed, MISSED, 2),
    ):
        draw_nuclei(canvas, ColoredNuclei(label_map, dict.fromkeys(ids, color)), scale, thickness)
    return canvas


def _legend(tile: ComparedTile, font: Font) -> Image.Image:
    differences = tile.differences
    entries = [
        (f"true nucleus without match {len(differences.missed):,}", MISSED),
        (f"prediction without match {len(differences.invented):,}", INVENTED),
    ]
    if differences.other_type is not None:
        entries.append((f"match of another type {len(differences.other_type):,}", OTHER_TYPE))
    entries.append((f"match {len(differences.found):,} (IoU > .5)", FOUND))
    groups = [("types:", list(tile.types.items())), ("differences:", entries)]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = round(sum(measure.textlength(text, font) + 2.4 * TEXT for _, g in groups for text, _ in g) + 14 * TEXT)
    strip = Image.new("RGB", (width, 2 * TEXT), PAPER)
    draw, x = ImageDraw.Draw(strip), 0.0
    for heading, group in groups:
        draw.text((x, TEXT), heading, INK, font, anchor="lm")
        x += measure.textlength(heading, font) + 0.8 * TEXT
        for text, color in group:
            draw.rectangle((x, 0.6 * TEXT, x + 0.8 * TEXT, 1.4 * TEXT), fill=color, outline=MUTED)
            draw.text((x + 1.1 * TEXT, TEXT), text, INK, font, anchor="lm")
            x += measure.textlength(text, font) + 2.2 * TEXT
        x += 2 * TEXT
    return strip


def _line(text: str, font: Font, color: Color, height: float) -> Image.Image:
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = fit_text(measure, text, font, LONGEST_LINE)
    width = round(measure.textlength(text, font=font)) + 2
    strip = Image.new("RGB", (width, round(height * TEXT)), PAPER)
    ImageDraw.Draw(strip).text((0, strip.height / 2), text, color, font, anchor="lm")
    return strip


def _scale_bar(draw: ImageDraw.ImageDraw, mpp: float, scale: float, width: int, bottom: int, font: Font) -> None:
    """Draws a bar of at most a quarter of the first panel's width in its lower left corner."""
    bar = scale_bar_length(mpp, scale, width / 4)
    if bar is None:
        return
    length, text = bar
    draw.rectangle((8, bottom - 2.4 * TEXT, 24 + max(length, draw.textlength(text, font)), bottom - 8), fill=PAPER)
    draw.text((16, bottom - 1.8 * TEXT), text, INK, font, anchor="lm")
    draw.line((16, bottom - 16, 16 + length, bottom - 16), fill=INK, width=4)
