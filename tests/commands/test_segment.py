"""Why: every image of a folder must be segmented or reported, whatever lies in it, and every file must be complete."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.inference import record, sink, sources
from cfsam_hf.inference import run as runs
from cfsam_hf.inference.record import MERGED_NAME, RECORDS_NAME

from ..export_cases import label_components, make_result
from ..model.test_pipeline import painted_pipeline

SUFFIXES = ["_instances.tif", ".geojson", ".parquet", "_overlay.png"]


def threshold_pipeline(image, mpp=None, batch_size=None, max_pixels=None, decoding=None):
    """Stands in for the network: dark pixels are nuclei."""
    if image.shape[0] == 13:
        raise RuntimeError("thirteen rows\nare too many")
    return make_result(label_components(image.mean(axis=2) < 100), mpp=mpp)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Replaces loading; what was asked for is in the returned list."""
    asked = []

    def load(checkpoint, device):
        asked.append((checkpoint, device))
        return threshold_pipeline

    monkeypatch.setattr(segment, "load_pipeline", load)
    return asked


def record_options(monkeypatch) -> list[dict]:
    """The options of every image that the pipeline is given from now on."""
    seen = []
    monkeypatch.setattr(
        segment, "load_pipeline", lambda *wanted: lambda image, **o: seen.append(o) or threshold_pipeline(image)
    )
    return seen


def write_image(path: Path, height=24, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), 230, np.uint8)
    image[3:8, 4:10] = image[2:6, 14:20] = 40
    PIL.Image.fromarray(image).save(path)
    return path


