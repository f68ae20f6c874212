"""Memory and time of a whole slide of which little is tissue.

    python examples/benchmarks/benchmark.py sparse --size 60192 --tissue 0.05

A square piece of the slide that comes with the package, at 0.25 um per pixel, is repeated in square blocks on an
otherwise empty slide: a pyramid of JPEG tiles in a BigTIFF, where tiles without tissue are left out. `cfsam_hf` then
segments the slide as the command does, in a process of its own. The output states

- that process's highest resident memory (it starts no others);
- the seconds of CPU time for opening the slide and finding its tissue, for the regions (with finding it again), and
  for the outputs;
- the part of the time of the regions that is the network's, and on how many windows it ran.

The maps of windows with the same pixels are remembered in a folder, so that the network itself runs on few of them;
`--all-windows` runs it on each. Choose `--size` as 576 + n * 432 so that windows repeat as the piece does.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile

MPP = 0.25
# The tiles of the TIFF, and the distance between windows; a piece is so many of them wide.
TILE, PIECE_TILES = 432, 3
# Left and top of the piece on the slide that comes with the package: dermis and epidermis.
PIECE_ORIGIN = (1000, 1700)
BLOCKS_PER_SIDE = 2
DOWNSAMPLES = (1, 4, 16)


def block_tiles(size: int, share: float) -> np.ndarray:
    """Which tiles (n, n) of the largest level hold tissue: square blocks, spread over the slide."""
    count = -(-size // TILE)
    side = round(np.sqrt(share * size * size / BLOCKS_PER_SIDE**2) / (TILE * PIECE_TILES)) * PIECE_TILES
    if side == 0:
        raise ValueError(
            f"{share:g} of {size} px squared is less than a piece of {TILE * PIECE_TILES} px in each block"
        )
    filled = np.zeros((count, count), dtype=bool)
    # Blocks begin at multiples of the piece, so that all show the same windows.
    step = count // BLOCKS_PER_SIDE // PIECE_TILES * PIECE_TILES
    for top in range(PIECE_TILES, BLOCKS_PER_SIDE * step, step):
        for left in range(PIECE_TILES, BLOCKS_PER_SIDE * step, step):
            filled[top : top + side, left : left + side] = True
    return filled


def write_slide(path: Path, size: int, share: float) -> float:
    """Writes the slide and returns the share of its tiles that hold tissue."""
    from cfsam_hf.slides import demo_slide, open_slide

    side = TILE * PIECE_TILES
    with open_slide(demo_slide()) as slide:
        piece = slide.read_region(*PIECE_ORIGIN, side, side, mpp=MPP)
    filled = block_tiles(size, share)

    def tiles(downsample: int) -> Iterator[bytes]:
        small = cv2.resize(piece, (side // downsample,) * 2, interpolation=cv2.INTER_AREA)
        shown = np.tile(small, (downsample, downsample, 1))
        encoded: dict[bytes, bytes] = {}
        count = -(-(size // downsample) // TILE)
        for row, column in np.ndindex(count, count):
            part = filled[row * downsample : (row + 1) * downsample, column * downsample : (column + 1) * downsample]
            if not part.any():
                yield b""
                continue
            top, left = row % PIECE_TILES * TILE, column % PIECE_TILES * TILE
            key = bytes([row % PIECE_TILES, column % PIECE_TILES, *part.shape]) + part.tobytes()
            if key not in encoded:
                pixels = np.full((TILE, TILE, 3), 255, np.uint8)
                step = TILE // downsample
                tissue = np.repeat(np.repeat(part, step, axis=0), step, axis=1)
                covered = pixels[: len(tissue), : tissue.shape[1]]
                covered[tissue] = shown[top : top + len(tissue), left : left + tissue.shape[1]][tissue]
                encoded[key] = imagecodecs.jpeg_encode(pixels, level=90)
            yield encoded[key]

    per_centimetre = 10_000 / MPP
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for downsample in DOWNSAMPLES:
            writer.write(
                tiles(downsample),
                shape=(size // downsample, size // downsample, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(per_centimetre / downsample,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(downsample > 1),
                metadata=None,
            )
    return float(filled.mean())


def measure(path: Path, folder: Path, remember: bool) -> dict[str, Any]:
    """Segments the slide in this process, as the command does."""
    from regions import RememberedMaps

    from cfsam_hf.commands.loading import load_pipeline
    from cfsam_hf.inference import Job, RunRecord
    from cfsam_hf.inference.allocator import keep_freed_memory
    from cfsam_hf.inference.run import Failed
    from cfsam_hf.inference.slide_run import SlideDone, SlideProgress, run_slides
    from cfsam_hf.inference.slide_sink import SlideSink
    from cfsam_hf.inference.slide_source import SlideSource
    from cfsam_hf.slides import find_tissue, open_slide

    keep_freed_memory()
    pipe = load_pipeline(None, "cpu")
    predict, network = pipe._tile_maps, {"windows": 0, "seconds": 0.0}

    def timed(*arguments: Any) -> Any:
        began = time.thread_time()
        maps = predict(*arguments)
        network["windows"] += 1
        network["seconds"] += time.thread_time() - began
        return maps

    pipe._tile_maps = timed
    regions = 0
    if remember:
        RememberedMaps(pipe, folder)
    began = time.process_time()
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
    found = time.process_time()
    out = folder / "out"
    out.mkdir()
    job = Job(SlideSource(path, path.name), PurePath("sparse"))
    record: dict[str, Any] = {}
    with RunRecord(out) as run_record, closing(run_slides([job], pipe, SlideSink(out), run_record)) as outcomes:
        last = time.process_time()
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error
            if isinstance(outcome, SlideProgress):
                last, regions = time.process_time(), outcome.total_regions
            if isinstance(outcome, SlideDone):
                record = dict(outcome.record)
    ended = time.process_time()
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "nuclei": record["nuclei"],
        "tissue_mm2": round(record["tissue_area_mm2"], 3),
        "found_mm2": round((tissue.area_um2 or 0) / 1e6, 3),
        "regions": regions,
        "network_windows": network["windows"],
        "cpu_seconds_tissue": round(found - began, 1),
        "cpu_seconds_regions": round(last - found, 1),
        "cpu_seconds_network": round(network["seconds"], 1),
        "cpu_seconds_outputs": round(ended - last, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=60_192, help="side of the slide in pixels")
    parser.add_argument("--tissue", type=float, default=0.05, metavar="SHARE", help="share of the slide with tissue")
    parser.add_argument("--all-windows", action="store_true", help="run the network on every window")
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.slide is not None:
            print(json.dumps(measure(args.slide, folder, not args.all_windows)))
            return
        path = folder / "sparse.tif"
        share = write_slide(path, args.size, args.tissue)
        print(f"{args.size} px squared, {100 * share:.2f} % tissue, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        command = [sys.executable, sys.argv[0], "sparse", "--slide", str(path)]
        command += ["--all-windows"] if args.all_windows else []
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for title, value in figures.items():
            print(f"{title:20} {value}")
