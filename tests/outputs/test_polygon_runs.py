"""Why: the label map of a slide is drawn from polygons; it must be the label map that these came from."""

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cfsam_hf.outputs.polygon_runs import polygon_runs

from ..export_cases import blob_map, label_components, make_result


def drawn(polygons, shape):
    """The label map of polygons."""
    label_map = np.zeros(shape, np.int32)
    for row, start, end, index in zip(*(each.tolist() for each in polygon_runs(polygons)), strict=True):
        assert not label_map[row, start:end].any()
        label_map[row, start:end] = index + 1
    return label_map


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=100, deadline=None)
def test_any_label_map_comes_back(foreground):
    instance_map = label_components(foreground)
    np.testing.assert_array_equal(drawn(make_result(instance_map).contours, instance_map.shape), instance_map)


def test_scaled_polygons_hold_the_pixels_whose_centres_lie_inside():
    polygons = [
        [ring * (1.37, 0.71) + (3.3, 2.9) for ring in rings] for rings in make_result(blob_map(size=60)).contours
    ]
    y, x = np.mgrid[:50, :90] + 0.5
    expected = np.zeros((50, 90), np.int32)
    for number, (shell, *holes) in enumerate(polygons, start=1):
        expected[shapely.contains_xy(shapely.Polygon(shell, holes), x, y)] = number
    np.testing.assert_array_equal(drawn(polygons, (50, 90)), expected)


def test_slanted_edges_and_nothing():
    assert drawn([[np.array([[0, 0], [4.2, 0], [0, 4.2]])]], (4, 4)).sum(axis=1).tolist() == [4, 3, 2, 1]
    assert all(len(each) == 0 for each in polygon_runs([]))
    assert all(len(each) == 0 for each in polygon_runs([[np.array([[0.6, 0.6], [0.9, 0.6], [0.9, 0.9]])]]))
