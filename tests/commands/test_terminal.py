"""Why: the command must answer wrong use, version and help at once, and never with a traceback."""

import os
import signal
import subprocess
import sys

import pytest

import cfsam_hf
from cfsam_hf.commands import info
from cfsam_hf.commands import terminal as cli
from cfsam_hf.files.atomic import staged_folder


def test_module_and_version():
    command = [sys.executable, "-m", "cfsam_hf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"cfsam_hf {cfsam_hf.__version__}\n")


def test_help_names_the_commands_and_segments_outputs(capsys):
    for arguments, words in (
        (["--help"], ["segment", "info"]),
        (["segment", "--help"], ["_instances.tif", "summary.csv"]),
    ):
        with pytest.raises(SystemExit, match="0"):
            cli.main(arguments)
        out = capsys.readouterr().out
        assert all(word in out for word in words)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["segment"],
        ["segment", "a.png"],
        ["segment", "a.png", "-o", "out", "--mpp", "0"],
        ["segment", "a.png", "-o", "out", "--mpp", "nan"],
        ["segment", "a.png", "-o", "out", "--mpp", "inf"],
        ["segment", "a.png", "-o", "out", "--batch-size", "1.5"],
        ["segment", "a.png", "-o", "out", "--also", "yaml"],
    ],
)
def test_wrong_use_is_told_and_is_status_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: cfsam" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "find the nuclei in images" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(monkeypatch, capsys):
    def print_much(*_):
        while True:
            print("x" * 99, flush=True)

    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(info, "run", print_much)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(cli.sys, "stdout", pipe)
        assert cli.main(["info"]) == cli.EXIT_FAILED
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def half_written(folder, number):
    """Stands in for the command's work: writes half of its files, then the signal comes."""

    def work(*_):
        with staged_folder(folder) as stage:
            (stage / "half").write_text("x")
            signal.raise_signal(number)

    return work


@pytest.mark.usefixtures("interruptible")
def test_interrupting_cleans_up_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(info, "run", half_written(tmp_path, signal.SIGINT))
    assert cli.main(["info"]) == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "cfsam: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_terminating_cleans_up_and_says_so(tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(info, "run", half_written(tmp_path, signal.SIGTERM))
    with pytest.raises(SystemExit, match=str(cli.EXIT_TERMINATED)):
        cli.main(["info"])
    assert capsys.readouterr().err == "cfsam: terminated\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
