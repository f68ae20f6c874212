"""Why: QuPath exports mix nuclei, regions and classes in several dialects; only nuclei may become nuclei."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.qupath import list_qupath
from cfsam_hf.outputs import write_geojson
from tests.data_cases import geojson_polygon, nuclei, painted, save_image, truncate, types_by_id
from tests.export_cases import blob_map, make_result

TUMOR = {"name": "Tumor", "color": [200, 0, 0]}


def feature(x: float, y: float, width=4.0, height=5.0, classification: dict | None = TUMOR, kind="annotation") -> dict:
    """A rectangle as QuPath 0.4 and later export it."""
    coordinates = geojson_polygon(x, y, x + width, y + height)
    properties = {"objectType": kind} | ({"classification": classification} if classification else {})
    return {
        "type": "Feature",
        "id": "5c6a1ab0-5be2-4ff5-a6d8-7c1a31bb2fb2",
        "geometry": {"type": "Polygon", "coordinates": coordinates},
        "properties": properties,
    }


def write(folder: Path, features, stem="a") -> Path:
    save_image(folder / f"{stem}.jpg", painted(nuclei(40, 50)))
    path = folder / f"{stem}.geojson"
    path.write_text(json.dumps(features))
    return path


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def load(folder: Path, **options):
    return list_qupath(folder, **options)[0].load()


def test_nuclei_of_every_dialect(tmp_path):
    cell = feature(18, 2, 10, 10, kind="cell")
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": geojson_polygon(20, 4, 24, 9)}
    derived = {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}
    features = [
        feature(2, 2),
        feature(10, 2, classification=derived, kind="detection"),
        cell,
        feature(34, 2, classification=None),
    ]
    write(tmp_path, collection(*features))
    write(tmp_path, features, "b")
    write(tmp_path, feature(2, 2, classification={"name": "Lymphocyte", "colorRGB": -377282}), "c")
    tiles = [record.load() for record in list_qupath(tmp_path, mpp=0.5, tissue="Skin")]
    assert tiles[0].type_names == {1: "Lymphocyte", 2: "Tumor", 3: "Tumor: Positive"}
    for tile in tiles[:2]:
        assert types_by_id(tile.instance_map, tile.type_map) == {1: [2], 2: [3], 3: [2], 4: [-100]}
        assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [20] * 4
        assert (tile.instance_map[4, 20], tile.instance_map[3, 19]) == (3, 0)
    assert types_by_id(tiles[2].instance_map, tiles[2].type_map) == {1: [1]}
    assert (tiles[0].annotated, tiles[0].mpp, tiles[0].tissue) == (None, 0.5, "Skin")


def test_regions_bound_what_is_annotated(tmp_path):
    region, ignored = {"name": "Region*", "color": [0, 0, 180]}, {"name": "Ignore*", "color": [180, 180, 180]}
    features = [
        feature(0, 0, 20, 30, region),
        feature(30, 0, 10, 10, {"name": "Region 2"}),
        feature(2, 20, 5, 5, ignored),
        feature(4, 4),
        feature(32, 4),
    ]
    write(tmp_path, collection(*features))
    tile = load(tmp_path)
    expected = np.zeros((40, 50), dtype=bool)
    expected[:30, :20] = expected[:10, 30:40] = True
    expected[20:25, 2:7] = False
    np.testing.assert_array_equal(tile.annotated, expected)
    assert tile.instance_map.max() == 2
    assert tile.type_names == {1: "Tumor"}
    write(tmp_path, collection(features[2], features[3]))
    assert (~load(tmp_path).annotated).sum() == 25


def test_regions_of_another_name(tmp_path):
    write(tmp_path, collection(feature(0, 0, 20, 30, {"name": "ROI"}), feature(4, 4)))
    tile = load(tmp_path, region_class="ROI")
    assert tile.annotated.sum() == 600
    assert tile.instance_map.max() == 1


def test_a_region_without_its_class_is_no_nucleus(tmp_path):
    blocks = [feature(2 + 6 * i, 4) for i in range(5)]
    path = write(tmp_path, collection(feature(0, 0, 50, 40, None), *blocks))
    with pytest.raises(ValueError, match=rf"{path.name}: the outline from .* encloses 5 others; .*'Region\*'"):
        load(tmp_path)
    with pytest.raises(ValueError, match=rf"{path.name}: the outline from .* encloses 5 others"):
        list_qupath(tmp_path)


def test_holes_and_parts(tmp_path):
    ring = feature(2, 2, 10, 10)
    ring["geometry"]["coordinates"] += geojson_polygon(5, 5, 8, 8)
    parts = feature(20, 2)
    parts["geometry"] = {
        "type": "MultiPolygon",
        "coordinates": [geojson_polygon(20, 2, 24, 6), geojson_polygon(26, 2, 28, 6)],
    }
    write(tmp_path, collection(ring, parts))
    tile = load(tmp_path)
    assert np.bincount(tile.instance_map.ravel()).tolist()[1:] == [91, 24]
    assert tile.instance_map[6, 6] == 0


@pytest.mark.parametrize("typed", [True, False])
def test_our_own_export_comes_back(tmp_path, typed):
    label_map = blob_map(size=80)
    save_image(tmp_path / "a.png", painted(label_map))
    result = make_result(label_map, typed=typed)
    write_geojson(result, tmp_path / "a.geojson")
    tile = load(tmp_path)
    np.testing.assert_array_equal(tile.instance_map, label_map)
    names = {tile.type_names[type_id] for type_id in np.unique(tile.type_map) if type_id}
    assert names == ({"epithelial", "inflammatory", "spindle-shaped"} if typed else {"nucleus"})


def test_types(tmp_path):
    path = write(tmp_path, collection(feature(2, 2), feature(10, 2, classification=None)))
    assert load(tmp_path, type_names={1: "Stroma", 4: "Tumor"}).type_map[3, 3] == 4
    with pytest.raises(ValueError, match=rf"{path.name}: unknown class 'Tumor'; the types are Stroma"):
        load(tmp_path, type_names={1: "Stroma"})
    write(tmp_path, collection(feature(10, 2, classification=None)))
    assert load(tmp_path).type_map is None


def test_images_without_nuclei(tmp_path):
    path = write(tmp_path, collection())
    assert not load(tmp_path).instance_map.any()
    with pytest.raises(ValueError, match=rf"{path.name}: no nuclei"):
        load(tmp_path, allow_empty=False)


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path, collection(feature(2, 2, kind="cell")))
    with pytest.raises(ValueError, match=rf"{path.name}: feature 0 .*export cells with their nuclei"):
        load(tmp_path)
    write(tmp_path, collection(feature(900, 2)))
    with pytest.raises(ValueError, match=rf"{path.name}: polygons reach 904 px"):
        load(tmp_path)
    for content in ("3", '"text"', '{"type": "FeatureCollection"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"{path.name}: expected a GeoJSON FeatureCollection"):
            load(tmp_path)
    truncate(write(tmp_path, collection(feature(2, 2))))
    with pytest.raises(OSError, match=rf"{path.name}: not a JSON file"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.geojson file for a\.jpg"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="no official splits"):
        load(tmp_path, split="train")


def test_annotations_around_detections_bound_what_is_annotated(tmp_path):
    tumour = feature(0, 0, 30, 40, {"name": "Necrosis"})
    cells = [feature(4 + 8 * i, 4, kind="detection") for i in range(3)]
    for features in ([tumour, *cells], [*cells, tumour]):
        write(tmp_path, collection(*features))
        tile = load(tmp_path)
        assert (tile.instance_map.max(), tile.type_names) == (3, {1: "Tumor"})
        assert tile.annotated.sum() == 30 * 40
        assert tile.notes == (
            "1 annotation (Necrosis) read as a region that bounds the annotated area, since all nuclei lie within",
        )
    write(tmp_path, collection(tumour, *cells, feature(40, 4, kind="detection")))
    tile = load(tmp_path)
    assert (tile.instance_map.max(), tile.annotated) == (4, None)
    assert "left out, since nuclei lie outside" in tile.notes[0]


def test_nuclei_of_a_hierarchy(tmp_path):
    region = feature(0, 0, 30, 40, {"name": "Region*"})
    region["properties"]["childObjects"] = [feature(4 + 8 * i, 4, kind="detection") for i in range(3)]
    write(tmp_path, collection(region))
    tile = load(tmp_path)
    assert (tile.instance_map.max(), tile.annotated.sum()) == (3, 1200)
    region["properties"]["classification"] = None
    write(tmp_path, collection(region))
    tile = load(tmp_path)
    assert (tile.instance_map.max(), tile.annotated.sum()) == (3, 1200)


@pytest.mark.parametrize(
    "ending", [".json", ".GEOJSON", ".geojson.gz", ".geojson.zip", ".zip", ".jpg.geojson", ".json.gz"]
)
def test_other_endings(tmp_path, ending):
    path = write(tmp_path, collection(feature(2, 2)))
    content = path.read_bytes()
    path.unlink()
    if ending.endswith(".gz"):
        content = gzip.compress(content)
    if ending == ".geojson.zip":
        with zipfile.ZipFile(tmp_path / f"a{ending}", "w") as archive:
            archive.writestr("a.geojson", content)
    elif ending == ".zip":
        pytest.importorskip("roifile").roiwrite(
            tmp_path / "a.zip", [pytest.importorskip("roifile").ImagejRoi.frompoints([[2, 2], [6, 2], [6, 7], [2, 7]])]
        )
    else:
        (tmp_path / f"a{ending}").write_bytes(content)
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "RoiSet.zip").write_text("{}")
    assert (load(tmp_path).instance_map == 1).sum() == 20


@pytest.mark.parametrize(
    "shift", [(9000, 9000), (-60, 0), (0, -60), (45, 45)], ids=["slide", "left", "above", "beyond the corner"]
)
def test_coordinates_off_the_image(tmp_path, shift):
    path = write(tmp_path, collection(*(feature(2 + shift[0], 2 + 6 * i + shift[1]) for i in range(4))))
    with pytest.raises(ValueError, match=rf"{path.name}: .*(4 of its 4 outlines contain no pixel|polygons reach 90)"):
        load(tmp_path)


def test_coordinates_as_shares_of_the_image(tmp_path):
    path = write(tmp_path, collection(*(feature(0.1, 0.2 * i, 0.1, 0.1) for i in range(4))))
    with pytest.raises(ValueError, match=rf"{path.name}: 4 of its 4 outlines contain no pixel .* or fractions"):
        load(tmp_path)


def test_classes_of_another_property(tmp_path):
    first, second = feature(2, 2, classification=None), feature(10, 2, classification=None)
    first["properties"]["tissue"], second["properties"]["tissue"] = "a", "b"
    write(tmp_path, collection(first, second))
    assert load(tmp_path).type_names == {}
    assert load(tmp_path, class_property="tissue").type_names == {1: "a", 2: "b"}


def test_labelme(tmp_path):
    path = write(tmp_path, [])
    path.unlink()
    square = [[2, 2], [6, 2], [6, 7], [2, 7]]
    shapes = [
        {"label": "tumour", "points": square, "shape_type": "polygon", "group_id": None},
        {"label": "other", "points": [[10, 2], [14, 7]], "shape_type": "rectangle"},
        {"label": "tumour", "points": [[30, 20], [34, 20]], "shape_type": "circle"},
        {"label": "other", "points": [[20, 2], [22, 2], [22, 7], [20, 7]], "group_id": 3},
        {"label": "other", "points": [[40, 30], [44, 30], [44, 35], [40, 35]], "group_id": 3},
        {"label": "other", "points": [[3, 3]], "shape_type": "point"},
    ]
    content = {"version": "5.4.1", "imagePath": "a.jpg", "imageHeight": 40, "imageWidth": 50, "shapes": shapes}
    (tmp_path / "a.json").write_text(json.dumps(content))
    tile = load(tmp_path)
    assert tile.type_names == {1: "other", 2: "tumour"}
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [2], 2: [1], 3: [2], 4: [1]}
    assert np.bincount(tile.instance_map.ravel())[[1, 2, 4]].tolist() == [20, 20, 30]
    assert tile.notes == ("1 shape without area left out",)
    (tmp_path / "a.json").write_text(json.dumps(content | {"imageHeight": 80}))
    with pytest.raises(ValueError, match=r"a\.json: describes an image of 80 x 50, but .*a\.jpg is 40 x 50"):
        load(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(content | {"shapes": [{"shape_type": "cuboid", "points": square}]}))
    with pytest.raises(ValueError, match=r"a\.json: shape 0 cannot be used \(its shape_type is 'cuboid'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["RoiSet.zip", "a_annotations.geojson", "cells.json"])
def test_a_file_of_another_name_is_mentioned(tmp_path, name):
    save_image(tmp_path / "a.png", painted(nuclei()))
    (tmp_path / name).write_text("[]")
    with pytest.raises(FileNotFoundError, match=rf"no \.geojson file \(found {name}; a file must .* for a\.png"):
        list_qupath(tmp_path)
