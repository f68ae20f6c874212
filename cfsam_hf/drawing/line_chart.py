"""Line charts as inline SVG, for HTML pages that need no file beside them."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..model.configuration_cfsam import default_type_color

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 28
MOST_POINTS = 400
"""Points of a curve; longer curves are averaged."""


@dataclass(frozen=True)
class Curve:
    """A named series of (step, value); a value may be missing."""

    name: str
    points: Sequence[tuple[float, float | None]]


def line_chart(title: str, curves: Sequence[Curve], logarithmic: bool = False) -> str:
    """Draws curves as an HTML figure: an inline SVG picture with a title above and a key below.

    Args:
        title: caption of the figure.
        curves: with different names, in the order of their colours. A value that is missing, not finite, or not
            positive on a logarithmic axis is left out.
        logarithmic: whether the vertical axis is logarithmic.

    Returns:
        HTML; empty if no curve has a point.
    """
    drawable = {curve.name: _thinned(_drawable(curve.points, logarithmic)) for curve in curves}
    shown = {name: points for name, points in drawable.items() if points}
    if not shown:
        return ""
    scale = math.log10 if logarithmic else float
    steps = [step for points in shown.values() for step, _ in points]
    values = [scale(value) for points in shown.values() for _, value in points]
    first, last = min(steps), max(steps)
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - margin, high + margin

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    drawn = []
    for i in range(5):
        level = low + (high - low) * i / 4
        label = _number(10**level if logarithmic else level)
        drawn.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#e8eaed"/>'
            f'<text x="{LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for step, anchor in ((first, "start"), (last, "end")):
        drawn.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:g}</text>')
    keys = []
    for number, (name, points) in enumerate(shown.items(), start=1):
        color = default_type_color(number)
        line = " ".join(f"{x(step):.1f},{y(scale(value)):.1f}" for step, value in points)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        if len(points) < 30:
            drawn += [
                f'<circle cx="{x(step):.1f}" cy="{y(scale(value)):.1f}" r="2.5" fill="{color}"/>'
                for step, value in points
            ]
        keys.append(f'<span class="swatch" style="background:{color}"></span>{html.escape(name)}')
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(drawn)}</svg><div class="key">{"".join(keys)}</div></figure>'
    )


def _drawable(points: Sequence[tuple[float, float | None]], logarithmic: bool) -> list[tuple[float, float]]:
    return [
        (step, value)
        for step, value in points
        if value is not None and math.isfinite(value) and (value > 0 or not logarithmic)
    ]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over neighbours, which keep long curves small and readable."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _number(value: float) -> str:
    return f"{value:.3g}"
