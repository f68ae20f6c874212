"""Why: the command must answer wrong usage, `--version` and `--help` at once, and never with a traceback."""

import os
import re
import signal
import subprocess
import sys

import pytest

import cfsam_hf
from cfsam_hf import commands
from cfsam_hf.commands import info
from cfsam_hf.commands import terminal as cli
from cfsam_hf.files.atomic import staged_folder


def test_module_and_version():
    command = [sys.executable, "-m", "cfsam_hf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"cfsam_hf {cfsam_hf.__version__}\n")


# What a person types who does not know the command yet, and what is answered without a model.
QUICK = (["--help"], ["--version"], ["segment", "--help"], ["data", "check", "--help"], ["segment", "--nonsense"], [])
QUICK_CODE = """
import sys
from cfsam_hf.commands.terminal import main
for arguments in {arguments}:
    try:
        main(arguments)
    except SystemExit:
        pass
print("imported:", *(name for name in ("torch", "transformers", "numpy", "pandas") if name in sys.modules))
"""


def test_help_and_usage_errors_import_no_network():
    code = QUICK_CODE.format(arguments=list(QUICK))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr


NEW_COMMAND = """
from cfsam_hf.commands.terminal import UsageError

def add_parser(subparsers):
    parser = subparsers.add_parser("wave", help="raise a hand")
    parser.add_argument("--hands", type=int, default=1)
    parser.set_defaults(run=run)

def run(args):
    if args.hands > 2:
        raise UsageError("--hands: people have two")
    if args.hands < 0:
        raise ValueError("no such hand")
    return 40 + args.hands
"""


def test_a_new_command_is_one_new_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "wave.py").write_text(NEW_COMMAND)
    (tmp_path / "no_command.py").write_text("")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert cli.main(["wave", "--hands", "2"]) == 42
    assert cli.main(["wave", "--hands", "-1"]) == cli.EXIT_FAILED
    assert capsys.readouterr().err == "cfsam: error: no such hand\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["wave", "--hands", "3"])
    assert re.search("usage: cfsam wave.*\ncfsam wave: error: --hands: people", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert "raise a hand" in capsys.readouterr().out


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
