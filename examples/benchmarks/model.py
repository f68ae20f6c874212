"""Times the network on this machine and reports ratios within one run.

    python examples/benchmarks/benchmark.py model                    # cfsam-tiny's size, tiles of 256 px
    python examples/benchmarks/benchmark.py model --parts forms --pixels 576 --threads 1
    python examples/benchmarks/benchmark.py model --size vit-b --pixels 1024 --rounds 3 \
        --settings "bfloat16; batch of 2"

The first table shows the encoder with and without MALA, the share of the heads, and the cost of MALA for the whole
model. The second table compares settings of a forward pass (threads, precision, memory layout, `torch.compile`, batch
size, tile size) with the plain one, per megapixel. The weights are random; the time does not depend on them. The
encoder without MALA is the same module with `adapter = None`, so that nothing else differs. Measurements alternate,
and medians are compared.

With `--parts forms` the table shows operations and CPU time of each part for the form of the first cfsam-tiny, for
that of the recipe `cfsam_tiny_long.yaml`, and for variants of the latter. CPU time is the process's own, so other work
on the machine matters little, but threads that wait count: use one.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

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


RECIPE = Path(__file__).parents[1] / "recipes/cfsam_tiny_long.yaml"
TYPE_NAMES = dict(enumerate(("background", "miscellaneous", "inflammatory", "epithelial", "spindle-shaped")))
PARTS = {
    "encoder": "sam.vision_encoder",
    "fusion": "fusion",
    "mask decoder": "sam.mask_decoder.transformer",
    "trunk": "trunk",
    "stem": "mask_features.stem",
    "joins": "mask_features.join",
    "refinement": "refinement",
    "type branch": "type_branch",
}
FIRST_FORM = "first cfsam-tiny"


def forms() -> dict[str, dict[str, Any]]:
    """Options of `tiny_config` for each form of the network."""
    long = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["model_options"]
    return {
        FIRST_FORM: {"type_trunk": "efficientnet-lite0"},
        "long run": long,
        "long run, separable joins": {**long, "join": "separable"},
        "long run, double joins": {**long, "join": "double"},
        "long run, kernels per image": {**long, "adapter_window": None},
        "long run, without MALA": {**long, "use_mala": False},
    }


def timed_parts(model: CfSamForNucleiSegmentation) -> dict[str, float]:
    """A dictionary to which every forward pass adds the CPU time of each part."""
    spent: dict[str, float] = defaultdict(float)
    modules = dict(model.named_modules())

    def add(part: str, sign: float) -> Callable[..., None]:
        def hook(*_: object) -> None:
            spent[part] += sign * time.process_time()

        return hook

    for part, name in PARTS.items():
        # A list of modules is not called itself.
        for module in modules.get(name, []) if part == "joins" else filter(None, [modules.get(name)]):
            module.register_forward_pre_hook(add(part, -1.0))
            module.register_forward_hook(add(part, 1.0))
    return spent


def count_operations(options: dict[str, Any], pixels: int) -> tuple[dict[str, float], int]:
    """Operations of each part and of the whole for one square tile, and the number of parameters; computes nothing."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        model = CfSamForNucleiSegmentation(tiny_config(id2label=TYPE_NAMES, **options)).eval()
        model(torch.empty(1, 3, pixels, pixels))
    prefix = type(model).__name__
    counted = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    operations: dict[str, float] = {part: counted.get(f"{prefix}.{name}", 0) for part, name in PARTS.items()}
    joins = f"{prefix}.{PARTS['joins']}."
    operations["joins"] = sum(count for name, count in counted.items() if name.removeprefix(joins).isdigit())
    operations["whole"] = counter.get_total_flops()
    return operations, sum(parameter.numel() for parameter in model.parameters())


def forms_table(args: argparse.Namespace) -> list[str]:
    """A table of operations and CPU time by form and part, and of each form's time relative to the first's."""
    pixel_values = torch.randn(1, 3, args.pixels, args.pixels)
    models, spent, operations, sizes = {}, {}, {}, {}
    for form, options in forms().items():
        operations[form], sizes[form] = count_operations(options, args.pixels)
        torch.manual_seed(0)
        model = CfSamForNucleiSegmentation(tiny_config(id2label=TYPE_NAMES, **options)).eval()
        models[form] = model.to(memory_format=torch.channels_last)
        model(pixel_values)
        spent[form] = timed_parts(model)
    seconds: dict[str, dict[str, list[float]]] = {form: defaultdict(list) for form in models}
    for _ in range(args.rounds):
        for form, model in models.items():
            spent[form].clear()
            began = time.process_time()
            model(pixel_values)
            seconds[form]["whole"].append(time.process_time() - began)
            for part, value in spent[form].items():
                seconds[form][part].append(value)
    reference = statistics.median(seconds[FIRST_FORM]["whole"])
    rows = []
    for form in models:
        cells = [
            f"{operations[form][part] / 1e9:.1f}, {statistics.median(seconds[form][part]) / reference:.3f}"
            if seconds[form][part]
            else ""
            for part in [*PARTS, "whole"]
        ]
        rows.append([form, f"{sizes[form] / 1e6:.2f} M", *cells])
    return [
        f"GFLOP, and CPU time relative to the whole network of the {FIRST_FORM}:",
        "",
        *markdown_table(["form", "parameters", *PARTS, "whole"], rows),
    ]


def named_settings(text: str) -> list[str]:
    """Settings by name, separated by semicolons."""
    names = [name.strip() for name in text.split(";") if name.strip()]
    if unknown := [name for name in names if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"no setting {'; '.join(unknown)}; choose from {'; '.join(SETTINGS)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("tiny", "vit-b"), default="tiny")
    parser.add_argument(
        "--parts", choices=("mala", "forms"), default="mala", help="which table of parts is printed (default: mala)"
    )
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
    if args.parts == "forms":
        print("\n".join(forms_table(args)))
        return
    print("\n".join(parts_table(args)))
    print()
    print("\n".join(settings_table(args)))


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
