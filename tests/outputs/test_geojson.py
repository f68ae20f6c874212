"""Why: the polygons must open in QuPath and geopandas and be exactly the nuclei of the label map."""

import json
import uuid

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cfsam_hf.outputs import nucleus_features, write_geojson

from ..export_cases import TYPE_COLORS, TYPE_NAMES, blob_map, label_components, make_result, small_map


def read(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def rasterize(features, shape):
    """The label map of GeoJSON features: a pixel has the id whose polygon holds its centre."""
    instance_map = np.zeros(shape, dtype=np.int32)
    for feature in features:
        polygon = shapely.geometry.shape(feature["geometry"])
        x0, y0, x1, y1 = (int(v) for v in polygon.bounds)
        y, x = np.mgrid[y0:y1, x0:x1]
        inside = shapely.contains_xy(polygon, x + 0.5, y + 0.5)
        instance_map[y0:y1, x0:x1][inside] = feature["properties"]["measurements"]["id"]
    return instance_map


@pytest.mark.parametrize(
    "instance_map", [small_map(), blob_map(), np.ones((1, 1), np.int32)], ids=["small", "blobs", "1px"]
)
def test_read_back_as_the_same_label_map(instance_map, tmp_path):
    result = make_result(instance_map)
    write_geojson(result, tmp_path / "a.geojson")
    features = read(tmp_path / "a.geojson")["features"]
    assert len(features) == len(result)
    np.testing.assert_array_equal(rasterize(features, instance_map.shape), instance_map)


def test_geopandas_reads_valid_polygons_of_the_right_area(tmp_path):
    result = make_result(blob_map(seed=1))
    write_geojson(result, tmp_path / "a.geojson")
    frame = geopandas.read_file(tmp_path / "a.geojson")
    frame = frame.set_crs(None, allow_override=True)  # readers take GeoJSON for degrees unless told
    assert frame.geometry.is_valid.all()
    assert (frame.geometry.geom_type == "Polygon").all()
    np.testing.assert_array_equal(frame.geometry.area, result.table["area_px"])
    assert sum(len(polygon.interiors) for polygon in frame.geometry) > 5
    assert set(frame["objectType"]) == {"detection"}


def test_rings_are_closed_and_wound_as_the_standard_says():
    for feature in nucleus_features(make_result(blob_map(seed=2))):
        exterior, *holes = feature["geometry"]["coordinates"]
        assert exterior[0] == exterior[-1]
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


def test_properties_are_those_that_qupath_reads():
    result = make_result(small_map())
    for row, feature in enumerate(nucleus_features(result)):
        assert set(feature) == {"type", "id", "geometry", "properties"}
        uuid.UUID(feature["id"])
        properties, nucleus = feature["properties"], result.table.iloc[row]
        assert properties["objectType"] == "detection"
        assert properties["classification"] == {
            "name": TYPE_NAMES[nucleus["type"]],
            "color": list(TYPE_COLORS[nucleus["type"]]),
        }
        assert properties["measurements"] == pytest.approx(
            {name: nucleus[name] for name in ("id", "type_probability", "score", "area_px", "area_um2")}, abs=1e-6
        )


def test_identifiers_are_distinct_and_stay():
    ids = [feature["id"] for feature in nucleus_features(make_result(blob_map()))]
    assert len(set(ids)) == len(ids)
    assert ids == [feature["id"] for feature in nucleus_features(make_result(blob_map()))]
    other = [feature["id"] for feature in nucleus_features(make_result(blob_map(), image_name="other.png"))]
    assert not set(ids) & set(other)


def test_without_types_and_pixel_size_nothing_is_invented(tmp_path):
    write_geojson(make_result(small_map(), typed=False, mpp=None), tmp_path / "a.geojson")
    document = read(tmp_path / "a.geojson")
    assert document["metadata"]["mpp"] is None
    for feature in document["features"]:
        assert feature["properties"]["classification"]["name"] == "nucleus"
        assert set(feature["properties"]["measurements"]) == {"id", "score", "area_px"}


def test_metadata_says_what_made_it(tmp_path):
    write_geojson(make_result(small_map()), tmp_path / "a.geojson")
    metadata = read(tmp_path / "a.geojson")["metadata"]
    assert metadata["version"] == "0.0.1"
    assert metadata["checkpoint"] == "cfsam-tiny"
    assert metadata["mpp"] == 0.25
    assert metadata["image"] == "case 7/tile é.png"
    assert metadata["image_size"] == [12, 9]
    assert [t["name"] for t in metadata["types"]] == list(TYPE_NAMES.values())


def test_no_nuclei_is_an_empty_collection(tmp_path):
    write_geojson(make_result(np.zeros((4, 5), np.int32)), tmp_path / "a.geojson")
    assert read(tmp_path / "a.geojson")["features"] == []
    assert len(geopandas.read_file(tmp_path / "a.geojson")) == 0


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=150, deadline=None)
def test_any_mask_comes_back(foreground):
    instance_map = label_components(foreground)
    features = list(nucleus_features(make_result(instance_map)))
    assert all(shapely.geometry.shape(feature["geometry"]).is_valid for feature in features)
    np.testing.assert_array_equal(rasterize(features, instance_map.shape), instance_map)
