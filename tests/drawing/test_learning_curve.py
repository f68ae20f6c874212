"""Why: the curve is read by eye, so its points must lie where the scores are, on round ticks."""

import numpy as np
import pytest

from cfsam_hf.drawing.learning_curve import LEFT, TOP, WIDTH, LearningCurve, learning_curve_chart, ticks
from cfsam_hf.model.configuration_cfsam import default_type_color, rgb


def test_the_curve_rises_where_the_score_does():
    curves = [LearningCurve("r", "a", ((0, 0.1), (500, 0.5), (1000, 0.3))), LearningCurve("r", "b", ((1000, 0.2),))]
    picture = np.asarray(learning_curve_chart(curves, "mine", "pq")).astype(int)
    # Below the key, left of the labels: the points' discs are filled.
    found = np.abs(picture - rgb(default_type_color(1))).sum(axis=-1) < 12
    found[: TOP - 8] = False
    rows, columns = np.nonzero(found[:, : WIDTH - 100])
    assert columns.min() == pytest.approx(LEFT, abs=5)
    assert rows[columns < columns.min() + 8].mean() > rows[columns > columns.max() - 8].mean() > rows.min() + 20
    assert np.median(columns[rows < rows.min() + 4]) == pytest.approx((columns.min() + columns.max()) / 2, abs=15)
    single = np.abs(picture - rgb(default_type_color(2))).sum(axis=-1) < 12
    assert single[TOP:].sum() > 20
    with pytest.raises(ValueError, match="no points"):
        learning_curve_chart([], "mine", "pq")


def test_ticks_are_round_and_enclose():
    assert ticks(0.31, 0.52) == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    assert ticks(0, 48_000) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    for low, high in ((0.5, 0.5), (0.0, 0.0), (0.4999, 0.5001), (-3.0, 700.0)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 8
