"""Time and peak memory of a training step with each option, as ratios to a reference in the same run.

    python examples/benchmarks/benchmark.py train                            # cfsam-tiny's size, painted tiles
    python examples/benchmarks/benchmark.py train --base facebook/sam-vit-base --batch_size 2 --steps 5
    python examples/benchmarks/benchmark.py train --options compile,bf16 --rounds 3

The reference trains adapters and heads in float32, channels last, one pass per step, with crops made by one other
process; each option changes one thing. Every measurement is a separate process, so that its peak memory can be
measured; with `--rounds` the measurements alternate, and the table shows medians. Wall time is the median over the
steps after the first two; CPU time is that of the training process over the same steps, which other programs on the
machine hardly change.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate.utils import set_seed

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.tables import markdown_table
from cfsam_hf.training import (
    TrainingRun,
    build_crops,
    build_model,
    build_processor,
    load_training_data,
    make_accelerator,
    make_recipe,
)
from cfsam_hf.training.memory import PeakMemory

REFERENCE, UPPER_HALF = "reference", "MALA in the upper half of the layers"
# What each option changes in the reference; a step with accumulation has the same batch.
OPTIONS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "bf16": {"mixed_precision": "bf16"},
    "channels first": {},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "accumulation": {"gradient_accumulation_steps": 0},
    "compile": {"compile": True},
    # Layers below the first trained one keep nothing for the backward pass. Which these are depends on the base.
    UPPER_HALF: {"model_options": {}},
    "frozen mask decoder": {"model_options": {"train_mask_decoder": False}},
    "all of SAM trained": {"train_encoder": True},
    "crops in the process": {"num_workers": 0},
}
SETTLING = 2


def paint_tiles(folder: Path, number: int = 4, size: int = 512) -> None:
    """Writes tiles of dark ellipses on a light ground, with label maps, which cost as much as nuclei."""
    random = np.random.default_rng(0)
    for tile in range(number):
        labels = np.zeros((size, size), np.uint16)
        for nucleus in range(1, 401):
            x, y = (int(v) for v in random.integers(0, size, 2))
            axes = tuple(int(v) for v in random.integers(5, 12, 2))
            cv2.ellipse(labels, (x, y), axes, float(random.uniform(0, 180)), 0, 360, nucleus, -1)
        image = np.where(labels[..., None] > 0, (120, 70, 110), (230, 200, 220)) + random.normal(
            0, 12, (size, size, 3)
        )
        cv2.imwrite(str(folder / f"tile{tile}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / f"tile{tile}_instances.png"), labels)


def measure(args: argparse.Namespace, option: str, folder: Path) -> dict[str, float]:
    """Trains with one option; returns wall and CPU milliseconds per crop, and the peak memory in MB."""
    paint_tiles(folder)
    values = dict(OPTIONS[option])
    if option == UPPER_HALF:
        values["model_options"] = {"adapter_layers": upper_half(args.base)}
    if "gradient_accumulation_steps" in values:
        values |= {"gradient_accumulation_steps": args.batch_size, "batch_size": 1}
    recipe = make_recipe(
        **{
            "base": args.base,
            "data": [f"reader=instance_pairs,path={folder}"],
            "crop_size": args.pixels,
            "batch_size": args.batch_size,
            "steps": args.steps + SETTLING,
            "mixed_precision": "no",
            "output_dir": str(folder / "run"),
            "progress": False,
            **values,
        }
    )
    accelerator = make_accelerator(recipe)
    set_seed(0)
    data = load_training_data(recipe)
    memory = PeakMemory(accelerator.device)
    model = build_model(recipe, ["one", "two", "three", "four"])
    processor = build_processor(recipe, model.config)
    crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)
    run = TimedRun(recipe, accelerator, data, model, processor, crops, channels_last=option != "channels first")
    memory.reset()
    run.train_steps(args.steps + SETTLING)
    per_crop = 1000 / run.crops_per_step
    return {
        "wall": per_crop * statistics.median(run.wall[SETTLING:]),
        "cpu": per_crop * statistics.fmean(run.cpu[SETTLING:]),
        "memory": memory.megabytes(),
        "threads": torch.get_num_threads(),
    }


def upper_half(base: str) -> list[int]:
    """The upper half of a base's encoder layers."""
    recipe = make_recipe(base=base, data=["reader=consep,path=."], output_dir=".")
    layers = build_model(recipe, []).config.vision_config.num_hidden_layers
    return list(range(layers // 2, layers))


class TimedRun(TrainingRun):
    """A run whose steps are timed one by one, back to back.

    Args:
        channels_last: memory layout of pixels and weights; the layout of every run that is not sharded.
        arguments: of [`TrainingRun`].
    """

    def __init__(self, *arguments: Any, channels_last: bool = True):
        super().__init__(*arguments)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        if not channels_last:
            self._memory_format = torch.contiguous_format
            self.plain.to(memory_format=self._memory_format)

    def train_steps(self, number: int) -> None:
        self.plain.train()
        for _ in range(number):
            wall, cpu = time.perf_counter(), time.process_time()
            self._optimise()
            if self.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)


def measure_in_child(args: argparse.Namespace, option: str) -> dict[str, float]:
    """Runs [`measure`] in a separate process.

    Raises:
        RuntimeError: the process failed; its own message gives the reason.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    work = context.Process(target=send_measurement, args=(args, option, sending))
    work.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError as error:
        raise RuntimeError(f"the measurement of {option!r} failed; see above.") from error
    finally:
        work.join()


def send_measurement(args: argparse.Namespace, option: str, result: Connection) -> None:
    """What the process of one measurement does."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        result.send(measure(args, option, Path(scratch)))


def result_table(measured: dict[str, list[dict[str, float]]]) -> list[str]:
    """A table of medians over the rounds, and their ratios to those of the reference.

    Args:
        measured: results of [`measure`] in each round, by option.
    """
    medians = {
        option: {key: statistics.median(of_round[key] for of_round in rounds) for key in ("wall", "cpu", "memory")}
        for option, rounds in measured.items()
    }
    reference = medians[REFERENCE]
    rows = [
        [
            option,
            f"{1000 / of['wall']:.2f}",
            f"{reference['wall'] / of['wall']:.2f}",
            f"{of['cpu']:.0f} ms",
            f"{of['cpu'] / reference['cpu']:.2f}",
            f"{of['memory']:,.0f} MB",
            f"{of['memory'] / reference['memory']:.2f}",
        ]
        for option, of in medians.items()
    ]
    return markdown_table(["option", "crops/s", "ratio", "CPU a crop", "ratio", "peak memory", "ratio"], rows)


def named_options(text: str) -> list[str]:
    """Options by name, separated by commas; the reference is always measured."""
    names = text.split(",")
    if unknown := [name for name in names if name not in OPTIONS]:
        raise argparse.ArgumentTypeError(f"no option {', '.join(unknown)}; choose from {', '.join(OPTIONS)}")
    return list(dict.fromkeys([REFERENCE, *names]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="tiny", help="of a recipe")
    parser.add_argument("--options", type=named_options, default=list(OPTIONS), help=", ".join(OPTIONS))
    parser.add_argument("--pixels", type=int, default=256, help="side of the crops")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help=f"timed steps, after {SETTLING} more")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def run(args: argparse.Namespace) -> None:
    measured: dict[str, list[dict[str, float]]] = {option: [] for option in args.options}
    for _ in range(args.rounds):
        for option, rounds in measured.items():
            rounds.append(measure_in_child(args, option))
            # A measurement takes minutes on a busy machine.
            print(f"{option}: {rounds[-1]}", file=sys.stderr, flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"{args.base}, {args.batch_size} crops of {args.pixels} pixels a step, {args.steps} steps, {args.rounds} "
        f"rounds; {environment(device)['hardware']}\n"
    )
    print("\n".join(result_table(measured)))


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
