"""Why: regions of interest come from every tool that writes GeoJSON, and a misread one silently changes the counts."""

import gzip
import json
import zipfile

import numpy as np
import pytest

from cfsam_hf.slides import demo_slide, open_slide, read_areas


def box(x0, y0, x1, y1, **properties):
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


SQUARE = box(10, 20, 30, 40, objectType="annotation")
RING = {
    "type": "Polygon",
    "coordinates": [
        [[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]],
        [[15, 25], [25, 25], [25, 35], [15, 35], [15, 25]],
    ],
}
BOW = {"type": "Polygon", "coordinates": [[[10, 20], [30, 40], [30, 20], [10, 40], [10, 20]]]}
POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [12, 22]}, "properties": {}}
WITH_Z = {"type": "Polygon", "coordinates": [[[10, 20, 5], [30, 20, 5], [30, 40, 5], [10, 40, 5]]]}

# What a file holds, and the square pixels of its areas.
DIALECTS = {
    "collection": (collection(SQUARE), 400),
    "list": ([SQUARE], 400),
    "feature": (SQUARE, 400),
    "geometry": (SQUARE["geometry"], 400),
    "with a hole": (RING, 300),
    "not closed, with z": (WITH_Z, 400),
    "crosses itself": (BOW, 200),
    "MultiPolygon": ({"type": "MultiPolygon", "coordinates": [RING["coordinates"], [RING["coordinates"][1]]]}, 400),
    "GeometryCollection": ({"type": "GeometryCollection", "geometries": [RING, POINT["geometry"]]}, 300),
    "overlapping": (collection(SQUARE, box(20, 20, 40, 40)), 600),
    "QuPath 0.2": (collection({**box(10, 20, 30, 40), "id": "PathAnnotationObject"}), 400),
    "detections are passed over": (collection(SQUARE, box(100, 100, 110, 110, objectType="detection")), 400),
    "cells of old QuPath": (collection(SQUARE, {**box(100, 100, 110, 110), "id": "PathCellObject"}), 400),
    "TMA cores": (collection(box(0, 0, 10, 10, objectType="tma_core")), 100),
    "points and empty ones": (collection(POINT, {"type": "Feature", "geometry": None}, SQUARE), 400),
    "within others": (collection({**POINT, "properties": {"childObjects": [SQUARE]}}), 400),
    "ignored parts": (collection(SQUARE, box(10, 20, 20, 40, classification={"name": "Ignore*"})), 200),
    "ignored parts alone": (collection(box(10, 20, 20, 40, classification={"names": ["Ignore*"]})), 200),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(name, tmp_path):
    content, area = DIALECTS[name]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    areas = read_areas(path)
    assert areas.shape.is_valid
    assert areas.shape.area == area


def test_compressed_files_and_byte_order_marks(tmp_path):
    text = json.dumps(collection(SQUARE))
    (tmp_path / "a.geojson").write_text(text, encoding="utf-8-sig")
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.geojson", text)
    for name in ("a.geojson", "a.geojson.gz", "a.zip"):
        assert read_areas(tmp_path / name).bounds == (10, 20, 30, 40)


def test_points_and_rings(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RING))
    areas = read_areas(tmp_path / "a.json")
    points = np.array([[12, 22], [20, 30], [9, 30], [29.9, 39.9], [1e9, 0]])
    assert areas.contains(points).tolist() == [True, False, False, True, False]
    assert areas.contains(np.empty((0, 2))).shape == (0,)
    [[exterior, hole]] = areas.rings
    assert (exterior.shape, hole.shape) == ((5, 2), (5, 2))
    assert areas.cut(0, 0, 12, 22).bounds == (10, 20, 12, 22)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (collection(), "holds no annotation with an area; draw one in QuPath"),
        (collection(box(0, 0, 9, 9, objectType="cell")), "holds 1 detections, cells or tiles, but no annotation"),
        (collection(POINT), "holds no annotation"),
        (box(5, 5, 5, 9), "holds no annotation"),
        ({"type": "Topology"}, "expected GeoJSON"),
        ("text", "expected GeoJSON"),
        ([3], "feature 0 is not an object"),
        (collection(SQUARE, {"geometry": {"type": "Circle"}}), "feature 1 has no GeoJSON geometry"),
        ({"type": "Polygon", "coordinates": [[[1, "x"], [2, 3], [4, 5]]]}, "not a list of finite"),
        ({"type": "Polygon", "coordinates": [[[1], [2], [4]]]}, "not a list of finite"),
        ({"type": "Polygon", "coordinates": 5}, "not a list of finite"),
        ({"type": "Polygon", "coordinates": [[[1, 1e999], [2, 3], [4, 5]]]}, "not a list of finite"),
    ],
)
def test_files_without_areas_are_named(content, words, tmp_path):
    (tmp_path / "roi.geojson").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"roi.geojson: .*{words}"):
        read_areas(tmp_path / "roi.geojson")


def test_areas_off_the_slide_are_named_with_the_likely_unit(tmp_path):
    path = tmp_path / "roi.geojson"

    def read(*corners):
        path.write_text(json.dumps(box(*corners)))
        with open_slide(demo_slide()) as slide:
            return read_areas(path, slide)

    assert read(2000, 2000, 9000, 9000).bounds == (2000, 2000, 9000, 9000)
    with pytest.raises(ValueError, match=r"roi\.geojson: its areas reach from \(500000, 0\) to .*nanometres.*by 499"):
        read(500_000, 0, 600_000, 9000)
    with pytest.raises(ValueError, match=r"of 2220 x 2967 px; .*they may belong to another slide"):
        read(-500, -500, -100, -100)
