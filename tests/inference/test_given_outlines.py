"""Why: outlines of another tool must come back as they were given, each with the type that the model sees inside."""

import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.data.readers.given_nuclei import nuclei_of_label_map
from cfsam_hf.inference.given_outlines import type_outlines
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.pictures import read_rgb
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline

from ..data_cases import geojson_polygon, save_image
from ..painted_model import RED, PaintedModel, painted_config


@pytest.fixture(scope="module")
def pipe():
    model = PaintedModel(painted_config(2))
    return NucleiSegmentationPipeline(model, CfSamImageProcessor(tile_size=64, tile_overlap=16), device="cpu")


def paint(type_map: np.ndarray) -> np.ndarray:
    """The picture of which a `PaintedModel` gives these types."""
    image = np.full((*type_map.shape, 3), (0, 128, 128), np.uint8)
    image[..., 0] = np.array([RED[kind] for kind in range(3)], np.uint8)[type_map]
    return image


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label map, type map and picture of 96 x 128 pixels: three nuclei of the types 1, 2 and 1."""
    label_map, type_map = np.zeros((96, 128), dtype=np.int32), np.zeros((96, 128), dtype=np.int32)
    for label, kind, (top, left) in ((1, 1, (10, 10)), (2, 2, (40, 60)), (3, 1, (70, 100))):
        label_map[top : top + 14, left : left + 12] = label
        type_map[top : top + 14, left : left + 12] = kind
    return label_map, type_map, paint(type_map)


def test_a_label_map_keeps_its_pixels_and_ids(pipe):
    label_map, _, image = scene()
    given = np.array([0, 40, 7, 70_000], dtype=np.int32)[label_map]
    result = type_outlines(pipe, image, given, mpp=0.25)
    np.testing.assert_array_equal(result.instance_map, given)
    assert result.table["id"].tolist() == [7, 40, 70_000]
    assert result.table["type"].tolist() == [2, 1, 1]
    assert result.table["area_px"].tolist() == [168] * 3
    assert result.table["bbox_x0"].tolist() == [60, 10, 100]
    assert result.table["score"].isna().all()
    assert (result.table["type_probability"] > 0.5).all()


def test_polygons_stay_as_given_and_are_typed_at_another_pixel_size(pipe):
    """At 0.125 um the picture has twice as many pixels as the model sees."""
    large = paint(np.kron(scene()[1], np.ones((2, 2), np.int32)))
    rings = [np.array([(20.5, 20), (43, 20), (43, 47), (20, 47)]), np.array([(120, 80), (143.25, 80), (140, 107)])]
    result = type_outlines(pipe, large, [[[ring]] for ring in rings], mpp=0.125)
    assert result.table["type"].tolist() == [1, 2]
    for ring, contour in zip(rings, result.contours, strict=True):
        np.testing.assert_array_equal(contour[0], ring)


def test_overlapping_and_tiny_outlines_are_all_typed(pipe):
    _, _, image = scene()
    square, tiny = (
        np.array([(60, 40), (72, 40), (72, 54), (60, 54)]),
        np.array([(11.1, 11.1), (11.3, 11.1), (11.2, 11.3)]),
    )
    result = type_outlines(pipe, image, [[[square]], [[square.copy()]], [[tiny]]], mpp=0.25)
    assert result.table["type"].tolist() == [2, 2, 1]
    assert result.table["area_px"].tolist() == [168, 168, 1]
    assert np.unique(result.instance_map).tolist() == [0, 2, 3]


def test_rings_are_turned_but_not_moved(pipe):
    _, _, image = scene()
    exterior = np.array([(60.0, 40), (60, 54), (72, 54), (72, 40), (60, 40)])
    hole = np.array([(64.0, 44), (68, 44), (68, 50), (64, 50)])
    result = type_outlines(pipe, image, [[[exterior, hole]]], mpp=0.25)
    first, second = result.contours[0]
    assert sorted(map(tuple, first)) == sorted(map(tuple, exterior[:-1]))
    assert sorted(map(tuple, second)) == sorted(map(tuple, hole))
    assert result.table["area_px"].tolist() == [168 - 24]


@pytest.mark.parametrize("option", [{"threshold": 0.5}, {"decoding": {"nuclei_threshold": 0.3}}])
def test_options_without_meaning_are_refused(pipe, option):
    label_map, _, image = scene()
    with pytest.raises(ValueError, match="has no meaning for outlines that are given"):
        type_outlines(pipe, image, label_map, mpp=0.25, **option)


def test_a_model_without_types_and_maps_of_another_size_are_refused(pipe):
    label_map, _, image = scene()
    untyped = NucleiSegmentationPipeline(
        PaintedModel(painted_config(0)), CfSamImageProcessor(tile_size=64, tile_overlap=16), device="cpu"
    )
    with pytest.raises(ValueError, match="the checkpoint has no types"):
        type_outlines(untyped, image, label_map, mpp=0.25)
    with pytest.raises(ValueError, match="a label map must be"):
        type_outlines(pipe, image, label_map[:-1], mpp=0.25)


def run(*arguments):
    return cli.main(["segment", *map(str, arguments)])


def write_geojson(path, polygons):
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": p}} for p in polygons]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_the_command_types_one_file(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    save_image(tmp_path / "a.png", scene()[2])
    given = [geojson_polygon(10.5, 10, 22, 24), geojson_polygon(60, 40, 72, 54)]
    file = write_geojson(tmp_path / "mine.json", given)
    arguments = (tmp_path / "a.png", "--outlines", file, "-o", tmp_path / "out", "--mpp", 0.25)
    assert run(*arguments, "--also", "coco", "--also", "csv", "--also", "roi") == 0
    assert "a.png: 2 nuclei" in capsys.readouterr().out
    features = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert [feature["geometry"]["coordinates"] for feature in features] == given
    assert "score" not in features[0]["properties"]["measurements"]
    assert "score" not in json.loads((tmp_path / "out" / "a_coco.json").read_text())["annotations"][0]
    assert pd.read_parquet(tmp_path / "out" / "a.parquet")["type"].tolist() == [1, 2]
    capsys.readouterr()
    assert run(*arguments, "--also", "coco", "--also", "csv", "--also", "roi", "--resume") == 0
    assert "1 of 1 images are already done" in capsys.readouterr().out
    write_geojson(file, given[:1])
    assert run(*arguments, "--also", "coco", "--also", "csv", "--also", "roi", "--resume") == 0
    assert "a.png: 1 nucleus" in capsys.readouterr().out, "other outlines are another result"


def test_the_command_types_a_folder_and_reports_images_without_outlines(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    label_map, _, image = scene()
    for name in "abc":
        save_image(tmp_path / "tiles" / f"{name}.png", image)
    tifffile.imwrite(tmp_path / "tiles" / "a_cp_masks.tif", label_map.astype(np.uint16))
    write_geojson(tmp_path / "tiles" / "b.geojson", [geojson_polygon(60, 40, 72, 54)])
    tiles = tmp_path / "tiles"
    assert run(tiles, "--outlines", tiles, "-o", tmp_path / "out", "--mpp", 0.25, "--no-overlay") == 1
    printed = capsys.readouterr()
    assert "a.png: 3 nuclei" in printed.out
    assert "b.png: 1 nucleus" in printed.out
    assert "c.png" in printed.err
    assert "no outlines and no label map for this image" in printed.err
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a_instances.tif"), label_map)


def test_one_file_for_several_images_is_refused(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for name in "ab":
        save_image(tmp_path / "tiles" / f"{name}.png", scene()[2])
    file = write_geojson(tmp_path / "mine.json", [geojson_polygon(60, 40, 72, 54)])
    assert run(tmp_path / "tiles", "--outlines", file, "-o", tmp_path / "out") == 1
    assert "holds the outlines of one image, not of 2" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "tiles", "--outlines", file, "-o", tmp_path / "out", "--threshold", 0.5)


def test_a_label_map_of_its_own_contours_is_read_back():
    label_map = scene()[0]
    given = nuclei_of_label_map(label_map)
    assert [len(shape) for shape in given.shapes] == [1, 1, 1]
    assert given.ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_pictures_that_an_orientation_tag_turns(pipe, tmp_path, capsys, monkeypatch, turned):
    """A label map has the upright picture's pixels; outlines of the stored pixels cannot be told from others."""
    monkeypatch.setattr(segment, "load_pipeline", lambda *_: pipe)
    label_map, _, image = scene()
    exif = PIL.Image.Exif()
    exif[274] = turned
    stored = PIL.Image.fromarray(image)
    if turned > 1:
        back = {3: "ROTATE_180", 6: "ROTATE_90", 8: "ROTATE_270"}[turned]
        stored = stored.transpose(PIL.Image.Transpose[back])
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image)
    given = tmp_path / "given"
    save_image(given / "a_masks.png", label_map.astype(np.uint8))
    arguments = ["segment", str(tmp_path / "a.png"), "--mpp", "0.25", "--outlines"]
    assert cli.main([*arguments, str(given), "-o", str(tmp_path / "labels")]) == 0
    by_labels = pd.read_parquet(tmp_path / "labels" / "a.parquet")
    assert by_labels["type"].tolist() == [1, 2, 1]
    # Its own GeoJSON, which states that it belongs to the upright picture.
    polygons = tmp_path / "labels" / "a.geojson"
    assert cli.main([*arguments, str(polygons), "-o", str(tmp_path / "own")]) == 0
    own = pd.read_parquet(tmp_path / "own" / "a.parquet")
    pd.testing.assert_frame_equal(own, by_labels)
    foreign = json.loads(polygons.read_text())
    del foreign["metadata"]
    (tmp_path / "foreign.geojson").write_text(json.dumps(foreign))
    status = cli.main([*arguments, str(tmp_path / "foreign.geojson"), "-o", str(tmp_path / "foreign")])
    assert status == (turned > 1)
    assert ("is turned by its EXIF orientation" in capsys.readouterr().err) == (turned > 1)
