"""Why: the command, the real pipeline, and the files it writes must agree about the same nuclei."""

import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import shapely
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.slides import read_areas
from cfsam_hf.slides.bundled import demo_part

from ..painted_model import PaintedModel, paint, painted_config


@pytest.fixture
def painted(monkeypatch):
    """The command with the model that reads nuclei off painted images."""
    pipe = NucleiSegmentationPipeline(model=PaintedModel(painted_config()))
    monkeypatch.setattr(segment, "load_pipeline", lambda checkpoint, device: pipe)


def test_all_files_of_an_image_agree(painted, tmp_path, capsys):
    image, truth, types = paint(150, 200, count=30)
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(image).save(tmp_path / "in" / "a.png")
    tifffile.imwrite(tmp_path / "in" / "sixteen bits.tif", image.astype(np.uint16) * 257, photometric="rgb")
    assert cli.main(["segment", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--mpp", "0.25"]) == 0
    assert capsys.readouterr().err == ""
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    for stem in ("a", "sixteen bits"):
        instance_map = tifffile.imread(tmp_path / "out" / f"{stem}_instances.tif")
        table = pd.read_parquet(tmp_path / "out" / f"{stem}.parquet")
        collection = json.loads((tmp_path / "out" / f"{stem}.geojson").read_text())
        assert instance_map.max() == len(table) == len(collection["features"]) == len(types) == truth.max()
        # One nucleus in the truth for one found, of the same type and at its place.
        rows, columns = np.floor(table["y"]).astype(int), np.floor(table["x"]).astype(int)
        found = truth[rows, columns]
        assert sorted(found) == list(range(1, truth.max() + 1))
        np.testing.assert_array_equal(table["type"], np.asarray(types)[found - 1])
        for feature, nucleus in zip(collection["features"], table.itertuples(), strict=True):
            polygon = shapely.geometry.shape(feature["geometry"])
            assert polygon.bounds == (nucleus.bbox_x0, nucleus.bbox_y0, nucleus.bbox_x1, nucleus.bbox_y1)
            assert polygon.area == nucleus.area_px == (instance_map == nucleus.id).sum()
            assert feature["properties"]["classification"]["name"] == nucleus.type_name
        counts = summary[summary["image"].str.startswith(stem)].set_index("type_name")["count"]
        assert counts["all"] == len(table)
        assert counts["epithelial"] == (table["type_name"] == "epithelial").sum()


def test_unknown_pixel_size_is_one_warning_for_all_images(painted, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(paint(64, 64, count=3)[0]).save(tmp_path / name)
    assert cli.main(["segment", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cfsam: warning: mpp is not given")
    assert "--mpp" in line
    assert pd.read_parquet(tmp_path / "out" / "a.parquet")["area_um2"].isna().all()


def test_too_large_images_are_refused_by_option(painted, tmp_path, capsys):
    PIL.Image.fromarray(paint(64, 64, count=3)[0]).save(tmp_path / "a.png")
    assert cli.main(["segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--max-pixels", "4000"]) == 1
    assert "4096 pixels" in capsys.readouterr().err


def test_the_demo_with_the_bundled_checkpoint(tmp_path, capsys):
    assert cli.main(["segment", "--demo", "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
    table = pd.read_parquet(tmp_path / "CMU-1-Small-Region.parquet", columns=["x", "y", "area_um2", "type_name"])
    assert len(table) > 80
    # Nuclei of skin have 20 to 60 square micrometres, which a wrong pixel size would change fourfold.
    assert 15 < table["area_um2"].median() < 70
    x0, y0, x1, y1 = read_areas(demo_part()).bounds
    assert table["x"].between(x0, x1).all()
    assert table["y"].between(y0, y1).all()


def test_impossible_thresholds_are_reported_in_a_line(tmp_path, capsys):
    for setting, message in (
        ("nuclei_treshold=0.3", "nuclei_treshold"),
        ("nuclei_threshold=3", "nuclei_threshold is 3"),
    ):
        assert cli.main(["segment", "--demo", "-o", str(tmp_path), "--device", "cpu", "--decoding", setting]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize("checkpoint", ["no/such-model", "no-such-model"])
def test_a_missing_checkpoint_is_reported_in_a_line(checkpoint, tmp_path, capsys):
    arguments = ["segment", "--demo", "-o", str(tmp_path), "--checkpoint", checkpoint]
    assert cli.main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert checkpoint in line


def test_damaged_weights_are_reported_in_a_line(tmp_path):
    painted_config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(OSError, match="damaged or cut short"):
        load_pipeline(str(tmp_path), "cpu")
