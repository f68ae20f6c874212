"""A chart of a score over the crops seen in training: a colour per data set, a line per run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..model.configuration_cfsam import default_type_color, rgb
from .lettering import INK, MUTED, PAPER, fit_text

GRID = (226, 229, 233)
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 56
TEXT = 14
SHARPER = 3
"""The picture is drawn this many times larger and then averaged, because Pillow does not anti-alias lines."""
STEPS = (1, 2, 2.5, 5, 10)
"""Possible distances between the ticks of an axis, times a power of ten."""


@dataclass(frozen=True)
class LearningCurve:
    """One score of one data set.

    Attributes:
        run, dataset: names of the training run and of the data set.
        points: (crops seen, score), by crops.
    """

    run: str
    dataset: str
    points: tuple[tuple[int, float], ...]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that divide an axis, the first at most `low`, the last at least `high`.

    >>> ticks(0.31, 0.52)
    [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    """
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (*STEPS, 10 * STEPS[-1]) if math.ceil((high - low) / (s * power)) < most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Positions at least `distance` apart, as close to the wanted ones as possible and in the same order.

    >>> spread([30, 10, 12], 6)
    [30.0, 8.0, 14.0]
    """
    groups: list[list[int]] = []  # positions that touch; each group is centred on the mean of what it wants

    def span(group: list[int]) -> tuple[float, float]:
        centre, half = sum(wanted[i] for i in group) / len(group), (len(group) - 1) * distance / 2
        return centre - half, centre + half

    for index in sorted(range(len(wanted)), key=wanted.__getitem__):
        groups.append([index])
        while len(groups) > 1 and span(groups[-1])[0] < span(groups[-2])[1] + distance:
            groups[-2:] = [groups[-2] + groups[-1]]
    places = {index: span(group)[0] + n * distance for group in groups for n, index in enumerate(group)}
    return [places[index] for index in range(len(wanted))]


def learning_curve_chart(curves: Sequence[LearningCurve], title: str, metric: str) -> Image.Image:
    """Draws the curves, with the last value of each data set written beside its line.

    Args:
        curves: at least one with a point.
        title: heading of the picture.
        metric: name of the score.

    Returns:
        An RGB picture of `WIDTH` x `HEIGHT` pixels.

    Raises:
        ValueError: there are no points.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        raise ValueError("there is nothing to draw: no points")
    across, up = ticks(0, max(x for x, _ in points)), ticks(min(y for _, y in points), max(y for _, y in points))
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    colors = {name: rgb(default_type_color(number)) for number, name in enumerate(datasets, start=1)}
    right = RIGHT + 5 * TEXT

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - across[0]) / (across[-1] - across[0])
        above = (y - up[0]) / (up[-1] - up[0])
        width, height = WIDTH - LEFT - right, HEIGHT - TOP - BOTTOM
        return SHARPER * (LEFT + along * width), SHARPER * (TOP + (1 - above) * height)

    picture = Image.new("RGB", (SHARPER * WIDTH, SHARPER * HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    font, heading = (ImageFont.load_default(size=SHARPER * size) for size in (TEXT, 1.3 * TEXT))
    for y in up:
        draw.line((*place(across[0], y), *place(across[-1], y)), GRID, SHARPER)
        x, middle = place(across[0], y)
        draw.text((x - SHARPER * 8, middle), f"{y:g}", MUTED, font, anchor="rm")
    for x in across:
        middle, y = place(x, up[0])
        draw.line((middle, y, middle, y + SHARPER * 5), MUTED, SHARPER)
        draw.text((middle, y + SHARPER * 10), f"{x:,.0f}", MUTED, font, anchor="mt")
    centre = SHARPER * (LEFT + (WIDTH - LEFT - right) / 2)
    draw.text((centre, SHARPER * (HEIGHT - 8)), "crops seen in training", INK, font, anchor="mb")
    draw.text((SHARPER * 12, SHARPER * 16), fit_text(draw, title, heading, SHARPER * (WIDTH - 24)), INK, heading, "lm")
    draw.text((SHARPER * 12, SHARPER * 40), fit_text(draw, metric, font, SHARPER * WIDTH // 2), MUTED, font, "lm")

    labels = []
    for curve in curves:
        color, line = colors[curve.dataset], [place(*point) for point in curve.points]
        draw.line(line, color, 2 * SHARPER, joint="curve")
        for x, y in line:
            draw.ellipse((x - 3 * SHARPER, y - 3 * SHARPER, x + 3 * SHARPER, y + 3 * SHARPER), color)
        labels.append((line[-1], f"{curve.points[-1][1]:.3f}", color))
    # Only the ends of a data set's last curve are labelled: those of earlier stages lie in the middle.
    last = {color: (end, text) for end, text, color in labels}
    middles = spread([y for (_, y), _ in last.values()], SHARPER * TEXT)
    for (color, ((x, _), text)), y in zip(last.items(), middles, strict=True):
        draw.text((x + SHARPER * 8, y), text, color, font, anchor="lm")
    x = SHARPER * (WIDTH - 16)
    for name in reversed(datasets):
        text = fit_text(draw, name, font, SHARPER * WIDTH // 4)
        draw.text((x, SHARPER * 40), text, INK, font, anchor="rm")
        x -= draw.textlength(text, font) + SHARPER * 8
        draw.line((x - SHARPER * 18, SHARPER * 40, x, SHARPER * 40), colors[name], 3 * SHARPER)
        x -= SHARPER * 36
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
