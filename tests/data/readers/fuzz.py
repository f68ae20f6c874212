"""Mutated annotation files and what must come of them: an answer, or an error that names the file.

`python -m tests.data.readers.fuzz --runs 10000` prints the figures; `test_fuzz.py` runs a few hundred.

Memory is measured for each file in two ways, and the larger counts: the peak of what Python and numpy allocate
(tracemalloc), and by how much the process's peak of resident memory (`VmHWM`, reset through `/proc/self/clear_refs`)
rises above what it held before, which also sees the buffers of Pillow, pyarrow and zlib. A file is due what its sound
original takes, and more in proportion where it is longer; twice that is allowed, and `FLOOR` for messages and pages.
The files of `SMALL` need less than the floor; with `--large`, each needs more, so that its own bound counts.
"""

import argparse
import json
import random
import re
import shutil
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cfsam_hf.data import list_tiles
from tests.data.readers.fuzz_kinds import KINDS, LARGE, SMALL, STRUCTURED, Kind, Scene

VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        1e308,
        -1e308,
        1e-308,
        float("nan"),
        float("inf"),
        2**31,
        2**63,
        2**64,
        10**30,
    ),
    *("", "x", "\0", "é", "../x", "1", [], {}, [[]], [None], {"a": 1}, [[[]]], [1, 2], [[0, 0], [9, 9], [0, 9]]),
)
NUMBERS = (b"0", b"-1", b"99999999999999999999", b"1e999", b"NaN", b"4294967296", b"-0.0", b"1.5")
SLOWEST = 20.0
"""Seconds of the processor that one file may take."""

FLOOR = 8 * 2**20
"""Bytes of memory below which a file of a few kilobytes is not measured against its original."""


CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Figures:
    """What came of the files.

    Attributes:
        answers, refusals: files by kind that were read, and that were refused.
        faults: everything else, a line each.
        slowest: seconds of the processor.
        largest: bytes of memory.
        due: bytes of memory that the sound file of each kind takes.
        share: the largest memory of a file of each kind, as a share of its due or of half of `FLOOR`.
    """

    answers: Counter = field(default_factory=Counter)
    refusals: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0
    due: dict[str, int] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)


class PeakMemory:
    """The memory that a block needs at most beyond what the process held before, in bytes."""

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        CLEAR.write_text("5") if CLEAR.exists() else None
        self._before = _status("VmRSS")
        tracemalloc.reset_peak()
        self._traced = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *error: object) -> None:
        traced = tracemalloc.get_traced_memory()[1] - self._traced
        self.bytes = max(traced, _status("VmHWM") - self._before if CLEAR.exists() else 0)


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) * 1024 if found else 0


def mutate(content: bytes, rng: random.Random, structured: bool) -> bytes:
    """Change a file in one to four places, as data (JSON) or as bytes."""
    for _ in range(rng.randint(1, 4)):
        if structured and rng.random() < 0.7:
            try:
                content = _mutate_json(json.loads(content), rng)
            except (ValueError, RecursionError):
                content = _mutate_bytes(content, rng)
        else:
            content = _mutate_bytes(content, rng)
    return content


