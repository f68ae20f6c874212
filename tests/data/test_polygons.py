"""Why: each pixel must go to the polygon that contains its centre, as in a literal test and for our own contours."""

import numpy as np
import pytest
import shapely
from skimage.measure import label as connected_components

from cfsam_hf.data.polygons import Overlaps, paint_pixels, rasterise_polygons, rasterise_shapes
from cfsam_hf.model.contours import nucleus_contours


def star(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A simple polygon, often concave, that may reach beyond the image."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=rng.integers(3, 12)))
    radii = rng.uniform(0.5, 9, size=len(angles))
    centre = rng.uniform(-3, [width + 3, height + 3])
    return centre + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])


@pytest.mark.parametrize("seed", range(20))
def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(seed):
    rng = np.random.default_rng(seed)
    height, width = 23, 31
    polygons = [star(rng, height, width) for _ in range(8)]
    label_map, positions, _ = rasterise_polygons(polygons, height, width)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    expected = np.zeros((height, width), dtype=int)
    for number, polygon in enumerate(polygons, start=1):
        expected[shapely.contains_xy(shapely.Polygon(polygon), x, y)] = number
    np.testing.assert_array_equal(np.concatenate([[0], positions + 1])[label_map], expected)
    assert label_map.dtype == np.int32
    assert set(np.unique(label_map)) - {0} == set(range(1, len(positions) + 1))


@pytest.mark.parametrize("seed", range(5))
def test_our_contours_come_back(seed):
    # Growing from seeds pixel by pixel gives ragged nuclei that touch; those with holes are left out.
    rng = np.random.default_rng(seed)
    label_map = np.zeros((20, 24), dtype=np.int32)
    for label in range(1, 9):
        row, column = rng.integers(0, 20), rng.integers(0, 24)
        for _ in range(12):
            label_map[row, column] = label
            row, column = np.clip([row, column] + rng.permutation([[0, 1], [1, 0], [0, -1], [-1, 0]])[0], 0, (19, 23))
    label_map = connected_components(label_map, connectivity=1).astype(np.int32)
    boxes = []
    for label in range(1, label_map.max() + 1):
        rows, columns = np.nonzero(label_map == label)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    contours = nucleus_contours(label_map, np.array(boxes))
    whole = [label for label, rings in enumerate(contours, start=1) if len(rings) == 1]
    drawn, positions, _ = rasterise_polygons([contours[label - 1][0] for label in whole], 20, 24)
    np.testing.assert_array_equal(
        np.concatenate([[0], np.array(whole)[positions]])[drawn], np.where(np.isin(label_map, whole), label_map, 0)
    )


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])


def test_overlaps():
    polygons = [square(2, 2, 3), square(0, 0, 4), square(9, 9, 1)]
    later, positions, overlaps = rasterise_polygons(polygons, 12, 12)
    assert ((later == 1).sum(), (later == 2).sum(), later[3, 3]) == (5, 16, 2)
    np.testing.assert_array_equal(positions, [0, 1, 2])
    assert overlaps == Overlaps(nuclei=2, pixels=4, hidden=0, undrawn=0)
    smaller, _, _ = rasterise_polygons(polygons, 12, 12, overlap="smaller")
    assert ((smaller == 1).sum(), (smaller == 2).sum(), smaller[3, 3]) == (9, 12, 1)


@pytest.mark.parametrize("seed", range(10))
def test_holes_and_parts(seed):
    rng = np.random.default_rng(seed)
    # A frame around a hole, and far from it a second part.
    outer, hole, part = square(1.2, 2.3, 12), star(rng, 3, 3) * 0.3 + 6, square(20.1, 4.4, rng.uniform(1, 6))
    below = square(0, 0, 16)
    label_map, positions, _ = rasterise_shapes([[[below]], [[outer, hole], [part]]], 18, 30)
    x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(18) + 0.5)
    shape = shapely.union(shapely.Polygon(outer, [hole]), shapely.Polygon(part))
    expected = np.where(shapely.contains_xy(shapely.Polygon(below), x, y), 1, 0)
    expected[shapely.contains_xy(shape, x, y)] = 2
    np.testing.assert_array_equal(label_map, expected)
    np.testing.assert_array_equal(positions, [0, 1])


def test_pixels_are_painted_by_the_same_rules():
    pixels = [np.array([0, 1, 4]), np.array([1]), np.array([], dtype=np.int64), np.array([1, 2, 3, 5])]
    later, positions, overlaps = paint_pixels(pixels, 2, 3)
    np.testing.assert_array_equal(later, [[1, 2, 2], [2, 1, 2]])
    np.testing.assert_array_equal(positions, [0, 3])
    assert overlaps == Overlaps(nuclei=3, pixels=1, hidden=1, undrawn=1)
    smaller, positions, _ = paint_pixels(pixels, 2, 3, overlap="smaller")
    np.testing.assert_array_equal(smaller, [[1, 2, 3], [3, 1, 3]])
    np.testing.assert_array_equal(positions, [0, 1, 3])


@pytest.mark.parametrize("overlap", ["later", "smaller"])
@pytest.mark.parametrize("seed", range(10))
def test_overlaps_are_counted_as_a_slow_count_does(seed, overlap):
    rng = np.random.default_rng(seed)
    pixels = [np.flatnonzero(rng.random(60) < share) for share in rng.choice([0, 0.02, 0.1, 0.2], size=9)]
    _, positions, overlaps = paint_pixels(pixels, 6, 10, overlap)
    owners = [[number for number, those in enumerate(pixels) if pixel in those] for pixel in range(60)]
    shared = [those for those in owners if len(those) > 1]
    assert overlaps.pixels == len(shared)
    assert overlaps.nuclei == len({number for those in shared for number in those})
    assert overlaps.undrawn == sum(len(those) == 0 for those in pixels)
    assert overlaps.hidden == 9 - overlaps.undrawn - len(positions)
    assert bool(overlaps) == bool(shared or overlaps.undrawn)


def test_polygons_that_draw_nothing_have_no_id():
    polygons = [
        square(1, 1, 2),
        np.zeros((2, 2)),
        square(50, 50, 5),
        np.empty((0, 2)),
        square(0, 0, 6),
        square(7, 7, 1),
    ]
    label_map, positions, overlaps = rasterise_polygons(polygons, 9, 9)
    # The first square lies under the fifth; of the others two have too few corners, one is outside.
    assert overlaps == Overlaps(nuclei=2, pixels=4, hidden=1, undrawn=3)
    np.testing.assert_array_equal(positions, [4, 5])
    assert set(np.unique(label_map)) == {0, 1, 2}


def test_nothing_to_draw():
    label_map, positions, _ = rasterise_polygons([], 3, 4)
    assert label_map.shape == (3, 4)
    assert not label_map.any()
    assert len(positions) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="later, smaller"):
        rasterise_polygons([], 3, 4, overlap="larger")
    for vertices in (np.zeros((4, 3)), np.zeros(4), np.array([(0, 0), (1, 0), (np.nan, 1)])):
        with pytest.raises(ValueError, match="polygon 0 must be"):
            rasterise_polygons([vertices], 3, 4)
