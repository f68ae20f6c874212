"""Why: decoding works on runs instead of pixels; regions, holes and sums must equal those of the pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cfsam_hf.model.spans import InstanceRuns, expand_runs, find_holes, find_runs, label_runs, merge_pixels

masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))


def runs_of(mask):
    padded = np.pad(mask, 1)
    return (*find_runs(padded.reshape(-1))[0], padded.shape)


@given(masks)
def test_runs_are_the_pixels(mask):
    starts, ends, shape = runs_of(mask)
    np.testing.assert_array_equal(expand_runs(starts, ends - starts), np.flatnonzero(np.pad(mask, 1)))
    assert (starts < ends).all()
    np.testing.assert_array_equal(starts // shape[1], (ends - 1) // shape[1])


@given(arrays(np.uint8, st.integers(0, 40), elements=st.integers(0, 3)))
def test_runs_of_several_levels(values):
    values = np.pad(values, 1)
    for level, (starts, ends) in enumerate(find_runs(values, 3), start=1):
        np.testing.assert_array_equal(expand_runs(starts, ends - starts), np.flatnonzero(values >= level))
        assert (starts[1:] > ends[:-1]).all()


@given(masks, st.booleans())
def test_regions_are_those_of_the_pixels_in_raster_order(mask, diagonal):
    starts, ends, shape = runs_of(mask)
    expected, expected_count = ndimage.label(np.pad(mask, 1), np.ones((3, 3)) if diagonal else None)
    count, regions, touches = label_runs(starts, ends, shape[1], diagonal)
    assert count == expected_count
    found = np.zeros(shape[0] * shape[1], dtype=int)
    found[expand_runs(starts, ends - starts)] = np.repeat(regions + 1, ends - starts)
    np.testing.assert_array_equal(found.reshape(shape), expected)
    _, outside = ndimage.label(np.pad(mask, 1) == 0, None if diagonal else np.ones((3, 3)))
    assert touches.sum() - len(starts) + count == outside - 1


@given(masks, st.sampled_from([0, 1, 2, 4, 8, 1000]), st.booleans())
def test_holes_are_small_enclosed_and_without_islands(mask, maximum_area, regions_known):
    starts, ends, shape = runs_of(mask)
    if len(starts) == 0:
        return
    background, count = ndimage.label(np.pad(mask, 1) == 0, np.ones((3, 3)))
    expected = np.zeros(background.shape, dtype=int)
    for region in range(2, count + 1):
        hole = background == region
        if hole.sum() <= maximum_area and ndimage.label(~hole)[1] == 1:
            expected[hole] = region
    regions = label_runs(starts, ends, shape[1])[1] if regions_known else None
    starts, ends, holes = find_holes(starts, ends, shape[1], maximum_area, regions)
    pixels = expand_runs(starts, ends - starts)
    np.testing.assert_array_equal(pixels, np.flatnonzero(expected))
    holes = np.repeat(holes, ends - starts)
    pairs = {(int(a), int(b)) for a, b in zip(holes, expected.reshape(-1)[pixels], strict=True)}
    assert len(pairs) == len(np.unique(holes)) == len(np.unique(expected)) - 1


def test_labelled_pixels_become_runs_again():
    starts, ends, labels = merge_pixels(np.array([3, 4, 5, 9, 10, 12]), np.array([1, 1, 2, 2, 2, 2]))
    assert list(zip(starts.tolist(), ends.tolist(), labels.tolist(), strict=True)) == [
        (3, 5, 1),
        (5, 6, 2),
        (9, 11, 2),
        (12, 13, 2),
    ]


def test_a_map_is_summed_over_the_runs_of_each_instance():
    # Rows 0 and 1 of an image of 2 x 4 px, in the padded image of 4 x 6.
    runs = InstanceRuns(np.array([7, 9, 14]), np.array([9, 10, 17]), np.array([0, 1, 0]), 2, (2, 4))
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert runs.pixels.tolist() == [0, 1, 2, 5, 6, 7]
    assert runs.map_sums(values).tolist() == [0 + 1 + 5 + 6 + 7, 2]


@pytest.mark.parametrize("values", [[0], [0, 0, 0]])
def test_nothing(values):
    [(starts, ends)] = find_runs(np.array(values, dtype=np.uint8))
    assert len(starts) == len(ends) == len(expand_runs(starts, ends - starts)) == 0
