"""Why: tiles must cover every pixel of any image, and blending must not shift, scale or leave seams in the maps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsam_hf.model.tiling import (
    UPRIGHT,
    MapBlender,
    axis_starts,
    blend_weights,
    cut_window,
    fitted_tile_size,
    pad_right_bottom,
    tile_windows,
    views_of,
)


@given(st.integers(1, 3000), st.integers(1, 300), st.data())
def test_starts_cover_the_axis_with_the_fewest_tiles(length, tile_size, data):
    overlap = data.draw(st.integers(0, tile_size - 1))
    starts = axis_starts(length, tile_size, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile_size == max(length, tile_size)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= tile_size - overlap).all()
    assert len(starts) == 1 or (len(starts) - 2) * (tile_size - overlap) + tile_size < length


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 20), st.data())
def test_fitted_tiles_are_the_smallest_that_are_no_more(height, width, units, data):
    tile_size = 16 * units
    smallest = 16 * data.draw(st.integers(1, units))
    overlap = data.draw(st.integers(0, tile_size - 1))
    fitted = fitted_tile_size(height, width, tile_size, overlap, smallest, 16)
    assert fitted % 16 == 0
    assert smallest <= fitted <= tile_size

    def tiles(size: int) -> tuple[int, int]:
        # A tile that is all there is along an axis overlaps none.
        return tuple(1 if n <= size else len(axis_starts(n, size, overlap)) for n in (height, width))

    wanted = tiles(tile_size)
    if fitted > overlap or max(wanted) == 1:
        assert all(now <= before for now, before in zip(tiles(fitted), wanted, strict=True))
    else:
        pytest.fail(f"tiles of {fitted} px overlap by {overlap}")
    less = fitted - 16
    if less >= smallest and less > overlap:
        assert any(now > before for now, before in zip(tiles(less), wanted, strict=True))


@pytest.mark.parametrize(("tile_size", "overlap"), [(0, 0), (16, 16), (16, -1)])
def test_impossible_tilings_are_refused(tile_size, overlap):
    with pytest.raises(ValueError, match="tile"):
        axis_starts(100, tile_size, overlap)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 50), (16, 16), (7, 31)])
def test_padding_reflects_at_the_right_and_bottom_only(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    padded = pad_right_bottom(image, 40, 40)
    assert padded.shape == (40, max(40, shape[1]), 3)
    assert np.array_equal(padded[: shape[0], : shape[1]], image)
    # A reflection of period 2 (n - 1): the literal definition.
    for axis, length in enumerate(shape):
        period = max(2 * (length - 1), 1)
        index = np.arange(padded.shape[axis]) % period
        index = np.where(index < length, index, period - index)
        assert np.array_equal(padded, np.take(padded, index, axis=axis))


def test_large_enough_images_are_not_padded():
    image = np.zeros((20, 30, 3), np.uint8)
    assert pad_right_bottom(image, 20, 16) is image


def blend(channels, size, tiling, tiles):
    """The bands that the blender hands on, put together again."""
    bands = []
    blender = MapBlender(channels, *size, *tiling, sink=bands.append)
    for window, maps in tiles:
        blender.add(window, maps)
    blender.finish()
    assert all(band.dtype == np.float16 and band.shape[0] == channels for band in bands)
    return np.concatenate(bands, axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 16, 32]), st.data())
def test_blending_the_tiles_of_a_map_gives_the_map(height, width, tile_size, data):
    overlap = data.draw(st.integers(0, tile_size - 1))
    maps = np.random.default_rng(height * 100 + width).uniform(-1, 1, (2, height, width)).astype(np.float32)
    image = maps.transpose(1, 2, 0)
    tiling = (tile_size, overlap)
    blended = blend(
        2,
        (height, width),
        tiling,
        [(window, cut_window(image, window).transpose(2, 0, 1)) for window in tile_windows(height, width, *tiling)],
    )
    assert np.abs(blended - maps).max() < 6e-4  # float16


def test_blend_is_the_weighted_mean_of_the_tiles():
    rng = np.random.default_rng(1)
    windows = tile_windows(70, 45, 32, 10)
    tiles = rng.uniform(size=(len(windows), 1, 32, 32)).astype(np.float32)
    sums, total, weights = np.zeros((70, 45)), np.zeros((70, 45)), blend_weights(32, 10)
    for window, tile in zip(windows, tiles, strict=True):
        sums[window.y : window.y + 32, window.x : window.x + 32] += tile[0] * weights
        total[window.y : window.y + 32, window.x : window.x + 32] += weights
    blended = blend(1, (70, 45), (32, 10), zip(windows, tiles, strict=True))
    assert np.abs(blended[0] - sums / total).max() < 3e-4


def test_weights_are_smooth_positive_and_symmetric():
    weights = blend_weights(64, 16)
    assert weights.min() > 0
    assert weights.max() == 1
    assert np.array_equal(weights, weights[::-1, ::-1])
    assert np.abs(np.diff(weights[32])).max() < 0.11
    assert (blend_weights(8, 0) == 1).all()


def test_tiles_that_disagree_leave_no_step():
    # Two tiles that say 0 and 1: the blend passes from one to the other over the whole overlap.
    tiles = enumerate(tile_windows(32, 48, 32, 16))
    tiles = [(window, np.full((1, 32, 32), value, np.float32)) for value, window in tiles]
    row = blend(1, (32, 48), (32, 16), tiles)[0, 16].astype(float)
    assert row[0] == 0
    assert row[-1] == 1
    assert np.diff(row).max() < 0.11


def test_missing_and_disordered_tiles_are_noticed():
    first, _, third, *_ = tile_windows(64, 64, 32, 0)
    blender = MapBlender(1, 64, 64, 32, 0, sink=list)
    blender.add(first, np.zeros((1, 32, 32), np.float32))
    with pytest.raises(ValueError, match="not covered"):
        blender.finish()
    blender = MapBlender(1, 64, 32, 32, 0, sink=list)
    blender.add(first, np.zeros((1, 32, 32), np.float32))
    blender.add(third, np.zeros((1, 32, 32), np.float32))
    with pytest.raises(ValueError, match="row by row"):
        blender.add(first, np.zeros((1, 32, 32), np.float32))


@pytest.mark.parametrize("views", [1, 2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 33), (50, 200), (131, 97)])
def test_the_grids_of_all_views_cover_the_image(height, width, views):
    windows = tile_windows(height, width, 32, 10, views)
    assert [window.y for window in windows] == sorted(window.y for window in windows)
    by_view = {}
    for window in windows:
        by_view.setdefault(window.view, []).append(window)
    assert len(by_view) == views
    grids = set()
    for of_view in by_view.values():
        covered = np.zeros((max(height, 32), max(width, 32)), bool)
        for window in of_view:
            assert window.y + 32 <= covered.shape[0]
            assert window.x + 32 <= covered.shape[1]
            covered[window.y : window.y + 32, window.x : window.x + 32] = True
        assert covered.all()
        rows, columns = ({getattr(window, axis) for window in of_view} for axis in "yx")
        for starts in (sorted(rows), sorted(columns)):
            assert all(second - first <= 32 - 10 for first, second in pairwise(starts))
        assert len(of_view) == len(rows) * len(columns)
        grids.add((tuple(sorted(rows)), tuple(sorted(columns))))
    if max(height, width) > 3 * 32:
        # No two views have the same grid.
        assert len(grids) == views
    assert by_view[UPRIGHT] == tile_windows(height, width, 32, 10)


def test_a_wrong_number_of_views_has_no_windows():
    with pytest.raises(ValueError, match="views must be 1, 2, 4 or 8, got 3"):
        tile_windows(100, 100, 32, 10, views=3)


@pytest.mark.parametrize("views", [2, 4, 8])
@pytest.mark.parametrize("size", [(20, 20), (33, 70), (100, 64)])
def test_all_views_count_alike_everywhere(size, views):
    # Each view has a value of its own: wherever grids overlap, the blend is their plain mean.
    bands = []
    blender = MapBlender(1, *size, 32, 10, views, sink=bands.append)
    values = {view: float(number) for number, view in enumerate(views_of(views))}
    for window in tile_windows(*size, 32, 10, views):
        blender.add(window, np.full((1, 32, 32), values[window.view], np.float32))
    blender.finish()
    np.testing.assert_allclose(np.concatenate(bands, axis=1), (views - 1) / 2, atol=2e-3)
