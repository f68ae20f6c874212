"""Why: wrong pixel sizes and coordinates in micrometres train without an error; the sizes of nuclei reveal both."""

import doctest

import numpy as np
import pytest

from cfsam_hf.data import size_checks
from cfsam_hf.data.size_checks import size_notes


def areas(diameter: float, count: int = 10) -> np.ndarray:
    return np.full(count, np.pi * diameter**2 / 4)


def test_the_documented_examples():
    assert doctest.testmod(size_checks).failed == 0


@pytest.mark.parametrize(
    ("mpp", "diameter", "noted"),
    [(0.25, 17, False), (0.25, 15, True), (0.25, 79, False), (0.25, 81, True), (None, 5, False), (None, 3.9, True)],
)
def test_limits(mpp, diameter, noted):
    assert bool(size_notes([(mpp, areas(diameter))])) is noted
    assert size_notes([(mpp, areas(diameter, 9))]) == []


def test_each_pixel_size_has_its_median():
    (note,) = size_notes([(0.25, areas(40)), (0.5, areas(100, 5)), (0.5, areas(100, 5)), (None, areas(40))])
    assert "50.0 um at 0.5 um per pixel, in 2 tiles" in note