def names(folder):
    """All files below, hidden ones too, but for the records."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if path.parts[0] != RECORDS_NAME)


def run(*arguments):
    return cli.main(["segment", *map(str, arguments)])


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


def test_demo_says_what_it_is(tmp_path, capsys):
    assert run("--demo", "-o", tmp_path) == 0
    out = capsys.readouterr().out
    assert "NOT H&E" in out
    assert "is assumed" in out
    assert names(tmp_path) == sorted(["summary.csv", *("immunohistochemistry" + s for s in SUFFIXES)])
    assert json.loads((tmp_path / "immunohistochemistry.geojson").read_text())["metadata"]["mpp"] == segment.DEMO_MPP


def test_a_full_disk_leaves_nothing_of_the_image(tmp_path, monkeypatch, capsys):
    def full(result, path):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sink, "write_table", full)
    write_image(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "-o", tmp_path / "out") == 1
    assert names(tmp_path / "out") == []
    assert "a.parquet: No space left on device" in capsys.readouterr().err


def test_interrupting_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    done = []

    def pipe(image, **options):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == cli.EXIT_INTERRUPTED
    assert names(tmp_path / "out") == sorted(["summary.csv", *("a" + s for s in SUFFIXES)])
    assert capsys.readouterr().err == "cfsam: interrupted\n"


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
    import warnings

    def pipe(image, **options):
        warnings.warn("the pixel size is not known", UserWarning, stacklevel=2)
        warnings.warn("an internal matter", DeprecationWarning, stacklevel=2)
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().err == "cfsam: warning: the pixel size is not known\n"


def test_a_second_run_replaces_the_first(tmp_path):
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out") == 0
    write_image(tmp_path / "a.png", 50, 60)
    assert run(image, "-o", tmp_path / "out") == 0
    assert tifffile.imread(tmp_path / "out" / "a_instances.tif").shape == (50, 60)
    assert len(names(tmp_path / "out")) == 5


ALL_KINDS = ["--also", "csv", "--also", "coco"]


@pytest.mark.parametrize("ending", [kind.ending for kind in sink.OUTPUT_KINDS.values()])
def test_files_of_others_are_not_replaced(ending, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    other = tmp_path / f"a{ending}"
    other.write_text("drawn by hand")
    assert run(tmp_path / "a.png", "-o", tmp_path, *ALL_KINDS) == 1
    assert f"a{ending} exists and was not written by cfsam" in capsys.readouterr().err
    assert other.read_text() == "drawn by hand"
    assert names(tmp_path) == sorted(["a.png", other.name])


def test_a_table_with_columns_of_its_own_is_not_replaced(tmp_path, capsys):
    image = write_image(tmp_path / "a.png")
    assert run(image, "-o", tmp_path / "out", *ALL_KINDS) == 0
    table = tmp_path / "out" / "a_nuclei.csv"
    edited = pd.read_csv(table).assign(grade=3)
    edited.to_csv(table, index=False)
    assert run(image, "-o", tmp_path / "out", *ALL_KINDS) == 1
    assert "a_nuclei.csv exists and was not written by cfsam" in capsys.readouterr().err
    assert run(image, "-o", tmp_path / "out") == 0
    pd.testing.assert_frame_equal(pd.read_csv(table), edited)


def test_files_that_are_not_written_this_time_are_nobodys_concern(tmp_path):
    image = write_image(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    for ending in ("_overlay.png", "_nuclei.csv", "_coco.json"):
        (tmp_path / "out" / f"a{ending}").write_text("mine")
    assert run(image, "-o", tmp_path / "out", "--no-overlay") == 0
    assert (tmp_path / "out" / "a_nuclei.csv").read_text() == "mine"
    assert (tmp_path / "out" / "a_overlay.png").read_text() == "mine"


def test_other_options_leave_nothing_of_the_run_before(tmp_path):
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    assert run(image, "-o", out, *ALL_KINDS) == 0
    assert len(names(out)) == 7
    assert run(image, "-o", out, "--no-overlay") == 0
    assert names(out) == sorted(["summary.csv", "a_instances.tif", "a.geojson", "a.parquet"])


def test_an_image_whose_results_get_another_name_keeps_no_old_ones(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "a.png")
    assert run(folder, "-o", out, *ALL_KINDS) == 0
    write_image(folder / "a.tif")
    assert run(folder, "-o", out, "--no-overlay") == 0
    endings = ["_instances.tif", ".geojson", ".parquet"]
    assert names(out) == sorted(["summary.csv", *(f"{name}{end}" for name in ("a.png", "a.tif") for end in endings)])
    assert pd.read_csv(out / "summary.csv")["image"].value_counts().to_dict() == {"a.png": 4, "a.tif": 4}


def test_own_files_are_replaced_in_every_format(tmp_path):
    write_image(tmp_path / "a.png", 300, 300)
    for _ in range(2):
        assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--also", "coco", "--also", "csv") == 0
    assert len(names(tmp_path / "out")) == 7


def test_outputs_beside_the_images_are_not_done_again(tmp_path):
    write_image(tmp_path / "a.png")
    assert run(tmp_path, "-o", tmp_path) == 0
    before = names(tmp_path)
    assert run(tmp_path, "-o", tmp_path) == 0
    assert names(tmp_path) == before


def test_results_are_never_images_in_any_folder_under_any_name(tmp_path, capsys):
    folder = tmp_path / "tiles"
    write_image(folder / "a.png")
    assert run(folder, "-o", folder / "run1") == 0
    (folder / "run1" / "a_overlay.png").rename(folder / "picture.png")
    (folder / "run1" / "a_instances.tif").rename(folder / "run1" / "b.tif")
    everything = [str(path) for path in folder.rglob("*.[pt][ni][gf]")]
    assert len(everything) == 3
    capsys.readouterr()
    for inputs in ([folder], everything, [folder / "**" / "*.*"]):
        out = tmp_path / f"run{len(inputs)}{len(str(inputs[0]))}"
        assert run(*inputs, "-o", out) == 0
        assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png"]
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("cfsam: note: left out 2 files that cfsam wrote as results: ")
        assert "picture.png" in line


def test_segment_needs_one_source(capsys):
    for arguments in (["-o", "out"], ["--demo", "x.png", "-o", "out"]):
        with pytest.raises(SystemExit, match="2"):
            run(*arguments)
    assert "--demo" in capsys.readouterr().err


def read_calls(monkeypatch):
    """The files that are read from here on."""
    read, real = [], sources.read_rgb

    def record(path, *arguments, **options):
        read.append(Path(path).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(sources, "read_rgb", record)
    return read


def test_resume_does_what_is_missing_or_not_current(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abcdef":
        write_image(folder / f"{name}.png")
    assert run(folder, "-o", out, "--mpp", 0.25, "--resume") == 0
    read = read_calls(monkeypatch)
    assert run(folder, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == []
    assert "6 of 6 images are already done" in capsys.readouterr().out

    (out / "b.geojson").unlink()
    (out / "c.parquet").write_bytes(b"")
    write_image(folder / "d.png", 50, 60)
    os.utime(folder / "e.png")  # another time, the same content
    changed = (folder / "f.png").read_bytes()
    (folder / "f.png").write_bytes(changed[:-1] + b"\0")
    os.utime(folder / "f.png", ns=(0, 0))
    write_image(folder / "g.png")
    assert run(folder, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == ["b.png", "c.png", "d.png", "f.png", "g.png"]
    summary = pd.read_csv(out / "summary.csv")
    assert summary["image"].unique().tolist() == [f"{name}.png" for name in "abcdefg"]
    assert summary.set_index("image").loc["d.png", "image_width_px"].tolist() == [60] * 4


@pytest.mark.parametrize(
    "options",
    [
        *(["--mpp", 0.5], ["--threshold", 0.1], ["--views", 2], ["--autocast", "bfloat16"], ["--no-overlay"]),
        *(["--also", "csv"], ["--page", 1]),
    ],
)
def test_resume_does_all_again_for_other_options(options, tmp_path, monkeypatch):
    image = write_image(tmp_path / "a.png")
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: lambda image, **given: threshold_pipeline(image))
    assert run(image, "-o", tmp_path / "out") == 0
    read = read_calls(monkeypatch)
    assert run(image, "-o", tmp_path / "out", "--resume", *options) == 0
    assert read == ["a.png"]
    assert run(image, "-o", tmp_path / "out", "--resume", *options) == 0
    assert read == ["a.png"]


def test_resume_does_all_again_for_another_checkpoint_or_version(tmp_path, monkeypatch):
    image, out = write_image(tmp_path / "a.png"), tmp_path / "out"
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for folder, gain in ((tmp_path / "one", 1.0), (tmp_path / "two", 2.0)):
        pipe.model.gain.data.fill_(gain)
        pipe.model.save_pretrained(folder)
    pipe.model.name_or_path = str(tmp_path / "one")
    assert run(image, "-o", out, "--mpp", 0.25) == 0
    read = read_calls(monkeypatch)
    assert run(image, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == []
    pipe.model.name_or_path = str(tmp_path / "two")
    assert run(image, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == ["a.png"]
    monkeypatch.setattr(runs, "__version__", "9.9")
    assert run(image, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == ["a.png"] * 2


def test_resume_after_an_interruption(tmp_path, monkeypatch):
    done = []

    def pipe(image, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return threshold_pipeline(image)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for name in "abcd":
        write_image(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    assert run(tmp_path / "in", "-o", out) == cli.EXIT_INTERRUPTED
    assert pd.read_csv(out / "summary.csv")["image"].nunique() == 2
    # A crash may cut the last line short.
    with open(out / RECORDS_NAME / MERGED_NAME, "a") as file:
        file.write('{"target": "c", "sou')
    read = read_calls(monkeypatch)
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: threshold_pipeline)
    for _ in range(2):
        assert run(tmp_path / "in", "-o", out, "--resume") == 0
        assert read == ["c.png", "d.png"]
        assert pd.read_csv(out / "summary.csv")["image"].nunique() == 4


def test_the_summary_covers_earlier_runs_into_the_same_folder(tmp_path, capsys):
    out = tmp_path / "out"
    for name in ("a", "b"):
        assert run(write_image(tmp_path / f"{name}.png"), "-o", out) == 0
    assert "summary of 2 images (1 from other runs)" in capsys.readouterr().out
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png", "b.png"]
    # An image whose results were removed is no longer in it.
    (out / "a.geojson").unlink()
    assert run(tmp_path / "b.png", "-o", out) == 0
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["b.png"]


def test_a_summary_of_others_is_not_replaced(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_text("case,grade\n1,3\n")
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 1
    assert "summary.csv exists and was not written by cfsam" in capsys.readouterr().err
    assert names(out) == ["summary.csv"]


@pytest.mark.parametrize(
    "content", [b"", bytes(4096), b"\n", b"image,type,type_na", b"image,typ\0\0\0", b"\xef\xbb\xbfimage,type"]
)
def test_a_summary_that_a_power_failure_has_left_is_replaced(content, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_bytes(content)
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 0
    assert len(pd.read_csv(out / "summary.csv")) == 4


@pytest.mark.parametrize("ending", [kind.ending for kind in sink.OUTPUT_KINDS.values()])
def test_results_that_a_power_failure_has_left_are_replaced(ending, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for content in (b"", bytes(4096)):
        (out / f"a{ending}").write_bytes(content)
        assert run(write_image(tmp_path / "a.png"), "-o", out, *ALL_KINDS) == 0
        assert (out / f"a{ending}").stat().st_size > 0


def test_runs_at_the_same_time_share_one_summary(tmp_path, monkeypatch):
    """Each run begins before the other has ended, and the one that began first ends last."""
    out, others, waiting = tmp_path / "out", [], ["c", "b"]
    for name in "abc":
        write_image(tmp_path / f"{name}.png")

    def pipe(image, **options):
        if waiting:
            others.append(run(tmp_path / f"{waiting.pop()}.png", "-o", out))
        return threshold_pipeline(image, **options)

    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    assert run(tmp_path / "a.png", "-o", out) == 0
    assert others == [0, 0]
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png", "b.png", "c.png"]
    assert sorted(path.name for path in (out / RECORDS_NAME).iterdir()) == sorted([MERGED_NAME, record.LOCK_NAME])


def test_the_record_of_an_earlier_version_is_kept(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 0
    entry = json.loads((out / RECORDS_NAME / MERGED_NAME).read_text())
    (out / RECORDS_NAME / MERGED_NAME).unlink()
    del entry["image"], entry["finished"]
    (out / record.FORMER_NAME).write_text(json.dumps(entry) + "\n")
    assert run(write_image(tmp_path / "b.png"), "-o", out) == 0
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["a.png", "b.png"]
    read = read_calls(monkeypatch)
    assert run(tmp_path / "a.png", tmp_path / "b.png", "-o", out, "--resume") == 0
    assert read == []


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
        "epithelial", "'=cmd|' /C calc'!A0", "red\x1b[31m\nline",
    }  # fmt: skip
    # What programs read is exact.
    assert "=cmd|' /C calc'!A0" in set(pd.read_parquet(tmp_path / "out" / "@SUM(1).parquet")["type_name"])
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


def test_images_are_read_and_written_while_the_network_works(tmp_path, monkeypatch, capsys):
    pipe = painted_pipeline()
    reads, writes = [threading.Event() for _ in range(8)], [threading.Event() for _ in range(8)]
    passes, read, write = [], sources.read_rgb, sink.write_table

    def tile_maps(*arguments, real=pipe._tile_maps):
        # Each pass waits for the next image to be read and the last but one to be written, which would never end if
        # one thread did it all.
        index = len(passes)
        passes.append(reads[min(index + 1, 7)].wait(30) and writes[max(index - 3, 0)].wait(30 if index > 2 else 0))
        return real(*arguments)

    def reading(path, *arguments, **options):
        image = read(path, *arguments, **options)
        reads[int(Path(path).stem)].set()
        return image

    def writing(result, path):
        write(result, path)
        writes[int(Path(path).stem)].set()

    monkeypatch.setattr(pipe, "_tile_maps", tile_maps)
    monkeypatch.setattr(sources, "read_rgb", reading)
    monkeypatch.setattr(sink, "write_table", writing)
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for index in range(8):
        write_image(tmp_path / "in" / f"{index}.png")
    arguments = ["--mpp", 0.25, "--batch-size", 1, "--no-overlay", "--verbose"]
    assert run(tmp_path / "in", "-o", tmp_path / "out", *arguments) == 0
    assert passes[3:] == [True] * 5
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:8]] == [f"[{index}/8]" for index in range(1, 9)]
    assert re.search(r"network: busy for [\d.]+ s, waited for [\d.]+ % of the time", out)


def test_errors_stay_with_their_image_in_the_stream(tmp_path, monkeypatch, capsys):
    pipe = painted_pipeline()
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for name in "acd":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    (tmp_path / "e.png").write_text("no image")
    decode = pipe.postprocess

    def fail_on_the_second(run, **options):
        fail_on_the_second.count += 1
        if fail_on_the_second.count == 2:
            raise ValueError("no such nuclei")
        return decode(run, **options)

    fail_on_the_second.count = 0
    monkeypatch.setattr(pipe, "postprocess", fail_on_the_second)
    assert run(tmp_path, "-o", tmp_path / "out", "--mpp", 0.25) == 1
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["image"].unique().tolist() == ["a.png", "d.png"]
    errors = [line for line in capsys.readouterr().err.splitlines() if "has no colour" not in line]
    assert [Path(re.search(r"(\w\.png)", line)[1]).name for line in errors[:-1]] == ["b.png", "c.png", "e.png"]
    assert errors[-1] == "cfsam: 3 of 5 images could not be segmented"


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGINT, cli.EXIT_INTERRUPTED, "interrupted"),
        (signal.SIGTERM, cli.EXIT_TERMINATED, "terminated"),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_ends_all_threads_and_leaves_whole_files(number, status, word, tmp_path):
    for index in range(40):
        write_image(tmp_path / "in" / f"{index:02}.png", 300, 300)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cfsam_hf", "segment", tmp_path / "in", "-o", out, "--mpp", "0.25"]
    command += ["--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert [line for line in err.splitlines() if "has no colour" not in line] == [f"cfsam: {word}"]
    found = names(out)
    done = pd.read_csv(out / "summary.csv")["image"].unique().tolist()
    assert 3 <= len(done) < 40
    assert found == sorted(["summary.csv", *(Path(name).stem + suffix for name in done for suffix in SUFFIXES)])
