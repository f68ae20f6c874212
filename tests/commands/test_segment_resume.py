"""Why: `--resume` must skip exactly the images whose results are complete and current."""

import json
import os

import pandas as pd
import pytest
import torch

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.inference import record
from cfsam_hf.inference import run as runs
from cfsam_hf.inference.record import MERGED_NAME, RECORDS_NAME

from ..painted_model import painted_pipeline
from ..segment_cases import read_calls, run, threshold_pipeline, write_image

pytestmark = pytest.mark.usefixtures("calls")


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
        *(["--also", "csv"], ["--page", 1], ["--style", "monuseg"]),
    ],
)
def test_resume_does_all_again_for_other_options(options, tmp_path, monkeypatch):
    image = write_image(tmp_path / "a.png")

    def pipe(image, **given):
        return threshold_pipeline(image)

    pipe.device = torch.device("cpu")
    monkeypatch.setattr(segment, "load_pipeline", lambda *wanted: pipe)
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
