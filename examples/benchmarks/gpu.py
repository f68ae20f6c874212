"""Everything about this package's speed on a GPU in one command of at most eight minutes, as one JSON file.

    python examples/benchmarks/gpu.py gpu.json                       # on the GPU of this machine
    python examples/benchmarks/gpu.py small.json --device cpu --miniature    # the same in seconds, without a GPU

Nothing here has been measured on a GPU yet; on a CPU the file shows only that the command works. It contains

- equality: the largest difference between the maps on the device and on the CPU, for each precision, and how many
  nuclei of a tissue picture are the same;
- networks: mm2/s of the network for both forms of cfsam-tiny, SAM-B, SAM-L and SAM-H (random weights), by precision
  and by way of execution (plain, `torch.compile` with CUDA graphs), with peak memory;
- pipeline: mm2/s from an image in memory to its nuclei, and the share of the time in which the network waited;
- training: seconds and peak memory of a step of cfsam-tiny.

What does not fit into the time is left out and named in `skipped`; what fails is named with its error.
"""

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from skimage import data

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.files.json_files import write_json
from cfsam_hf.metrics import matched_nuclei
from cfsam_hf.model.accelerator import AcceleratorNetwork
from cfsam_hf.training import tiny_config

BUDGET_S = 8 * 60.0
RECIPE = Path(__file__).parents[1] / "recipes/cfsam_tiny_long.yaml"
TINY_FORMS = ("tiny", "tiny, long run's form")
# SAM's encoders: width, layers, heads, layers with global attention.
ENCODERS = {
    "B": (768, 12, 12, (2, 5, 8, 11)),
    "L": (1024, 24, 16, (5, 11, 17, 23)),
    "H": (1280, 32, 16, (7, 15, 23, 31)),
}
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Stopwatch:
    """The time that is left, and what was left out."""

    def __init__(self, budget: float):
        self.end, self.skipped, self.failed = time.monotonic() + budget, [], {}

    def has_time_for(self, name: str, seconds: float) -> bool:
        """Whether a measurement of about this length still fits; if not, it is noted."""
        if time.monotonic() + seconds < self.end:
            return True
        self.skipped.append(name)
        return False

    @contextlib.contextmanager
    def noting_failure(self, name: str) -> Iterator[None]:
        """Notes an error, such as memory that does not suffice, under this name; the other measurements go on."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            self.failed[name] = " ".join(str(error).split())[:300]


def make_model(size: str, miniature: bool) -> CfSamForNucleiSegmentation:
    """A network with random weights; in miniature two narrow layers stand for each of SAM's encoders."""
    torch.manual_seed(0)
    if size in TINY_FORMS:
        options = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["model_options"] if size == TINY_FORMS[1] else {}
        return CfSamForNucleiSegmentation(tiny_config(**{"num_types": 4, **options})).eval()
    width, layers, heads, levels = (32, 2, 2, (0, 1)) if miniature else ENCODERS[size]
    vision = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return CfSamForNucleiSegmentation(
        CfSamConfig(vision_config={**vision, "global_attn_indexes": list(levels)}, num_types=5)
    ).eval()


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of some work, after two calls to warm up; the device has finished at the end of each."""
    times = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


@contextlib.contextmanager
def peak_memory(device: torch.device, record: dict[str, Any]) -> Iterator[None]:
    """Adds the peak of the device's memory in the block to the record; None on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield
    record["peak_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def measure_equality(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Differences between the device and the CPU."""
    image = data.immunohistochemistry()[: args.pixels, : args.pixels]
    reference, pipe = load_pipeline(None, "cpu"), load_pipeline(None, str(device))
    options = {"mpp": 0.25, "decoding": {"nuclei_threshold": 0.3, "minimum_score": 0}}
    maps, nuclei = reference.blended_maps(image, mpp=0.25), reference(image, **options)
    record: dict[str, Any] = {"nuclei": len(nuclei)}
    for name, dtype in PRECISIONS.items():
        if device.type == "cpu" and dtype is torch.float16:
            continue
        here = pipe.blended_maps(image, mpp=0.25, autocast_dtype=dtype)
        same = matched_nuclei(nuclei.instance_map, pipe(image, **options, autocast_dtype=dtype).instance_map)
        record[name] = {
            "largest_difference": float(np.abs(here.nuclei - maps.nuclei).max()),
            "mean_difference": float(np.abs(here.nuclei - maps.nuclei).mean()),
            "same_nuclei": sum(same.values()),
        }
    return record


def measure_network(
    size: str, args: argparse.Namespace, device: torch.device, watch: Stopwatch
) -> dict[str, dict[str, Any]]:
    """mm2/s and memory of one network by precision and way of execution, bytes up and half floats down included."""
    model, found = make_model(size, args.miniature).to(device), {}
    tiles = np.random.default_rng(0).integers(0, 256, (args.batch, args.pixels, args.pixels, 3), dtype=np.uint8)
    mm2 = args.batch * (args.pixels * 0.25e-3) ** 2
    for compiled in (False, True):
        if compiled and (device.type != "cuda" or not watch.has_time_for(f"{size} compiled", 120)):
            continue
        if compiled:
            model.compile(mode="reduce-overhead")
        for precision, dtype in PRECISIONS.items():
            name = f"{precision}{', compiled' if compiled else ''}"
            if (device.type == "cpu" and dtype is torch.float16) or not watch.has_time_for(f"{size} {name}", 20):
                continue
            record: dict[str, Any] = {}
            with watch.noting_failure(f"{size} {name}"), peak_memory(device, record):
                network = AcceleratorNetwork(model, lambda values: (values.transpose(0, 3, 1, 2) / 255).astype("f4"))
                staged = network.stage(tiles)

                def forward(network=network, staged=staged, dtype=dtype) -> None:
                    network.launch(staged, 0, autocast(device, dtype), args.batch).wait()

                record["mm2_per_s"] = mm2 / seconds_of(forward, device, args.rounds)
            found[name] = record
    return found


def measure_pipeline(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """mm2/s of cfsam-tiny from an image in memory to its nuclei, and how long the network waited."""
    pipe = load_pipeline(None, str(device))
    picture = data.immunohistochemistry()
    repeats = -(-args.image // len(picture))
    image = np.tile(picture, (repeats, repeats, 1))[: args.image, : args.image]
    record: dict[str, Any] = {}
    for name, dtype in {"float32": None, "auto": "auto"}.items():
        with peak_memory(device, memory := {}):
            began = time.perf_counter()
            nuclei = len(pipe(image, mpp=0.25, batch_size=args.batch, autocast_dtype=dtype, progress=False))
            seconds = time.perf_counter() - began
        record[name] = {
            "mm2_per_s": (args.image * 0.25e-3) ** 2 / seconds,
            "nuclei": nuclei,
            "waiting_share": pipe.network_clock.waiting_share,
            **memory,
        }
    return record


def measure_training(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds and memory of a step of cfsam-tiny, without the making of crops."""
    side, batch = (64, 2) if args.miniature else (256, 8)
    model = CfSamForNucleiSegmentation(tiny_config(num_types=4)).to(device).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], 1e-4)
    nuclei = (torch.rand(batch, side, side, device=device) > 0.6).long()
    inputs = {
        "pixel_values": torch.randn(batch, 3, side, side, device=device),
        "nuclei_labels": nuclei,
        "hv_labels": torch.rand(batch, 2, side, side, device=device) * 2 - 1,
        "type_labels": torch.randint(1, 5, (batch, side, side), device=device) * nuclei,
        "boundary_labels": (torch.rand(batch, side, side, device=device) > 0.8).long() * nuclei,
    }
    found = {}
    for name, dtype in {"float32": None, "bfloat16": torch.bfloat16}.items():

        def step(dtype=dtype) -> None:
            with autocast(device, dtype):
                loss = model(**inputs).loss
            loss.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        record: dict[str, Any] = {"crops": batch, "pixels": side}
        with peak_memory(device, record):
            record["seconds"] = seconds_of(step, device, args.rounds)
        found[name] = record
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, most wanted first."""
    device = torch.device(args.device)
    # In miniature everything is tried, however slow the machine is.
    watch = Stopwatch(math.inf if args.miniature else BUDGET_S - 20)
    record: dict[str, Any] = {
        "environment": environment(args.device),
        "settings": {name: getattr(args, name) for name in ("pixels", "batch", "image", "rounds", "miniature")},
        "networks": {},
    }
    with watch.noting_failure("equality"):
        record["equality"] = measure_equality(args, device)
    with watch.noting_failure("pipeline"):
        record["pipeline"] = measure_pipeline(args, device)
    for size in (*TINY_FORMS, *ENCODERS):
        with watch.noting_failure(size):
            record["networks"][size] = measure_network(size, args, device, watch)
    if watch.has_time_for("training", 30):
        with watch.noting_failure("training"):
            record["training"] = measure_training(args, device)
    return record | {"skipped": watch.skipped, "failed": watch.failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cuda", help="device to measure (default: cuda)")
    parser.add_argument("--pixels", type=int, default=576, help="side of the windows (default: 576)")
    parser.add_argument("--batch", type=int, default=8, help="windows at once (default: 8)")
    parser.add_argument("--image", type=int, default=8000, help="side of the pipeline's image in px (default: 8000)")
    parser.add_argument("--rounds", type=int, default=10, help="measurements of which the median counts (default: 10)")
    parser.add_argument("--miniature", action="store_true", help="tiny sizes, to see that the command works")
    args = parser.parse_args()
    if args.miniature:
        args.pixels, args.batch, args.image, args.rounds = 256, 1, 256, 1
    write_json(args.file, measure(args))
    print(f"measurements -> {args.file}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
