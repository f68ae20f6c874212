"""Time of the encoder with and without MALA, and the share of the heads, as ratios within one run.

    python examples/benchmark_model.py                    # cfsam-tiny's size at 256 px
    python examples/benchmark_model.py --size vit-b --pixels 1024 --repeats 3

Random weights: the time does not depend on them. The encoder without MALA is the same module with `adapter = None`, so
what is compared differs in nothing else; the two take turns, and the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation
from cfsam_hf.training import tiny_config


def make_model(size: str) -> CfSamForNucleiSegmentation:
    config = tiny_config(num_types=4) if size == "tiny" else CfSamConfig(num_types=5)
    return CfSamForNucleiSegmentation(config).eval()


def median_seconds(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each variant; they take turns, after one call of each to warm up."""
    for run in variants.values():
        run()
    times = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("tiny", "vit-b"), default="tiny")
    parser.add_argument("--pixels", type=int, default=256, help="side of the tile")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


@torch.inference_mode()
def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    model = make_model(args.size)
    encoder = model.sam.vision_encoder
    pixel_values = torch.randn(args.batch_size, 3, args.pixels, args.pixels)
    adapters = [layer.adapter for layer in encoder.layers]

    def plain_encoder() -> None:
        for layer in encoder.layers:
            layer.adapter = None
        encoder.encode(pixel_values, [])
        for layer, adapter in zip(encoder.layers, adapters, strict=True):
            layer.adapter = adapter

    seconds = median_seconds(
        {
            "encoder without MALA": plain_encoder,
            "encoder with MALA": lambda: encoder.encode(pixel_values, []),
            "whole model": lambda: model(pixel_values),
        },
        args.repeats,
    )
    print(
        f"{args.size}, {args.batch_size} x {args.pixels} px, float32, {args.threads} threads, {args.repeats} repeats"
    )
    for name, value in seconds.items():
        print(f"{name:22} {1000 * value:9.1f} ms  {value / seconds['encoder without MALA']:6.3f}")
    heads = seconds["whole model"] - seconds["encoder with MALA"]
    print(f"heads' share of the whole model: {heads / seconds['whole model']:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    run(parser.parse_args())
