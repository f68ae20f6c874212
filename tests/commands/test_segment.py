"""Why: a folder of images must be done whole, whatever lies in it, with every file complete and every failure told."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.inference.done import RECORD_NAME

from ..export_cases import label_components, make_result
from ..model.test_pipeline import overlap, painted_pipeline, timed

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
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != RECORD_NAME)


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
    assert lines[-1] == "cfsam: 4 of 7 images could not be done"


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

    monkeypatch.setattr(segment, "write_table", full)
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


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path, calls, capsys):
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


def test_warnings_are_lines_and_told_once(tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize("ending", [*SUFFIXES, "_coco.json"])
def test_files_of_others_are_not_replaced(ending, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    other = tmp_path / f"a{ending}"
    other.write_text("drawn by hand")
    assert run(tmp_path / "a.png", "-o", tmp_path) == 1
    assert "was not written by cfsam" in capsys.readouterr().err
    assert other.read_text() == "drawn by hand"
    assert names(tmp_path) == sorted(["a.png", other.name])


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


def test_segment_needs_one_source(capsys):
    for arguments in (["-o", "out"], ["--demo", "x.png", "-o", "out"]):
        with pytest.raises(SystemExit, match="2"):
            run(*arguments)
    assert "--demo" in capsys.readouterr().err


def read_calls(monkeypatch):
    """The files that are read from here on."""
    read, real = [], segment.read_rgb

    def record(path, *arguments, **options):
        read.append(Path(path).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(segment, "read_rgb", record)
    return read


def test_resume_does_what_is_missing_or_not_current(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abcdef":
        write_image(folder / f"{name}.png")
    assert run(folder, "-o", out, "--mpp", 0.25, "--resume") == 0
    read = read_calls(monkeypatch)
    assert run(folder, "-o", out, "--mpp", 0.25, "--resume") == 0
    assert read == []
    assert "6 of 6 images are done already" in capsys.readouterr().out

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
    monkeypatch.setattr(segment, "__version__", "9.9")
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
    with open(out / RECORD_NAME, "a") as record:
        record.write('{"target": "c", "sou')
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
    assert "summary of 2 images (1 of earlier runs)" in capsys.readouterr().out
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["b.png", "a.png"]
    # An image whose results were removed is no longer in it.
    (out / "a.geojson").unlink()
    assert run(tmp_path / "b.png", "-o", out) == 0
    assert pd.read_csv(out / "summary.csv")["image"].unique().tolist() == ["b.png"]


def test_a_summary_of_others_is_not_replaced(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_text("case,grade\n1,3\n")
    assert run(write_image(tmp_path / "a.png"), "-o", out) == 1
    assert "summary.csv is there and was not written by cfsam" in capsys.readouterr().err
    assert names(out) == ["summary.csv"]


def test_inputs_that_are_missing_are_counted(tmp_path, capsys):
    image = write_image(tmp_path / "a.png")
    assert run(image, tmp_path / "b.png", tmp_path / "c.png", "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "cfsam: 2 of 3 images could not be done"


def test_images_are_read_and_written_while_the_network_works(tmp_path, monkeypatch, capsys):
    network, reading, writing = [], [], []
    pipe = painted_pipeline()
    monkeypatch.setattr(pipe, "_tile_maps", timed(network, pipe._tile_maps))
    monkeypatch.setattr(segment, "read_rgb", timed(reading, segment.read_rgb))
    monkeypatch.setattr(segment, "write_outputs", timed(writing, segment.write_outputs))
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
    for index in range(8):
        write_image(tmp_path / "in" / f"{index}.png")
    arguments = ["--mpp", 0.25, "--batch-size", 1, "--no-overlay", "--verbose"]
    assert run(tmp_path / "in", "-o", tmp_path / "out", *arguments) == 0
    assert overlap(reading, network) >= 4
    assert overlap(writing, network) >= 4
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
    assert errors[-1] == "cfsam: 3 of 5 images could not be done"


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_all_threads_and_leaves_whole_files(tmp_path):
    from skimage import data

    for index in range(40):
        (tmp_path / "in").mkdir(exist_ok=True)
        PIL.Image.fromarray(data.immunohistochemistry()).save(tmp_path / "in" / f"{index:02}.png")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "cfsam_hf",
        "segment",
        tmp_path / "in",
        "-o",
        out,
        "--mpp",
        "0.25",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert err == "cfsam: interrupted\n"
    found = names(out)
    done = pd.read_csv(out / "summary.csv")["image"].unique().tolist()
    assert 3 <= len(done) < 40
    assert found == sorted(["summary.csv", *(Path(name).stem + suffix for name in done for suffix in SUFFIXES)])
