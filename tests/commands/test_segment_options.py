"""Why: the options of `cfsam segment` must reach the pipeline, the network, the files and `--resume`."""

import json
import re

import pandas as pd
import pytest
import torch

from cfsam_hf.commands import segment
from cfsam_hf.model import precision

from ..painted_model import painted_pipeline
from ..segment_cases import read_calls, record_options, run, threshold_pipeline, write_image


def test_thresholds_of_decoding_reach_the_pipeline_and_count_for_resume(tmp_path, monkeypatch, capsys):
    seen = record_options(monkeypatch)
    write_image(tmp_path / "a.png")
    lowered = ["--decoding", "nuclei_threshold=0.3", "minimum_area=7"]
    for arguments in ([], lowered, lowered):
        assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--resume", *arguments) == 0
    # The last time they were done already.
    assert [options.get("decoding") for options in seen] == [None, {"nuclei_threshold": 0.3, "minimum_area": 7}]
    with pytest.raises(SystemExit):
        run(tmp_path / "a.png", "-o", tmp_path / "out", "--decoding", "minimum_area")
    assert "must be NAME=VALUE with a number, got 'minimum_area'" in capsys.readouterr().err


def test_threshold_reaches_the_pipeline(tmp_path, monkeypatch, capsys):
    seen = record_options(monkeypatch)
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out", "--threshold", 0.7) == 0
    assert seen[0]["threshold"] == 0.7
    with pytest.raises(SystemExit, match="2"):
        run(image, "-o", tmp_path / "out", "--threshold", 1.5)
    assert "a number from 0 to 1" in capsys.readouterr().err


def test_views_reach_the_network(tmp_path, monkeypatch, capsys):
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    image = write_image(tmp_path / "a.png")
    passes = []
    for folder, options in (("one", []), ("four", ["--views", 4])):
        pipe.model.tiles.clear()
        assert run(image, "-o", tmp_path / folder, "--mpp", 0.25, "--no-overlay", *options) == 0
        passes.append(len(pipe.model.tiles))
    assert passes[1] == 4 * passes[0] > 0
    # One view is what is done without the option.
    read = read_calls(monkeypatch)
    assert run(image, "-o", tmp_path / "one", "--mpp", 0.25, "--no-overlay", "--resume", "--views", 1) == 0
    assert read == []
    with pytest.raises(SystemExit, match="2"):
        run(image, "-o", tmp_path / "out", "--views", 3)
    assert re.search("argument --views: invalid choice: '?3", capsys.readouterr().err)


def test_a_style_reaches_the_pipeline_and_an_unknown_one_is_refused(tmp_path, monkeypatch, capsys):
    seen = record_options(monkeypatch)
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out", "--style", "monuseg") == 0
    assert seen[0]["style"] == "monuseg"
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    assert run(image, "-o", tmp_path / "other", "--mpp", 0.25, "--style", "monuseg") != 0
    assert "no style 'monuseg'; choose one of: neutral" in capsys.readouterr().err


def test_mixed_precision_reaches_the_network(tmp_path, monkeypatch):
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    seen, forward = [], pipe.model.forward

    def noting(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return forward(*args, **kwargs)

    monkeypatch.setattr(pipe.model, "forward", noting)
    image = write_image(tmp_path / "a.png")
    for folder, options in (("plain", []), ("mixed", ["--autocast", "bfloat16"])):
        assert run(image, "-o", tmp_path / folder, "--mpp", 0.25, "--no-overlay", *options) == 0
    assert set(seen) == {False, torch.bfloat16}


@pytest.mark.parametrize(("native", "same"), [(True, ["--autocast", "bfloat16"]), (False, [])])
def test_automatic_precision_is_said_and_resumes_what_it_chose(tmp_path, monkeypatch, capsys, native, same):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: painted_pipeline())
    arguments = (write_image(tmp_path / "a.png"), "-o", tmp_path / "out", "--mpp", 0.25, "--no-overlay", "--resume")
    assert run(*arguments, "--autocast", "auto") == 0
    assert f"--autocast auto: the network runs in {'bfloat16' if native else 'float32'}" in capsys.readouterr().err
    read = read_calls(monkeypatch)
    assert run(*arguments, *same) == 0
    assert read == []
    assert capsys.readouterr().err == ""


def test_bfloat16_without_hardware_for_it_is_remarked_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: False)
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: painted_pipeline())
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out", "--mpp", 0.25, "--no-overlay", "--autocast", "bfloat16") == 0
    assert "faster without this option" in capsys.readouterr().err


def test_offsets_move_polygons_and_tables_into_the_slide(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: threshold_pipeline)
    image = write_image(tmp_path / "s [x=1000,y=2000,w=30,h=24].png")
    assert run(image, "-o", tmp_path / "here", "--mpp", 0.5, "--also", "csv") == 0
    assert run(image, "-o", tmp_path / "there", "--mpp", 0.5, "--also", "csv", "--offsets", "names") == 0
    here, there = (pd.read_parquet(next((tmp_path / name).glob("*.parquet"))) for name in ("here", "there"))
    assert (there["x"] - here["x"]).unique().tolist() == [1000]
    assert (there["bbox_y1"] - here["bbox_y1"]).unique().tolist() == [2000]
    assert "x=1000" in next((tmp_path / "there").glob("*_nuclei.csv")).name
    features = json.loads(next((tmp_path / "there").glob("*.geojson")).read_text())["features"]
    assert features[0]["geometry"]["coordinates"][0][0] == [there["bbox_x0"][0], there["bbox_y0"][0]]
    maps = [next((tmp_path / name).glob("*.tif")).read_bytes() for name in ("here", "there")]
    assert maps[0] == maps[1]
    # Another place is another result.
    capsys.readouterr()
    for offsets in ("names", {image.name: [5, 6]}):
        if offsets != "names":
            (tmp_path / "o.json").write_text(json.dumps(offsets))
            offsets = tmp_path / "o.json"
        arguments = ("--mpp", 0.5, "--also", "csv", "--resume", "--offsets", offsets)
        assert run(image, "-o", tmp_path / "there", *arguments) == 0
    assert capsys.readouterr().out.count("already done") == 1
    assert pd.read_parquet(next((tmp_path / "there").glob("*.parquet")))["x"][0] == here["x"][0] + 5


def test_tiles_without_a_place_are_reported(tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--offsets", "names") == 1
    assert "does not state where the tile lies" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("--demo", "-o", tmp_path / "out", "--offsets", "names")
