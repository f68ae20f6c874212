"""Mutated slides and what must come of them: pixels, or an error that names the file; no crash, no hang.

`python -m tests.slides.fuzz --runs 2000` prints the figures; `test_fuzz.py` runs a few. Slides are opened in processes
of their own, so that a decoder that crashes is noticed and does not end the run.
"""

import argparse
import multiprocessing
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tifffile

from cfsam_hf.slides import find_tissue, open_slide

from .slide_files import WRITERS, picture_levels, write_slide

BATCH = 25
LONGEST = 60.0
"""Seconds without an answer that count as a hang."""
WORDS = (0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass
class Figures:
    """What came of the slides: counts, the faults in words, and the longest time in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def make_seeds(folder: Path) -> dict[str, tuple[bytes, list[int]]]:
    """The files to be mutated: content, and where their structure lies, which is worth more mutations."""
    seeds = {}
    levels = picture_levels(width=256, height=256)
    for kind in WRITERS:
        path = write_slide(kind, folder / f"{kind.replace(', ', '_').replace(' ', '_')}.tif", levels)
        content = path.read_bytes()
        places = [0]
        if kind != "DICOM":
            with tifffile.TiffFile(path) as tiff:
                places += [page.offset for page in tiff.pages]
                places += [tag.valueoffset for page in tiff.pages for tag in page.tags.values()]
                places += [offset for page in tiff.pages for offset in page.dataoffsets[:2]]
        seeds[kind] = (content, places)
    return seeds


def mutate(content: bytes, places: list[int], random_: random.Random) -> bytes:
    """The content with one to four faults."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        near = random_.random() < 0.7
        place = (random_.choice(places) + random_.randint(0, 300)) if near else random_.randrange(len(data))
        place = min(place, len(data) - 1)
        kind = random_.randrange(6)
        if kind == 0:
            data[place] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[place] = random_.randrange(256)
        elif kind == 2:
            data[place : place + 4] = random_.choice(WORDS).to_bytes(4, random_.choice(("little", "big")))
        elif kind == 3:
            length = random_.choice((2, 16, 256))
            data[place : place + length] = bytes(length)
        elif kind == 4:
            source = random_.randrange(len(data))
            length = random_.choice((4, 12, 64))
            data[place : place + length] = data[source : source + length]
        elif random_.random() < 0.3:
            del data[max(place, 8) :]
    return bytes(data)


def read_all(path: Path) -> str:
    """Reads from every level and finds tissue; "read", "refused", or what is wrong with the answer."""
    try:
        with open_slide(path) as slide:
            width, height = slide.size
            for number, level in enumerate(slide.levels):
                slide.read_level(number, level.width - 200, level.height - 150, 220, 170)
            slide.read_scaled(0, 0, 100, 100, (2.5, 2.5))
            for name in slide.associated:
                slide.read_associated(name)
            if width * height < 4_000_000:
                find_tissue(slide)
        return "read"
    except (OSError, ValueError) as error:
        text = str(error)
        if path.name not in text or "\n" in text:
            return f"message without the name: {text!r}"
        return "refused"
    except Exception:
        return traceback.format_exc(limit=-3)


def _work(paths: list[Path], answers: Connection) -> None:
    np.seterr(all="ignore")
    for path in paths:
        answers.send(read_all(path))


def run(runs: int, seed: int = 0) -> Figures:
    """Reads `runs` mutated slides, as many of each kind."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        for first in range(0, runs, BATCH):
            batch = list(_mutants(Path(folder), seeds, range(first, min(first + BATCH, runs)), seed))
            _read_batch(batch, figures)
            for path in batch:
                path.unlink()
    return figures


def _mutants(folder: Path, seeds: dict[str, tuple[bytes, list[int]]], numbers: range, seed: int) -> Iterator[Path]:
    kinds = list(seeds)
    for number in numbers:
        kind = kinds[number % len(kinds)]
        path = folder / f"{kind.replace(', ', '_').replace(' ', '_')}-{number}.bin"
        path.write_bytes(mutate(*seeds[kind], random.Random(f"{seed}-{number}")))
        yield path


def _read_batch(paths: list[Path], figures: Figures) -> None:
    """Reads slides in a process, and in a new one after a crash or a hang."""
    context = multiprocessing.get_context("fork")
    while paths:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(paths, sender))
        process.start()
        sender.close()
        done = 0
        try:
            for path in paths:
                started = time.monotonic()
                if not receiver.poll(LONGEST):
                    figures.faults.append(f"{path.name}: hangs")
                    break
                answer = receiver.recv()
                figures.slowest = max(figures.slowest, time.monotonic() - started)
                done += 1
                if answer in ("read", "refused"):
                    figures.outcomes[answer] += 1
                else:
                    figures.faults.append(f"{path.name}: {answer}")
        except EOFError:
            process.join()
            figures.faults.append(f"{paths[done].name}: the process ended with {process.exitcode}")
        process.kill()
        process.join()
        paths = paths[done + 1 :] if done < len(paths) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    figures = run(options.runs, options.seed)
    for fault in figures.faults:
        print(fault)
    print(
        f"{options.runs} slides of {len(WRITERS)} kinds: {dict(figures.outcomes)}, {len(figures.faults)} faults, "
        f"slowest {figures.slowest:.1f} s, {time.monotonic() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main()
