"""Why: every image of a folder must be segmented or reported, whatever the folder holds, and every file complete."""

import errno
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.inference import sink

from ..export_cases import label_components, make_result
from ..painted_model import painted_pipeline
from ..segment_cases import (
    SUFFIXES,
    names,
    run,
    threshold_pipeline,
    write_image,
)

pytestmark = pytest.mark.usefixtures("calls")


def test_one_image(tmp_path, capsys):
    write_image(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--mpp", 0.5) == 0
    assert names(tmp_path / "out") == sorted(["summary.csv", *("a" + s for s in SUFFIXES)])
    assert tifffile.imread(tmp_path / "out" / "a_instances.tif").max() == 2
    assert len(pd.read_parquet(tmp_path / "out" / "a.parquet")) == 2
    metadata = json.loads((tmp_path / "out" / "a.geojson").read_text())["metadata"]
    assert (metadata["image"], metadata["mpp"], metadata["checkpoint"]) == ("a.png", 0.5, "cfsam-tiny")
    out, err = capsys.readouterr()
    assert "a.png: 2 nuclei (epithelial 1, inflammatory 1, spindle-shaped 0)" in out
    assert err == ""


def test_a_folder_with_bad_images(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "a.png")
    write_image(folder / "a.tif")
    write_image(folder / "sub" / "b.png")
    write_image(folder / "fails.png", height=13)
    (folder / "text.png").write_text("no image")
    (folder / "zero.png").write_bytes(b"")
    cut = write_image(folder / "cut\nshort.png", 400, 400)
    cut.write_bytes(cut.read_bytes()[:200])
    assert run(folder, "-o", out, "--mpp", 0.25) == 1
    expected = ["summary.csv", *(f"{stem}{s}" for stem in ("a.png", "a.tif", "sub/b") for s in SUFFIXES)]
    assert names(out) == sorted(expected)
    summary = pd.read_csv(out / "summary.csv")
    assert summary["image"].unique().tolist() == ["a.png", "a.tif", "sub/b.png"]
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("cfsam: ") for line in lines)
    for name in ("text.png", "zero.png", "short.png", "fails.png"):
        assert sum(name in line for line in lines) == 1, name
    assert "unexpected RuntimeError: thirteen rows are too many (--debug shows where)" in err
    assert lines[-1] == "cfsam: 4 of 7 images could not be segmented"


def test_debug_shows_the_traceback(tmp_path, capsys):
    write_image(tmp_path / "fails.png", height=13)
    assert run(tmp_path, "-o", tmp_path / "out", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_options_reach_the_pipeline_and_the_files(tmp_path, calls, monkeypatch):
    seen = {}

    def pipe(image, **options):
        seen.update(options)
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: calls.append(wanted) or pipe)
    write_image(tmp_path / "a.png")
    out = tmp_path / "out"
    arguments = [
        "--no-overlay",
        "--also",
        "csv",
        "--also",
        "coco",
        "--batch-size",
        3,
        "--checkpoint",
        "c",
        "--device",
        "cpu",
    ]
    assert run(tmp_path / "a.png", "-o", out, *arguments) == 0
    assert names(out) == sorted(
        ["a.geojson", "a.parquet", "a_coco.json", "a_instances.tif", "a_nuclei.csv", "summary.csv"]
    )
    assert seen == {"mpp": None, "batch_size": 3, "max_pixels": None}
    assert calls == [("c", "cpu")]
    assert pd.read_csv(out / "summary.csv")["density_per_mm2"].isna().all()


@pytest.mark.parametrize(("checkpoint", "has_foreign_types"), [("cfsam-tiny", True), ("mine", False)])
def test_demo_says_what_it_is(checkpoint, has_foreign_types, tmp_path, monkeypatch, capsys):
    pipe = painted_pipeline()
    pipe.model.config.checkpoint_info = {"name": checkpoint}
    monkeypatch.setattr(segment, "load_pipeline", lambda *_: pipe)
    assert run("--demo", "-o", tmp_path) == 0
    out = capsys.readouterr().out
    assert "a real slide, H&E of skin" in out
    assert ("ignore the types of these skin nuclei" in out) == has_foreign_types
    assert {"summary.csv", "CMU-1-Small-Region.parquet"} <= set(names(tmp_path))
    metadata = json.loads((tmp_path / "CMU-1-Small-Region_tissue.geojson").read_text())["metadata"]
    assert metadata["mpp"] == 0.499
    assert metadata["tissue_area_mm2"] == pytest.approx(256 * 363 * 0.499**2 / 1e6, rel=0.02)


