"""Why: AJI+ and detection rest on one-to-one pairing, which must be optimal in every block with either solver."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cfsam_hf.metrics import matching


@pytest.mark.parametrize("dense_limit", [matching.DENSE_LIMIT, 0], ids=["dense", "sparse"])
def test_sum_of_gains_is_the_largest(monkeypatch, dense_limit):
    monkeypatch.setattr(matching, "DENSE_LIMIT", dense_limit)
    rng = np.random.default_rng(0)
    for _ in range(500):
        num_left, num_right = rng.integers(1, 10, 2)
        gains = np.where(rng.random((num_left, num_right)) < rng.random(), rng.random((num_left, num_right)), 0)
        left, right = np.nonzero(gains)
        order = rng.permutation(len(left))
        left, right = left[order], right[order]
        chosen = matching.best_pairs(left, right, gains[left, right], num_left, num_right)
        assert len(set(left[chosen])) == len(set(right[chosen])) == len(chosen)
        best = gains[linear_sum_assignment(gains, maximize=True)].sum()
        assert gains[left[chosen], right[chosen]].sum() == pytest.approx(best, abs=1e-12)


def test_a_large_tangle_is_solved():
    rng = np.random.default_rng(1)
    left, right = np.divmod(rng.choice(3000 * 3000, 12_000, replace=False), 3000)
    gains = rng.random(len(left))
    chosen = matching.best_pairs(left, right, gains, 3000, 3000)
    full = np.zeros((3000, 3000))
    full[left, right] = gains
    assert gains[chosen].sum() == pytest.approx(full[linear_sum_assignment(full, maximize=True)].sum())


def test_no_edges():
    assert len(matching.best_pairs(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 3, 4)) == 0
