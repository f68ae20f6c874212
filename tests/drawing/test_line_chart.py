"""Why: a wrong scale or a lost gap in a chart misleads whoever watches a training run."""

import re

import pytest

from cfsam_hf.drawing.line_chart import Curve, line_chart


def points(picture: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in found.split(" ")]
        for found in re.findall(r'polyline points="([^"]*)"', picture)
    ]


def test_curves_rise_where_values_rise():
    curves = [Curve("c", [(0, 1.0), (5, 2.0), (10, 4.0)])]
    [[(x0, y0), (x1, y1), (x2, y2)]] = points(line_chart("t", curves))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert 2 * (y0 - y1) == pytest.approx(y1 - y2, abs=0.3)
    [[(_, y0), (_, y1), (_, y2)]] = points(
        line_chart("t", [Curve("c", [(0, 1.0), (5, 2.0), (10, 4.0)])], logarithmic=True)
    )
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_charts_of_gaps_constants_and_nothing():
    assert line_chart("t", [Curve("c", [])]) == ""
    assert line_chart("t", [Curve("c", [(1, None), (2, float("nan")), (3, -1.0)])], logarithmic=True) == ""
    assert len(points(line_chart("t", [Curve("c", [(1, 0.0)])]))[0]) == 1
    assert len(points(line_chart("t", [Curve("c", [(1, 2.0), (2, None), (3, 2.0)])]))[0]) == 2


def test_long_curves_are_thinned():
    [shown] = points(line_chart("t", [Curve("c", [(step, float(step % 5)) for step in range(10_000)])]))
    assert 300 < len(shown) <= 400
    assert len({y for _, y in shown}) == 1  # Each is the mean of whole periods.
