"""Why: boundary F1 must equal its definition over every pair of boundary pixels."""

import math

import numpy as np
import pytest

from cfsam_hf.metrics import BoundaryCounts, boundary_counts

from .. import metrics_literal as literal


@pytest.mark.parametrize("tolerance", [0, 1, 2**0.5, 1.5, 3, 13**0.5, 100])
def test_literal_definition(tolerance):
    rng = np.random.default_rng(0)
    for _ in range(60):
        true, pred = literal.random_pair(rng, size=9, nuclei=4)
        found = boundary_counts(true, pred, tolerance=tolerance)
        assert found.f1 == pytest.approx(literal.boundary_f1(true, pred, tolerance), nan_ok=True)
        renamed = literal.renamed(rng, true)[0], literal.renamed(rng, pred)[0]
        assert boundary_counts(*renamed, tolerance=tolerance) == found


def test_a_line_between_touching_nuclei_is_boundary():
    apart = np.array([[1, 1, 1, 2, 2, 2]] * 3)
    counts = boundary_counts(apart, np.ones_like(apart), tolerance=0)
    assert (counts.true_total, counts.pred_total) == (16, 14)
    assert (counts.recall, counts.precision) == (14 / 16, 1.0)


def test_perfect_and_empty():
    full, nothing = np.ones((3, 3), int), np.zeros((3, 3), int)
    assert boundary_counts(full, full, tolerance=0).f1 == 1
    assert boundary_counts(full, nothing).f1 == boundary_counts(nothing, full).f1 == 0
    assert math.isnan(boundary_counts(nothing, nothing).f1)
    assert math.isnan(boundary_counts(full[:0], full[:0]).f1)
    assert math.isnan(boundary_counts(full, nothing).precision)
    assert math.isnan(boundary_counts(nothing, full).recall)


def test_counts_add():
    total = sum([BoundaryCounts(1, 2, 3, 4), BoundaryCounts(1, 0, 1, 0)])
    assert total == BoundaryCounts(2, 2, 4, 4)
    assert total.f1 == 1


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="differ in shape"):
        boundary_counts(np.zeros((2, 3), int), np.zeros((3, 3), int))
    with pytest.raises(TypeError, match="true must be an integer label map"):
        boundary_counts(np.zeros((2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        boundary_counts(np.zeros((2, 3), int), np.zeros((2, 3), int), tolerance=-1)
