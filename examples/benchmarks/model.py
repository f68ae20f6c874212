"""Times the network on this machine and reports ratios within one run.

    python examples/benchmarks/benchmark.py model                    # cfsam-tiny's size, tiles of 256 px
    python examples/benchmarks/benchmark.py model --size vit-b --pixels 1024 --rounds 3 \
        --settings "bfloat16; batch of 2"

The first table shows the encoder with and without MALA, the share of the heads, and the cost of MALA for the whole
model. The second table compares settings of a forward pass (threads, precision, memory layout, `torch.compile`, batch
size, tile size) with the plain one, per megapixel. The weights are random; the time does not depend on them. The
encoder without MALA is the same module with `adapter = None`, so that nothing else differs. Measurements alternate,
and medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.tables import markdown_table
from cfsam_hf.training import tiny_config

PLAIN = "plain"
SETTINGS: dict[str, dict] = {
    PLAIN: {},
    "one thread": {"threads": 1},
    "bfloat16": {"autocast": True},
    "channels last": {"channels_last": True},
    "bfloat16, channels last": {"autocast": True, "channels_last": True},
    "torch.compile": {"compile": True},
    "torch.compile, bfloat16": {"compile": True, "autocast": True},
    "batch of 2": {"batch": 2},
    "batch of 4": {"batch": 4},
    "batch of 8": {"batch": 8},
    "tiles twice as wide": {"widening": 2},
    "tiles four times as wide": {"widening": 4},
}


def make_model(size: str) -> CfSamForNucleiSegmentation:
    torch.manual_seed(0)
    config = tiny_config(num_types=4) if size == "tiny" else CfSamConfig(num_types=5)
    return CfSamForNucleiSegmentation(config).eval()


def median_seconds(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each variant; their calls alternate, after two calls of each to warm up."""
    for run in variants.values():
        run()
        run()
    times = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def parts_table(args: argparse.Namespace) -> list[str]:
    """The encoder with and without MALA, and the whole model with and without it."""
    model = make_model(args.size)
    encoder = model.sam.vision_encoder
    pixel_values = torch.randn(1, 3, args.pixels, args.pixels)
    adapters = [layer.adapter for layer in encoder.layers]

    def without_adapters(run: Callable[[], object]) -> Callable[[], None]:
        def bare() -> None:
            for layer in encoder.layers:
                layer.adapter = None
            run()
            for layer, adapter in zip(encoder.layers, adapters, strict=True):
                layer.adapter = adapter

        return bare

    def encode() -> object:
        return encoder.encode(pixel_values, [])

    def predict() -> object:
        return model(pixel_values)

    seconds = median_seconds(
        {
            "encoder without MALA": without_adapters(encode),
            "encoder": encode,
            "whole model without MALA": without_adapters(predict),
            "whole model": predict,
        },
        args.rounds,
    )
    whole = seconds["whole model"]
    heads = whole - seconds["encoder"]
    rows = [[name, f"{1000 * value:.1f} ms", f"{value / whole:.3f}"] for name, value in seconds.items()]
    rows.append(["heads (the difference)", f"{1000 * heads:.1f} ms", f"{heads / whole:.3f}"])
    encoder_ratio = seconds["encoder"] / seconds["encoder without MALA"]
    whole_ratio = whole / seconds["whole model without MALA"]
    return [
        *markdown_table(["part", "time", "of the whole model"], rows),
        "",
        f"MALA: the encoder x {encoder_ratio:.3f}, the whole model x {whole_ratio:.3f}",
    ]


def setting(args: argparse.Namespace, options: dict) -> tuple[Callable[[], object], float]:
    """A forward pass with a setting, and its input in megapixels."""
    model = make_model(args.size)
    side, batch = args.pixels * options.get("widening", 1), options.get("batch", 1)
    pixel_values = torch.randn(batch, 3, side, side)
    if options.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
    if options.get("compile"):
        model.compile()
    threads = options.get("threads", args.threads)

    def predict() -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=options.get("autocast", False)):
            model(pixel_values)

    return predict, batch * side * side / 1e6


def settings_table(args: argparse.Namespace) -> list[str]:
    """A table of the time of a forward pass with each setting."""
    passes = {name: setting(args, SETTINGS[name]) for name in dict.fromkeys([PLAIN, *args.settings])}
    seconds = median_seconds({name: predict for name, (predict, _) in passes.items()}, args.rounds)
    torch.set_num_threads(args.threads)
    per_megapixel = {name: seconds[name] / megapixels for name, (_, megapixels) in passes.items()}
    rows = [
        [name, f"{1000 * value:.0f} ms", f"{value / per_megapixel[PLAIN]:.2f}"]
        for name, value in per_megapixel.items()
    ]
    return markdown_table(["setting", "per megapixel", "ratio"], rows)


def named_settings(text: str) -> list[str]:
    """Settings by name, separated by semicolons."""
    names = [name.strip() for name in text.split(";") if name.strip()]
    if unknown := [name for name in names if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"no setting {'; '.join(unknown)}; choose from {'; '.join(SETTINGS)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("tiny", "vit-b"), default="tiny")
    parser.add_argument("--pixels", type=int, default=256, help="side of the tile")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--settings", type=named_settings, default=list(SETTINGS), help=f"with semicolons: {'; '.join(SETTINGS)}"
    )


@torch.inference_mode()
def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    print(
        f"{args.size}, tiles of {args.pixels} px, {args.threads} threads, medians of {args.rounds} rounds; "
        f"{environment('cpu')['hardware']}\n"
    )
    print("\n".join(parts_table(args)))
    print()
    print("\n".join(settings_table(args)))


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
