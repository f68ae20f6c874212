"""Why: reading, network and writing overlap; no error and no signal may mix up results or leave half of them."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from cfsam_hf.commands import segment
from cfsam_hf.commands import terminal as cli
from cfsam_hf.inference import sink, sources

from ..painted_model import painted_pipeline
from ..segment_cases import SUFFIXES, names, run, threshold_pipeline, write_image

pytestmark = pytest.mark.usefixtures("calls")


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
