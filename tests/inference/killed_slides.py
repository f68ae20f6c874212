"""Runs `cfsam segment` on a painted slide of many regions, in processes that are killed.

    python -m tests.inference.killed_slides segment SLIDE OUT [OPTION ...]    one run of the command
    python -m tests.inference.killed_slides moments SLIDE FOLDER NUMBER       runs killed at so many moments

The network is the painted one and regions are small; everything else is the command's own. Each region is noted in
`OUT.regions` when its file is complete. `moments` imports everything once and forks each run; the undisturbed one is
in `FOLDER/whole`, the others are in folders named by their moments. It prints a line of JSON for each: what was done
before, and what the resumed run did.
"""

import json
import mmap
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from cfsam_hf.commands import segment, terminal
from cfsam_hf.inference import slide_run
from cfsam_hf.inference.region_store import RegionStore

from .slide_cases import SIDE, painted_pipeline

OPTIONS = ("--tissue", "all", "--also", "labels")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
"""Audit events of what changes a folder, besides files opened for writing."""


def run(slide: Path, out: Path, *options: str) -> int:
    """The command, with the painted network and small regions; returns its exit status."""
    write = RegionStore.write

    def noted(store: RegionStore, region: Any, table: Any) -> None:
        write(store, region, table)
        with open(f"{out}.regions", "a") as file:
            file.write(f"{region.name}\n")

    RegionStore.write = noted
    segment.load_pipeline = lambda *_: painted_pipeline()
    slide_run.run_slides = partial(slide_run.run_slides, side=SIDE)
    return terminal.main(["segment", str(slide), "-o", str(out), *OPTIONS, *options])


def regions_of(out: Path) -> list[str]:
    """The regions that runs into a folder have completed, in that order."""
    notes = Path(f"{out}.regions")
    return notes.read_text().split() if notes.exists() else []


class Changes:
    """Counts how often forked processes change a folder, and kills one of them at a chosen change.

    Args:
        out: the folder; renaming and removing count wherever they happen.
    """

    def __init__(self, out: Path):
        self._out = out
        self._shared = mmap.mmap(-1, 8)
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The changes so far."""
        return int.from_bytes(self._shared[:8], "little")

    def watch(self, last: int | None) -> None:
        """Begins to count, in this process, and kills it before its change number `last`."""

        def see(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                changes = isinstance(path, str | Path) and str(path).startswith(f"{self._out}/") and flags & WRITES
            else:
                changes = event in CHANGES
            if changes:
                with self._lock:
                    self._shared[:8] = (self.count + 1).to_bytes(8, "little")
                    if self.count == last:
                        os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(see)


def forked(slide: Path, out: Path, *options: str, last: int | None = None) -> tuple[int, int]:
    """A run in a process of its own: its exit status, negative for a signal, and how often it changed the folder."""
    changes = Changes(out)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with open(os.devnull, "w") as silent:
                os.dup2(silent.fileno(), 1)
            changes.watch(last)
            status = run(slide, out, *options)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), changes.count


def moments(slide: Path, folder: Path, number: int) -> None:
    """Kills runs at moments that are spread evenly over the changes of a whole run, and resumes each."""
    _, total = forked(slide, folder / "whole")
    for last in sorted({1 + round(index * (total - 1) / (number - 1)) for index in range(number)}):
        out = folder / str(last)
        killed, _ = forked(slide, out, last=last)
        before = regions_of(out)
        resumed, _ = forked(slide, out, "--resume")
        after = regions_of(out)[len(before) :]
        print(
            json.dumps({"moment": last, "statuses": [killed, resumed], "before": before, "after": after}), flush=True
        )


if __name__ == "__main__":
    what, slide, out, *options = sys.argv[1:]
    if what == "segment":
        sys.exit(run(Path(slide), Path(out), *options))
    moments(Path(slide), Path(out), int(options[0]))
