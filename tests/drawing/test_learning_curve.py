"""Why: people read scores off the curve, so points must lie where the scores are, with legible labels."""

import itertools

import numpy as np
import pytest

from cfsam_hf.drawing.learning_curve import LEFT, TOP, WIDTH, LearningCurve, learning_curve_chart, spread, ticks
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


def test_the_labels_of_curves_that_end_close_together_do_not_touch():
    curves = [LearningCurve("r", str(n), ((0, 0.1), (1000, end))) for n, end in enumerate((0.5, 0.505, 0.51, 0.9))]
    picture = np.asarray(learning_curve_chart(curves, "mine", "pq")).astype(int)
    bands = []
    for number in range(1, 5):
        found = np.abs(picture - rgb(default_type_color(number))).sum(axis=-1) < 60
        rows = np.nonzero(found[TOP:, WIDTH - 80 :].any(axis=1))[0]
        bands.append((rows.min(), rows.max()))
    bands.sort()
    assert all(above[1] < below[0] for above, below in itertools.pairwise(bands))


def test_positions_move_apart_no_further_than_needed():
    assert spread([0.0, 20.0], 10) == [0, 20]
    assert spread([20.0, 4.0, 0.0, 21.0], 10) == [16.25, 6.25, -3.75, 26.25]
    assert spread([], 10) == []


def test_ticks_are_round_and_enclose():
    assert ticks(0.31, 0.52) == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    assert ticks(0, 48_000) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    for low, high in ((0.5, 0.5), (0.0, 0.0), (0.4999, 0.5001), (-3.0, 700.0)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 8
