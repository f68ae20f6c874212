"""Slides must pass through the command beside images: found in folders, reported, and never a reason to stop."""

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import tifffile
from PIL import Image

import cfsam_hf
from cfsam_hf.commands import segment, terminal
from cfsam_hf.inference.sink import SLIDE_ENDINGS
from cfsam_hf.inference.slide_sink import SLIDE_KINDS

from ..inference.slide_cases import painted_pipeline, write_slide
from ..painted_model import paint


@pytest.fixture(autouse=True)
def pipe(monkeypatch):
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *_: pipe)
    return pipe


@pytest.fixture
def image():
    return paint(400, 500, count=40, seed=4)[0]


def run(*arguments):
    return terminal.main(["segment", *map(str, arguments)])


def write_pyramid(image, path, mpp=0.25):
    """Two levels, as slides have them."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"tile": (64, 64), "photometric": "rgb"}
        metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp} if mpp else {"axes": "YXS"}
        tiff.write(image, subifds=1, metadata=metadata, **options)
        tiff.write(np.ascontiguousarray(image[::4, ::4]), subfiletype=1, **options)
    return path


def test_a_folder_of_images_slides_and_a_bad_slide(image, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "case").mkdir(parents=True)
    Image.fromarray(image).save(folder / "tile.png")
    write_pyramid(image, folder / "case" / "slide.tif")
    write_pyramid(image, folder / "unknown.tif", mpp=None)
    assert run(folder, "-o", out, "--tissue", "all", "--mpp", "0.25") == 0
    assert run(folder, "-o", out) == 1
    said, err = capsys.readouterr()
    assert "case/slide.tif: 40 nuclei" in said
    assert "mm2/min" in said
    assert "unknown.tif states no pixel size" in err
    summary = pd.read_csv(out / "summary.csv")
    assert summary[summary["type"] == -1].set_index("image")["count"].to_dict()["tile.png"] == 40
    names = {path.name for path in (out / "case").iterdir()}
    assert {"slide.parquet", "slide.geojson", "slide_tissue.geojson"} <= names


def test_slide_and_image_give_the_same_nuclei(image, tmp_path):
    Image.fromarray(image).save(tmp_path / "tile.png")
    write_pyramid(image, tmp_path / "slide.tif")
    assert run(tmp_path / "tile.png", "-o", tmp_path / "out", "--mpp", "0.25") == 0
    assert run(tmp_path / "slide.tif", "-o", tmp_path / "out", "--tissue", "all") == 0
    tile = pd.read_parquet(tmp_path / "out" / "tile.parquet")
    slide = pyarrow.parquet.read_table(tmp_path / "out" / "slide.parquet").drop(["geometry", "bbox"]).to_pandas()
    np.testing.assert_allclose(slide[["x", "y", "area_px", "score"]], tile[["x", "y", "area_px", "score"]])


def test_regions_of_interest_of_a_plain_image(image, tmp_path, capsys):
    Image.fromarray(image).save(tmp_path / "tile.png")
    roi = tmp_path / "roi.geojson"
    ring = "[[0,0],[250,0],[250,200],[0,200],[0,0]]"
    roi.write_text(f'{{"type":"Polygon","coordinates":[{ring}]}}')
    assert run(tmp_path / "tile.png", "-o", tmp_path / "out", "--roi", roi, "--mpp", "0.25") == 0
    table = pd.read_parquet(tmp_path / "out" / "tile.parquet", columns=["x", "y"])
    assert 0 < len(table) < 20
    assert table["x"].max() < 250
    assert run(tmp_path / "tile.png", "-o", tmp_path / "out", "--roi", tmp_path / "none.geojson") == 1
    assert "--roi" in capsys.readouterr().err


def test_the_python_function_gives_what_the_command_writes(image, pipe, tmp_path):
    write_slide(image, tmp_path / "slide.ome.tif")
    result = cfsam_hf.segment_slide(tmp_path / "slide.ome.tif", tmp_path / "out", pipe=pipe, tissue="all")
    assert len(result) == len(result.table()) == 40
    assert all(path.stat().st_size for path in result.files.values())
    again = cfsam_hf.segment_slide(tmp_path / "slide.ome.tif", tmp_path / "out", pipe=pipe, tissue="all", resume=True)
    assert again == result


def test_an_image_worked_on_as_a_slide_and_again_as_an_image(image, tmp_path):
    """What only one of the two ways writes must not stay beside the results of the other, nor be anybody's else."""
    Image.fromarray(image).save(tmp_path / "tile.png")
    out = tmp_path / "out"
    also = [word for kind in ("csv", "coco", "labels") for word in ("--also", kind)]
    whole = ("tile.geojson", "tile.parquet")
    as_image = {"tile_instances.tif", "tile_overlay.png", "tile_nuclei.csv", "tile_coco.json", *whole}
    as_slide = {"tile_tissue.geojson", "tile_overview.png", "tile_labels.ome.tif", *whole}
    assert SLIDE_ENDINGS == ("_tissue.geojson", "_overview.png", "_labels.ome.tif", ".geojson.gz")
    assert {ending for kind in SLIDE_KINDS.values() for ending in (kind.ending(0), kind.ending(10**9))} == {
        *SLIDE_ENDINGS,
        *(name.removeprefix("tile") for name in whole),
    }
    for options, expected in ((("--tissue", "all"), as_slide), ((), as_image), (("--tissue", "all"), as_slide)):
        assert run(tmp_path / "tile.png", "-o", out, "--mpp", "0.25", *also, *options) == 0
        assert {path.name for path in out.glob("tile*")} == expected
    (out / "tile_coco.json").write_text("{}")
    (out / "tile_overview.png").write_bytes(b"drawn by hand")
    assert run(tmp_path / "tile.png", "-o", out, "--mpp", "0.25") == 0
    assert {path.name for path in out.glob("tile*")} - as_image == {"tile_overview.png"}