def _mutate_json(value: object, rng: random.Random) -> bytes:
    places: list[tuple] = []
    stack = [value]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            places.append((node, key))
            stack.append(child)
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        node[key] = rng.choice(VALUES)
    elif action < 0.75:
        del node[key]
    elif action < 0.85 and isinstance(node[key], int | float):
        node[key] = node[key] * rng.choice((-1, 1e6, 1e300, 0, 0.1))
    else:
        other, place = rng.choice(places)
        node[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
    return json.dumps(value).encode()


def _mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return rng.randbytes(8)
    data = bytearray(content)
    start = rng.randrange(len(data))
    action = rng.randrange(7)
    if action == 0:
        data[start] ^= 1 << rng.randrange(8)
    elif action == 1:
        data[start] = rng.choice((0, 255, 127, 128, 32))
    elif action == 2:
        del data[start:]
    elif action == 3:
        del data[start : start + rng.randint(1, 40)]
    elif action == 4:
        data[start:start] = data[start : start + rng.randint(1, 40)] * rng.randint(1, 3)
    elif action == 5:
        data[start : start + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
    else:
        data[start : start + rng.randint(0, 3)] = rng.choice(NUMBERS)
    return bytes(data)


def run(runs: int, seed: int, names: tuple[str, ...] = tuple(KINDS), scene: Scene = SMALL) -> Figures:
    """Read `runs` mutated files, of each kind in turn."""
    rng, figures = random.Random(seed), Figures()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        originals = {}
        for name in names:
            (folder / name).mkdir()
            KINDS[name].make(folder / name, scene)
            originals[name] = (folder / name / KINDS[name].file).read_bytes()
            _read(KINDS[name], folder / name)
        tracemalloc.start()
        for name in names:
            with PeakMemory() as memory:
                _read(KINDS[name], folder / name)
            figures.due[name] = memory.bytes
        for number in range(runs):
            name = names[number % len(names)]
            content = mutate(originals[name], rng, name in STRUCTURED)
            longer = max(1.0, len(content) / len(originals[name]))
            _try(name, content, folder / name, f"{name} {seed}/{number}", figures, longer)
    finally:
        tracemalloc.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def _try(name: str, content: bytes, folder: Path, what: str, figures: Figures, longer: float) -> None:
    (folder / KINDS[name].file).write_bytes(content)
    start = time.process_time()
    with PeakMemory() as memory:
        _outcome(name, folder, what, figures)
    seconds, peak = time.process_time() - start, memory.bytes
    figures.slowest, figures.largest = max(figures.slowest, seconds), max(figures.largest, peak)
    due = max(figures.due[name] * longer, FLOOR / 2)
    figures.share[name] = max(figures.share.get(name, 0.0), peak / due)
    if seconds > SLOWEST:
        figures.faults.append(f"{what}: took {seconds:.1f} s")
    if peak > 2 * due:
        figures.faults.append(f"{what}: took {peak / 2**20:.1f} MiB, more than twice {due / 2**20:.1f}")


def _outcome(name: str, folder: Path, what: str, figures: Figures) -> None:
    kind = KINDS[name]
    path = folder / kind.file
    try:
        _read(kind, folder)
        figures.answers[name] += 1
    except (OSError, ValueError) as error:
        figures.refusals[name] += 1
        # A file that leads nowhere, such as a COCO file of images that are not there, is named as well.
        if path.name not in str(error):
            figures.faults.append(f"{what}: does not name the file: {type(error).__name__}: {error!s:.200}")
    except Exception as error:
        figures.faults.append(f"{what}: {type(error).__name__}: {error!s:.200}")


def _read(kind: Kind, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for record in list_tiles(kind.reader, folder, **kind.options):
            record.load()


def main() -> None:
    """Print the figures of many files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--large", action="store_true", help="files that need more memory than the floor")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    args = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    figures = run(args.runs, args.seed, tuple(args.kinds), LARGE if args.large else SMALL)
    read, refused = figures.answers.total(), figures.refusals.total()
    print(f"{args.runs:,} files: {read:,} read, {refused:,} refused, {len(figures.faults)} faults")
    print(", ".join(f"{name} {figures.answers[name]:,} / {figures.refusals[name]:,}" for name in args.kinds))
    print(f"slowest {figures.slowest:.2f} s, most memory {figures.largest / 2**20:.1f} MiB")
    print("memory due in KiB, and the most as a share of it or of half the floor:")
    print(", ".join(f"{name} {figures.due[name] / 1024:.0f}, {figures.share[name]:.2f}" for name in args.kinds))
    alike = Counter(re.sub(r" \d+/\d+|/tmp/\S+|\d+", "", line)[:140] for line in figures.faults)
    for line, count in alike.most_common(40):
        print(f"{count:5} {line}")
    for line in figures.faults[:20]:
        print(line)


if __name__ == "__main__":
    main()
