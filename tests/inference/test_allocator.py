"""Why: freed memory must be kept where the allocator can do so, and the settings of the user must win."""

import os
import platform
import subprocess
import sys

import pytest

from cfsam_hf.inference import allocator

GLIBC = platform.libc_ver()[0] == "glibc"
# Makes and frees so many MB some times, and counts the pages that the kernel had to clear.
PAGES = """
import resource, runpy, sys
import numpy as np
size = int(sys.argv[1]) * 125_000
for module in sys.argv[2:]:
    # By its path, since importing the package around it takes seconds.
    assert runpy.run_path(module)["keep_freed_memory"]()
np.ones(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(megabytes, *modules):
    environment = {name: value for name, value in os.environ.items() if name not in allocator.VARIABLES}
    command = [sys.executable, "-c", PAGES, str(megabytes), *modules]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc has these settings")
def test_freed_memory_is_kept():
    # With pages of 4 KiB 9,766 each time; large pages are possible.
    assert pages(40, allocator.__file__) * 10 < pages(40) + 1000


@pytest.mark.skipif(not GLIBC, reason="only glibc has these settings")
def test_blocks_larger_than_those_of_a_window_are_returned():
    assert pages(100, allocator.__file__) * 2 > pages(100) > 0


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
