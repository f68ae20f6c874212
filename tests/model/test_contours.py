"""Why: outlines leave the package as polygons: valid, minimal, and enclosing exactly the nucleus's pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import Polygon

from cfsam_hf.model.contours import nucleus_contours

from ..decoding_literal import rasterize


def signed_area(ring):
    x, y = ring[:, 0], ring[:, 1]
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def connected_labels(seed, shape, density, kinds):
    """Random touching 4-connected regions with holes, islands and diagonal contacts."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(1, kinds + 1, shape) * (generator.random(shape) < density)
    labels = np.zeros(shape, dtype=np.int32)
    for value in range(1, kinds + 1):
        regions, _ = ndimage.label(kind == value)
        labels[regions > 0] = regions[regions > 0] + labels.max()
    return labels


def contours_of(labels):
    return nucleus_contours(labels, np.zeros((labels.max(), 4), dtype=np.int64))


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.95, 1]),
    st.integers(1, 3),
)
def test_rings_make_valid_minimal_polygons_of_the_same_pixels(seed, shape, density, kinds):
    labels = connected_labels(seed, shape, density, kinds)
    contours = contours_of(labels)
    assert len(contours) == labels.max()
    for index, rings in enumerate(contours, start=1):
        mask = labels == index
        np.testing.assert_array_equal(rasterize(rings, shape), mask)
        areas = [signed_area(ring) for ring in rings]
        assert sum(areas) == mask.sum()
        assert areas[0] > 0
        assert all(area < 0 for area in areas[1:])
        for ring in rings:
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps != 0).sum(axis=1) == 1).all()
            horizontal = steps[:, 1] == 0
            assert (horizontal != np.roll(horizontal, 1)).all()
        polygon = Polygon(rings[0], rings[1:])
        assert polygon.is_valid
        assert polygon.area == mask.sum()


def test_one_pixel():
    ((ring,),) = contours_of(np.array([[0, 0, 0], [0, 0, 1]]))
    assert ring.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]
    assert ring.dtype == np.int64


def test_whole_image():
    ((ring,),) = contours_of(np.ones((2, 5), dtype=int))
    assert ring.tolist() == [[0, 0], [5, 0], [5, 2], [0, 2]]


def test_ring_with_a_hole():
    labels = np.ones((3, 3), dtype=int)
    labels[1, 1] = 0
    ((exterior, hole),) = contours_of(labels)
    assert exterior.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert signed_area(hole) == -1


def test_hole_that_touches_the_outside_diagonally_is_a_hole():
    labels = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    ((exterior, hole),) = contours_of(labels)
    assert len(exterior) == 6
    assert len(hole) == 4
    assert Polygon(exterior, [hole]).is_valid


def test_a_nucleus_inside_the_hole_of_another():
    labels = np.full((5, 5), 1)
    labels[1:4, 1:4] = 0
    labels[2, 2] = 2
    ring, inner = contours_of(labels)
    assert [len(ring), len(inner)] == [2, 1]


def test_no_nuclei():
    assert contours_of(np.zeros((4, 3), dtype=np.int32)) == []
    assert nucleus_contours(np.zeros((0, 0), dtype=np.int32), np.zeros((0, 4))) == []


def test_an_id_without_pixels_has_no_rings():
    assert nucleus_contours(np.zeros((4, 3), dtype=np.int32), np.zeros((2, 4))) == [[], []]


def test_long_spiral():
    labels = np.zeros((101, 101), dtype=np.int32)
    for k in range(0, 50, 2):
        labels[k, max(k - 2, 0) : 101 - k] = labels[k : 101 - k, 100 - k] = 1
        labels[100 - k, k : 101 - k] = labels[k + 2 : 101 - k, k] = 1
    assert ndimage.label(labels)[1] == 1
    ((ring,),) = contours_of(labels)
    assert signed_area(ring) == labels.sum()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(H, W\) integers"):
        nucleus_contours(np.zeros((2, 2)), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="from 1 to 3, but there are 2 boxes"):
        nucleus_contours(np.array([[1, 3]]), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="from -1 to -1"):
        nucleus_contours(np.array([[-1, 0]]), np.zeros((2, 4)))
