"""Why: densities are read off the overview; they must be right at the edge of the tissue too, for any stream."""

import numpy as np
import pyarrow

from cfsam_hf.drawing.density_maps import GRID, DensityMaps, smoothing_um


def batch_of(points, types):
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return pyarrow.record_batch({"x": x, "y": y, "type": np.array(types, dtype=np.int64)})


def test_nuclei_are_counted_where_their_centroids_lie():
    maps = DensityMaps((10 * GRID, 5 * GRID), [1, 2])
    assert maps.grid == (GRID, GRID // 2)
    maps.add_all(
        [batch_of([(5, 5), (15, 5), (5, 12)], [1, 1, 2]), batch_of([(10 * GRID, 5 * GRID), (-3, -3)], [1, 1])]
    )
    assert maps.counts[1][0, :2].tolist() == [2, 1]
    assert maps.counts[2][1, 0] == 1
    assert maps.counts[1][-1, -1] == 1
    assert (maps.total([1]), maps.total([1, 2])) == (4, 5)
    assert DensityMaps((3, 100_000), [0]).grid == (1, GRID)


def test_an_even_density_is_even_up_to_the_edge_of_the_tissue():
    size = 2 * GRID, 2 * GRID
    y, x = np.mgrid[0 : size[1] : 2, 0 : size[0] // 2 : 2].reshape(2, -1) + 1
    maps = DensityMaps(size, [1]).add_all([batch_of(np.stack([x, y], axis=1), np.ones(len(x)))])
    tissue = np.zeros((96, 96), dtype=bool)
    tissue[:, :48] = True
    cell_mm2 = 1e-4
    density = maps.density([1], tissue, cell_mm2, sigma=12)
    # One nucleus in each cell.
    np.testing.assert_allclose(density[:, : GRID // 2], 1 / cell_mm2, rtol=0.05)
    assert not density[:, -GRID // 4 :].any()


def test_the_window_grows_with_the_slide_within_limits():
    assert [smoothing_um(size) for size in ((100, 50), (3000, 5000), (60_000, 9))] == [20, 60, 150]
