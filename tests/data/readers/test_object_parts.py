"""Why: a nucleus in pieces and several nuclei in one feature look alike; both must be counted correctly."""

import doctest

import numpy as np
import pytest

from cfsam_hf.data.readers import object_parts
from cfsam_hf.data.readers.object_parts import separate_nuclei


def block(x: float, y: float, width: float = 6, height: float = 6) -> tuple[np.ndarray, ...]:
    return (np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], dtype=float),)


def counts(*polygons, **options) -> list[int]:
    return [len(nucleus) for nucleus in separate_nuclei(polygons, **options)]


def test_the_documented_example():
    assert doctest.testmod(object_parts).failed == 0


def test_a_group_of_nuclei_comes_apart():
    grid = [block(10 * column, 10 * row) for row in range(10) for column in range(10)]
    assert counts(*grid) == [1] * 100
    assert counts(*grid, whole=True) == [100]
    near = [block(8 * number, 0) for number in range(4)]
    assert counts(*near) == [1] * 4


def test_parts_that_touch_stay_together():
    assert counts(block(0, 0), block(6, 0), block(40, 0), block(12, 0), block(80, 80)) == [3, 1, 1]
    assert counts(block(0, 0), block(6, 6), block(40, 0), block(50, 0)) == [2, 1, 1]
    assert counts(block(0, 0, 30, 30), block(10, 10), block(40, 0), block(60, 0)) == [2, 1, 1]


def test_two_parts_near_each_other_are_one_nucleus():
    assert counts(block(0, 0), block(8, 0)) == [2]
    assert counts(block(0, 0), block(9, 0)) == [1, 1]


@pytest.mark.parametrize("turn", range(4))
def test_a_nucleus_that_the_border_cuts(turn):
    rings = [block(0, y)[0] - 50 for y in (30, 40)]
    for _ in range(turn):
        rings = [np.stack([-ring[:, 1], ring[:, 0]], axis=1) for ring in rings]
    polygons = [(ring + 50,) for ring in rings]
    assert counts(*polygons, size=(100, 100)) == [2]
    assert counts(*polygons) == [1, 1]
    assert counts(*polygons, size=(200, 200)) == ([2] if turn in (0, 1) else [1, 1])
    assert counts(*polygons, block(50, 50), block(60, 60), size=(100, 100)) == [1] * 4
