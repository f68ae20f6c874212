"""Why: the options of `cfsam segment` must reach the pipeline, the network, the files and `--resume`."""

import re

import pytest
import torch

from cfsam_hf.commands import segment

from ..painted_model import painted_pipeline
from ..segment_cases import read_calls, record_options, run, write_image


def test_thresholds_of_decoding_reach_the_pipeline_and_count_for_resume(tmp_path, monkeypatch, capsys):
    seen = record_options(monkeypatch)
    write_image(tmp_path / "a.png")
    lowered = ["--decoding", "nuclei_threshold=0.3", "minimum_area=7"]
    for arguments in ([], lowered, lowered):
        assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--resume", *arguments) == 0
    # The last time they were done already.
    assert [options.get("decoding") for options in seen] == [None, {"nuclei_threshold": 0.3, "minimum_area": 7}]
    for arguments in ([], ["--checkpoint", "mine"], ["--decoding", "minimum_area=9"]):
        assert run("--demo", "-o", tmp_path / "demo", *arguments) == 0
    assert [o.get("decoding") for o in seen[2:]] == [segment.DEMO_DECODING, None, {"minimum_area": 9}]
    assert capsys.readouterr().out.count("thresholds are lowered") == 1
    with pytest.raises(SystemExit):
        run("--demo", "-o", tmp_path / "demo", "--decoding", "minimum_area")
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