def test_a_full_disk_leaves_nothing_of_the_image(tmp_path, monkeypatch, capsys):
    def full(result, path):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sink, "write_table", full)
    write_image(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == []
    assert "a.parquet: No space left on device" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_reported_before_the_work(tmp_path, calls, capsys):
    write_image(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "a.png") == 1
    assert "is a file, where a folder is needed" in capsys.readouterr().err
    assert run(tmp_path / "a.png", "-o", tmp_path / "a.png" / "deeper") == 1
    assert "choose another folder with -o" in capsys.readouterr().err
    assert calls == []


def test_nothing_to_do_is_a_failure(tmp_path, calls, capsys):
    assert run(tmp_path / "nowhere.png", "-o", tmp_path / "out") == 1
    assert "nowhere.png: no such file or folder" in capsys.readouterr().err
    assert calls == []


def test_warnings_are_lines_and_printed_once(tmp_path, monkeypatch, capsys):

    def pipe(image, **options):
        warnings.warn("the pixel size is not known", UserWarning, stacklevel=2)
        warnings.warn("an internal matter", DeprecationWarning, stacklevel=2)
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == "cfsam: warning: the pixel size is not known\n"


def test_segment_needs_one_source(capsys):
    for arguments in (["-o", "out"], ["--demo", "x.png", "-o", "out"]):
        with pytest.raises(SystemExit, match="2"):
            run(*arguments)
    assert "--demo" in capsys.readouterr().err


def test_names_cannot_run_as_formulas_or_reach_the_terminal(tmp_path, monkeypatch, capsys):
    result = make_result(label_components(np.eye(24, 30) > 0), mpp=0.25)
    result.type_names[2] = "=cmd|' /C calc'!A0"
    result.type_names[3] = "red\x1b[31m\nline"
    result.table["type_name"] = result.table["type"].map(result.type_names)
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: lambda image, **options: result)
    write_image(tmp_path / "in" / "@SUM(1).png")
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--also", "csv") == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["image"].unique().tolist() == ["'@SUM(1).png"]
    assert summary["type"].tolist() == [-1, 1, 2, 3]
    assert summary["type_name"][2] == "'=cmd|' /C calc'!A0"
    assert set(pd.read_csv(tmp_path / "out" / "@SUM(1)_nuclei.csv")["type_name"]) == {
        "epithelial", "'=cmd|' /C calc'!A0", "red\\x1b[31m\\nline",
    }  # fmt: skip
    # What programs read is exact.
    exact = set(pd.read_parquet(tmp_path / "out" / "@SUM(1).parquet")["type_name"])
    assert {"=cmd|' /C calc'!A0", "red\x1b[31m\nline"} <= exact
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("mpp", "guess"),
    [
        (250, "nanometres, give 0.25"),
        (0.00025, "millimetres, give 0.25"),
        (2.5e-7, "metres, give 0.25"),
        (40, "40x is the objective, the pixel size is probably 0.25"),
        (40000, "pixels per centimetre, give 0.25"),
        (1e-9, "got 1e-09$"),
    ],
)
def test_a_pixel_size_in_another_unit_is_refused_before_the_work(mpp, guess, tmp_path, calls, capsys):
    assert run(write_image(tmp_path / "a.png"), "-o", tmp_path / "out", "--mpp", mpp) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cfsam: error: --mpp must be micrometres per pixel from 0.01 to 10")
    assert re.search(guess, line)
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_the_pixel_size_of_a_file_is_used_and_reported(tmp_path, monkeypatch, capsys):
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for name, resolution in (("a.tif", (40_000, 40_000)), ("b.tif", (20_000, 20_000)), ("c.tif", None)):
        image = np.full((64, 64, 3), (255, 128, 128), np.uint8)
        tifffile.imwrite(tmp_path / name, image, resolution=resolution, resolutionunit="CENTIMETER")
    assert run(tmp_path, "-o", tmp_path / "out", "--no-overlay") == 0
    out, err = capsys.readouterr()
    assert "0.25 µm per pixel (TIFF resolution)" in out
    assert "0.5 µm per pixel (TIFF resolution)" in out
    assert err.count("warning: mpp is not given") == 1
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").groupby("image")["mpp"].first()
    assert summary.isna().tolist() == [False, False, True]
    assert summary.tolist()[:2] == [0.25, 0.5]
    metadata = json.loads((tmp_path / "out" / "b.geojson").read_text())["metadata"]
    assert (metadata["mpp"], metadata["mpp_source"]) == (0.5, "TIFF resolution")
    assert run(tmp_path / "a.tif", tmp_path / "b.tif", "-o", tmp_path / "more", "--mpp", 0.24) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert "b.tif: mpp=0.24" not in line
    assert re.search(r"warning: b\.tif: --mpp 0\.24 is used although the file states 0\.5", line)


def test_inputs_that_are_missing_are_counted(tmp_path, capsys):
    image = write_image(tmp_path / "a.png")
    assert run(image, tmp_path / "b.png", tmp_path / "c.png", "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "cfsam: 2 of 3 images could not be segmented"
