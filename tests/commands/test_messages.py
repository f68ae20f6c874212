"""Why: an error must be one line, in the words of the command or at the end of a script."""

import ast
import runpy
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from cfsam_hf.commands.messages import DEBUG_VARIABLE, describe, errors_in_one_line, one_line, printable
from cfsam_hf.commands.terminal import say

from .. import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def test_errors_are_described_in_one_line():
    assert describe(FileNotFoundError(2, "No such file or directory", "a\nb")) == "a\\nb: No such file or directory"
    assert describe(OSError("two\n  lines")) == "two lines"
    assert describe(ValueError()) == "ValueError"
    assert describe(KeyError("x")) == "unexpected KeyError: 'x'"
    assert describe(KeyError("x"), " (see there)") == "unexpected KeyError: 'x' (see there)"
    assert "memory" in describe(MemoryError())


# Escape sequences, a carriage return, writing from right to left, line breaks, invisible letters, no text at all.
HOSTILE = ("\x1b]0;title\x07", "\x1b[2K\rb", "\x9b31m", "\u202egnp.exe", "\n", "\x7f", "\u2028", "\udcff", "\u200b")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_outside_cannot_steer_the_terminal(name, capsys):
    shown = one_line(name)
    assert shown.isprintable()
    assert shown.encode()
    assert "\\" in shown
    assert printable(f"{name}\nnext").endswith("\nnext")
    assert all(map(str.isprintable, printable(name).split("\n")))
    say(f"error: {name}")
    say(f"error: {describe(ValueError(name))}")
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    # Letters of all languages stay as they are.
    assert one_line("Zellkerne µm 細胞核 é") == "Zellkerne µm 細胞核 é"


def test_a_script_ends_with_one_line(monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["examples/tune.py", "--tiles", "0"])
    with pytest.raises(SystemExit) as stop, errors_in_one_line():
        raise ValueError("tiles must be\n positive, got 0")
    assert stop.value.code == "tune.py: error: tiles must be positive, got 0 (CFSAM_DEBUG=1 shows where)"
    # Other errors keep their traceback, those of worker processes the one they bring, and all where it is asked for.
    with pytest.raises(KeyError), errors_in_one_line():
        raise KeyError("x")
    with pytest.raises(ValueError, match="Traceback"), errors_in_one_line():
        list(DataLoader(Broken(), num_workers=1))
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="positive"), errors_in_one_line():
        raise ValueError("tiles must be positive, got 0")


class Broken(Dataset):
    """A data set that no worker can read."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError(f"item {index} is broken")


SCRIPTS = sorted(path for path in EXAMPLES.rglob("*.py") if path.parent.name != "space")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_example_ends_so(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body):
        pytest.skip("not a script")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # evaluate.py is the command itself.
    assert "errors_in_one_line" in used or "cfsam_hf.commands.terminal" in path.read_text(encoding="utf-8")


def test_wrong_input_of_a_whole_script(tmp_path, monkeypatch, capsys):
    """The script runs as a program does, but in this process, which has the libraries already."""
    script = str(EXAMPLES / "tools" / "drop_types.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "missing"), str(tmp_path / "out")])
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(script, run_name="__main__")
    # Python prints a text on stderr and exits with status 1.
    [line] = stopped.value.code.splitlines()
    assert line.startswith("drop_types.py: error: ")
    assert "missing: there is no such folder" in line
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "out").exists()
