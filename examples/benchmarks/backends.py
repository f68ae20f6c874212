"""Times the network of a checkpoint in each installed runtime on a CPU, in turn in one process, as ratios to torch.

    python examples/benchmarks/benchmark.py backends --threads 1
    python examples/benchmarks/benchmark.py backends --checkpoint FOLDER --threads 2 --rounds 11
    python examples/benchmarks/benchmark.py backends --int8 TILES

The table has medians for one window: CPU time of the process, which other work on the machine hardly changes, wall
time, how many times as fast as torch each is by either, the largest and the mean difference of its maps from torch's,
and the CPU time to get ready: to load the file, and to compile it for the window. The conversion itself is timed above
the table. With images for `--int8`, the runtimes also run the network in int8, and the window is cut from the first
image instead of drawn at random.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cfsam_hf import export_onnx
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.tables import markdown_table
from cfsam_hf.inference.backends import BACKENDS, OnnxFacts, load_network
from cfsam_hf.model.maps import stack_maps
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.tiling import Window, cut_window

Clock = Callable[[], float]
CLOCKS: tuple[Clock, Clock] = (time.process_time, time.perf_counter)


def networks(
    pipe: NucleiSegmentationPipeline, files: dict[str, Path], names: list[str], pixels: np.ndarray
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, float]]:
    """What computes the maps of the pixels in each runtime that is installed, and the seconds that it took to load.

    Args:
        pipe: the pipeline.
        files: the exported networks, by what the table calls them.
        names: of the backends.
        pixels: (1, 3, H, W) float32.
    """

    def torchs() -> np.ndarray:
        with torch.inference_mode():
            return stack_maps(pipe.model(torch.from_numpy(pixels))).numpy()

    found: dict[str, Callable[[], np.ndarray]] = {"torch": torchs}
    seconds, styles = {"torch": 0.0}, np.zeros(len(pixels), dtype=np.int64)
    for (kind, file), name in itertools.product(files.items(), names):
        if name == "torch":
            continue
        began = time.process_time()
        try:
            network = load_network(name, file, OnnxFacts.read(file))
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        network(pixels, styles)
        title = f"{name}, {kind}"
        seconds[title] = time.process_time() - began
        found[title] = lambda network=network: network(pixels, styles)
    return found, seconds


def noise(side: int) -> np.ndarray:
    """A window of random pixels, (1, 3, side, side)."""
    return np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)


def window_of(pipe: NucleiSegmentationPipeline, image: str | Path, side: int) -> np.ndarray:
    """The upper left corner of an image as the network sees it, (1, 3, side, side)."""
    window = Window(0, 0, side)
    return pipe.image_processor.pixel_values(cut_window(pipe.preprocess(image).image, window)[None])


def timings(runs: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, list[float]]:
    """Median seconds of each run by each clock, measured in turn."""
    spent: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = [clock() for clock in CLOCKS]
            run()
            spent[name].append([clock() - start for clock, start in zip(CLOCKS, began, strict=True)])
    return {name: [statistics.median(values) for values in zip(*rows, strict=True)] for name, rows in spent.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default=None, help="bundled checkpoint, folder or Hub id (default: cfsam-tiny)"
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="default: all")
    parser.add_argument("--int8", nargs="+", metavar="IMAGE", help="also measure int8, calibrated on these images")
    parser.add_argument("--pixels", type=int, default=576, help="side of the window (default: 576)")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each (default: 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    pipe = load_pipeline(args.checkpoint, "cpu")
    images = [
        path for text in args.int8 or () for path in (sorted(Path(text).iterdir()) if Path(text).is_dir() else [text])
    ]
    pixels = window_of(pipe, images[0], args.pixels) if images else noise(args.pixels)
    print(f"windows of {args.pixels} px, {args.threads} threads, medians of {args.rounds} rounds; ", end="")
    print(environment("cpu")["hardware"])
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        files = {"float32": export_onnx(pipe, Path(folder) / "network.onnx")}
        if images:
            files["int8"] = export_onnx(pipe, Path(folder) / "int8.onnx", int8_images=images)
        sizes = ", ".join(f"{kind} {file.stat().st_size / 1e6:.1f} MB" for kind, file in files.items())
        print(f"conversion: {time.process_time() - began:.0f} s of CPU time; {sizes}\n")
        runs, ready = networks(pipe, files, args.backends, pixels)
        maps = {name: run() for name, run in runs.items()}
        seconds = timings(runs, args.rounds)
    rows = [
        [
            name,
            *(f"{1000 * value:.0f} ms" for value in seconds[name]),
            *(f"{own / value:.2f}" for own, value in zip(seconds["torch"], seconds[name], strict=True)),
            f"{np.abs(maps[name] - maps['torch']).max():.1g}",
            f"{np.abs(maps[name] - maps['torch']).mean():.1g}",
            f"{ready[name]:.1f} s",
        ]
        for name in runs
    ]
    titles = [
        "backend",
        "CPU time",
        "wall time",
        "torch's CPU time / its",
        "torch's wall time / its",
        "largest difference",
        "mean difference",
        "ready",
    ]
    print("\n".join(markdown_table(titles, rows)))


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
