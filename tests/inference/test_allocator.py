"""Why: freed memory must be kept where the allocator can do so, and the settings of the user must win."""

import os
import platform
import subprocess
import sys

import pytest

from cfsam_hf.inference import allocator

GLIBC = platform.libc_ver()[0] == "glibc"
# Makes and frees a block of so many MB, and prints how many of them the process still holds.
HELD = """
import resource, runpy, sys
import numpy as np
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6
size = int(sys.argv[1]) * 125_000
for module in sys.argv[2:]:
    # By its path, since importing the package around it takes seconds.
    assert runpy.run_path(module)["keep_freed_memory"]()
before = resident()
np.ones(size)
print(round(resident() - before))
"""


def held(megabytes, *modules):
    environment = {name: value for name, value in os.environ.items() if name not in allocator.VARIABLES}
    command = [sys.executable, "-c", HELD, str(megabytes), *modules]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc has these settings")
def test_freed_memory_is_kept():
    assert held(40) < 10
    assert held(40, allocator.__file__) > 30


@pytest.mark.skipif(not GLIBC, reason="only glibc has these settings")
def test_blocks_larger_than_those_of_a_window_are_returned():
    assert held(100, allocator.__file__) < 10


@pytest.mark.parametrize("name", allocator.VARIABLES)
def test_what_the_user_has_chosen_stays(name, monkeypatch):
    for variable in allocator.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the library was asked"))
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("error", [OSError("no such library"), TypeError("a name is needed")])
def test_where_there_is_no_glibc_nothing_happens(error, monkeypatch):
    def load(name):
        raise error

    for variable in allocator.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", load)
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()


def test_the_command_asks_for_it_in_its_own_process_alone(monkeypatch):
    from cfsam_hf.commands import terminal as cli

    asked = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: asked.append(True))
    cli.main(["info"])
    assert asked == []
    monkeypatch.setattr(sys, "argv", ["cfsam", "info"])
    cli.main()
    assert asked == [True]
