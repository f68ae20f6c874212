"""Outlines of an image that EXIF turns by 180 degrees fit nowhere, and no size tells: never guessed, tried for all."""

import doctest
import json

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.data.readers import orientation
from cfsam_hf.data.readers.orientation import orientation_of, turn_points
from cfsam_hf.data.readers.qupath import list_qupath
from cfsam_hf.model.tiff import turn_upright
from cfsam_hf.outputs import write_geojson
from tests.data_cases import nuclei, painted
from tests.export_cases import make_result

ORIENTATIONS = range(1, 9)


def save_turned(path, stored, value):
    exif = Image.Exif()
    exif[orientation.TAG] = value
    Image.fromarray(stored).save(path, exif=exif)


def outlines_of(label_map):
    """Each nucleus as a rectangle of GeoJSON, as a program draws it that sees these pixels."""
    features = []
    for label in (1, 2, 3):
        y, x = np.nonzero(label_map == label)
        (x0, x1), (y0, y1) = (float(x.min()), float(x.max() + 1)), (float(y.min()), float(y.max() + 1))
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}})
    return {"type": "FeatureCollection", "features": features}


def test_the_documented_example():
    assert doctest.testmod(orientation, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_outlines_of_the_stored_pixels_are_turned_with_them(tmp_path, value, suffix):
    stored = nuclei(40, 60)
    save_turned(tmp_path / f"a{suffix}", painted(stored), value)
    assert orientation_of(tmp_path / f"a{suffix}") == value
    (tmp_path / "a.geojson").write_text(json.dumps(outlines_of(stored)))
    tile = list_qupath(tmp_path, orientation="stored")[0].load()
    np.testing.assert_array_equal(tile.instance_map, turn_upright(stored, value))
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))


@pytest.mark.parametrize("value", ORIENTATIONS)
def test_what_the_file_does_not_say_is_asked_for(tmp_path, value):
    stored = nuclei(40, 60)
    save_turned(tmp_path / "a.png", painted(stored), value)
    (tmp_path / "a.geojson").write_text(json.dumps(outlines_of(turn_upright(stored, value))))
    if value > 1:
        with pytest.raises(ValueError, match=r"a\.geojson: the image .*a\.png is turned by its EXIF orientation"):
            list_qupath(tmp_path)[0].load()
    tile = list_qupath(tmp_path, orientation="upright")[0].load()
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))


@pytest.mark.parametrize("value", [3, 6])
def test_files_that_are_known_to_be_upright(tmp_path, value):
    stored = nuclei(40, 60)
    upright = turn_upright(stored, value)
    save_turned(tmp_path / "a.png", painted(stored), value)
    write_geojson(make_result(np.ascontiguousarray(upright)), tmp_path / "a.geojson")
    tile = list_qupath(tmp_path)[0].load()
    np.testing.assert_array_equal(tile.instance_map > 0, upright > 0)
    (tmp_path / "a.geojson").unlink()
    rings = [feature["geometry"]["coordinates"][0] for feature in outlines_of(upright)["features"]]
    shapes = [{"label": "n", "points": ring, "shape_type": "polygon"} for ring in rings]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    np.testing.assert_array_equal(list_qupath(tmp_path)[0].load().instance_map, upright)


@pytest.mark.parametrize("value", ORIENTATIONS)
def test_points_turn_as_pixels_do(value):
    stored = np.zeros((4, 7), dtype=int)
    stored[1, 5] = 1
    upright = turn_upright(stored, value)
    ((x, y),) = turn_points(np.array([[5.5, 1.5]]), value, *upright.shape)
    assert upright[int(y), int(x)] == 1


def test_other_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="orientation must be 'stored' or 'upright', got 'turned'"):
        list_qupath(tmp_path, orientation="turned")
