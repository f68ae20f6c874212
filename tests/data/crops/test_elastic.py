"""Why: bent tissue must not fold over itself, or a nucleus appears twice and labels are wrong."""

import numpy as np
import pytest

from cfsam_hf.data.crops.elastic import sample_displacement


@pytest.mark.parametrize(("size", "largest", "spacing"), [(64, 3.9, 16), (100, 7.9, 32), (16, 4, 32)])
def test_displacements_are_bounded_smooth_and_one_to_one(size, largest, spacing):
    for seed in range(5):
        displacement = sample_displacement(np.random.default_rng(seed), size, largest, spacing)
        assert displacement.shape == (size, size, 2)
        assert displacement.dtype == np.float32
        assert np.abs(displacement).max() <= largest
        down, right = (np.diff(displacement, axis=axis) for axis in (0, 1))
        jacobian = (1 + right[:-1, :, 0]) * (1 + down[:, :-1, 1]) - right[:-1, :, 1] * down[:, :-1, 0]
        assert jacobian.min() > 0
        assert np.abs(np.diff(right, axis=1)).max() < 4 * largest / spacing**2 * 2


def test_displacements_move_most_pixels():
    displacement = sample_displacement(np.random.default_rng(1), 128, 4, 32)
    assert (np.abs(displacement) > 0.3).mean() > 0.5


def test_equal_nodes_move_all_alike():
    class Ones:
        def uniform(self, low, high, size):
            return np.full(size, high)

    np.testing.assert_allclose(sample_displacement(Ones(), 50, 3, 16), 3, rtol=1e-5)
