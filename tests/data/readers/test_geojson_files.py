"""Why: GeoJSON has many dialects; every object must be read, counted as left out, or refused in a sentence."""

import doctest
import json

import pytest

from cfsam_hf.data.readers import geojson_files
from cfsam_hf.data.readers.geojson_files import parse_geojson, read_geojson
from tests.data_cases import geojson_polygon

SQUARE = {"type": "Polygon", "coordinates": geojson_polygon(2, 2, 6, 7)}


def feature(geometry=SQUARE, **members) -> dict:
    properties = members.pop("properties", {})
    return {"type": "Feature", "geometry": geometry, "properties": properties} | members


def parse(path, *features, **options):
    return parse_geojson({"type": "FeatureCollection", "features": list(features)}, path, **options)


def test_the_documented_examples():
    assert doctest.testmod(geojson_files).failed == 0


@pytest.mark.parametrize(
    ("geometry", "word"),
    [
        ({"type": "Point", "coordinates": [2, 2]}, "Point"),
        ({"type": "MultiPoint", "coordinates": [[2, 2]]}, "MultiPoint"),
        ({"type": "LineString", "coordinates": [[2, 2], [3, 3]]}, "LineString"),
        ({"type": "MultiLineString", "coordinates": [[[2, 2], [3, 3]]]}, "MultiLineString"),
        ({"type": "Polygon", "coordinates": []}, "empty"),
        ({"type": "Polygon", "coordinates": None}, "empty"),
        ({"type": "Polygon", "coordinates": [[]]}, "empty"),
        ({"type": "MultiPolygon", "coordinates": [[[]]]}, "empty"),
        ({"type": "GeometryCollection", "geometries": []}, "empty"),
        ({"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 1]}]}, "Point"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [5, 5], [3, 3], [1, 1]]]}, "flat"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [1, 1]]]}, "flat"),
        (None, "empty"),
    ],
)
def test_objects_without_area_are_left_out_with_a_note(tmp_path, geometry, word):
    found = parse(tmp_path, feature(), feature(geometry), feature(geometry))
    assert len(found.features) == 1
    assert found.notes == [f"2 objects without area left out (2 {word})"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (feature({"type": "Polygon", "coordinates": [[[1, 2], [3]]]}), "a ring must be a list of finite"),
        (feature({"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [5, 6]]]}), "a ring must be"),
        (feature({"type": "Polygon", "coordinates": [[[float("nan"), 2], [3, 4], [5, 6]]]}), "a ring must be"),
        (feature({"type": "Polygon", "coordinates": [[[10**400, 2], [3, 4], [5, 6]]]}), "a ring must be"),
        (feature({"type": "Polygon", "coordinates": [7]}), "a ring must be"),
        (feature({"type": "Polygon", "coordinates": {}}), "must be a list"),
        (feature({"type": "Circle", "coordinates": [1]}), "expected a Polygon or MultiPolygon, found 'Circle'"),
        (feature({"coordinates": [1]}), "found None"),
        (feature("POLYGON ((0 0))"), "a geometry is an object with type and coordinates"),
        (feature(properties=[1]), "properties must be an object"),
        (feature(properties={"classification": True}), "its class must be text, found True"),
        (feature(properties={"classification": [["A"]]}), "its class must be text"),
        ({"type": "Feature", "properties": {}}, "it has no geometry"),
        (3, "a feature is an object with a geometry, found 3"),
        (None, "a feature is an object with a geometry, found None"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, broken, message):
    with pytest.raises(ValueError, match=r"a\.geojson: feature 1 cannot be used") as raised:
        parse(tmp_path / "a.geojson", feature(), broken)
    assert message in str(raised.value)
    nested = feature(properties={"childObjects": [feature(), broken]})
    with pytest.raises(ValueError, match=r"a\.geojson: feature 0, child 1 cannot be used"):
        parse(tmp_path / "a.geojson", nested)


def test_a_geometry_alone_and_a_coco_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="a geometry, not a feature"):
        parse_geojson(SQUARE, tmp_path)
    with pytest.raises(ValueError, match="a COCO file, not GeoJSON; read it with the reader `coco`"):
        parse_geojson({"images": [], "annotations": [], "categories": []}, tmp_path)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Tumor", "Tumor"),
        (3, "3"),
        (3.0, "3"),
        ({"name": 3}, "3"),
        ({"names": ["Tumor", 3]}, "Tumor: 3"),
        ('{"name": "Tumor", "color": [1, 2, 3]}', "Tumor"),
        ("{braces}", "{braces}"),
        (["A", "B"], "A: B"),
        ({"name": None}, None),
        ({}, None),
        ("  ", None),
        (None, None),
    ],
)
def test_classes_in_every_form(tmp_path, value, name):
    (found,) = parse(tmp_path, feature(properties={"classification": value})).features
    assert found.name == name


@pytest.mark.parametrize("key", ["type", "class_name", "cellType", "Class", "label", "cell_type"])
def test_classes_of_other_tools(tmp_path, key):
    found = parse(tmp_path, *(feature(properties={key: name, "prob": 0.5}) for name in ("a", "b", "a")))
    assert [f.name for f in found.features] == ["a", "b", "a"]
    assert found.notes == [f"no object has a classification; the classes are those of the property {key!r}"]


def test_numbers_of_objects_are_no_classes(tmp_path):
    found = parse(tmp_path, *(feature(properties={"label": number}) for number in range(4)))
    assert {f.name for f in found.features} == {None}
    found = parse(tmp_path, *(feature(properties={"type": number % 2}) for number in range(4)))
    assert [f.name for f in found.features] == ["0", "1", "0", "1"]
    found = parse(tmp_path, *(feature(properties={"type": "Polygon"}) for _ in range(4)))
    assert {f.name for f in found.features} == {None}


def test_an_unknown_property_is_mentioned(tmp_path):
    features = [feature(properties={"grade": "ab"[number % 2], "name": f"n{number}"}) for number in range(4)]
    found = parse(tmp_path, *features)
    assert found.notes == [
        "no object has a classification, but all have the property 'grade' with 2 values; class_property=grade reads "
        "it as the class"
    ]
    assert [f.name for f in parse(tmp_path, *features, class_property="grade").features] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "members",
    [
        {"id": "PathCellObject"},
        {"properties": {"object_type": "cell"}},
        {"properties": {"objectType": "cell"}},
        {"properties": {"objectType": "cell"}, "nucleusGeometry": None},
    ],
)
def test_cells_without_nucleus_of_every_version(tmp_path, members):
    with pytest.raises(ValueError, match=r"feature 0 cannot be used \(a cell without nucleusGeometry: export cells"):
        parse(tmp_path, feature(**members))
    nucleus = {"nucleusGeometry": {"type": "Polygon", "coordinates": geojson_polygon(3, 3, 5, 5)}}
    (found,) = parse(tmp_path, feature(**members | nucleus)).features
    assert found.polygons[0][0].max() == 5


def test_files_that_are_not_json(tmp_path):
    path = tmp_path / "a.geojson"
    for content in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[" + b"1" * 5000 + b"]", b"\x1f\x8b\x08"):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"a\.geojson: "):
            read_geojson(path)
    path.write_text(json.dumps([feature()]), encoding="utf-16")
    assert len(read_geojson(path).features) == 1


def test_a_numbered_property_is_mentioned_and_yes_or_no_is_not(tmp_path):
    """Ids of classes are numbers as often as names."""
    features = [feature(properties={"class_id": number % 2, "isLocked": bool(number % 2)}) for number in range(4)]
    (note,) = parse(tmp_path, *features).notes
    assert "'class_id' with 2 values; class_property=class_id" in note


def test_points_alone_are_no_annotation_of_nuclei(tmp_path):
    """Read as an empty tile, it would teach that all is background."""
    point = feature()
    point["geometry"] = {"type": "Point", "coordinates": [1, 1]}
    with pytest.raises(ValueError, match=r"none of its 2 objects has an area \(2 Point\); nuclei need outlines"):
        parse(tmp_path, point, point)
    empty = feature()
    empty["geometry"] = None
    assert parse(tmp_path, empty).notes == ["1 object without area left out (1 empty)"]
