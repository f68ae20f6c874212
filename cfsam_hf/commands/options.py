"""Values and options that several commands share.

Only the standard library is imported, so that help and usage errors need nothing else.
"""

import argparse
from collections.abc import Callable
from typing import TypeVar

from .terminal import UsageError

Number = TypeVar("Number", int, float)

_SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Gives an argparse type for a finite number of the given kind above 0."""

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not 0 < value < float("inf"):
            whole = " whole" if kind is int else ""
            raise argparse.ArgumentTypeError(f"must be a{whole} number above 0, got {text!r}")
        return value

    return parse


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def setting(text: str) -> tuple[str, float]:
    """An argparse type: `NAME=VALUE` with a number."""
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE with a number, got {text!r}") from None


def size(text: str) -> int:
    """An argparse type: a number of bytes, optionally with the unit KB, MB or GB (powers of 1,000)."""
    unit = _SIZE_UNITS.get(text[-2:].upper(), 1)
    return max(1, round(positive(float)(text[:-2] if unit > 1 else text) * unit))


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--debug`, which makes `cfsam` print the traceback of an error."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_mpp_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--mpp`, the pixel size of images that need not all state it."""
    parser.add_argument(
        "--mpp",
        type=positive(float),
        help="pixel size of the images in micrometres (default: as each file states it, else the checkpoint's)",
    )


def add_views_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--views`, test-time augmentation."""
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 2, 4, 8),
        help="average the network's output over this many views of the image: 2 adds a rotation by 180 degrees, 4 "
        "uses all flips, 8 also swaps rows and columns, each with a shifted grid of windows; takes that many times as "
        "long, and longer on small images (default: 1)",
    )


def add_style_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--style`, whose manner of outlining is reproduced."""
    parser.add_argument(
        "--style",
        metavar="NAME",
        help="outline nuclei as this data set does; `cfsam info` lists the checkpoint's styles (default: neutral)",
    )


def add_autocast_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--autocast`, mixed precision."""
    parser.add_argument(
        "--autocast",
        choices=("auto", "bfloat16", "float16"),
        help="run the network in mixed precision: auto uses bfloat16 if the processor or GPU computes in it natively; "
        "elsewhere bfloat16 is much slower than float32; float16 is for GPUs (default: float32)",
    )


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--backend`, the runtime of the network, and `--onnx`, its file."""
    parser.add_argument(
        "--backend",
        choices=("torch", "onnxruntime", "openvino"),
        help="what runs the network on a CPU; the other two are extras, and the first run with one converts the "
        "checkpoint, which takes about a minute (default: torch)",
    )
    parser.add_argument(
        "--onnx",
        metavar="FILE",
        help="with --backend onnxruntime or openvino: run the checkpoint's network from this file of cfsam export "
        "--onnx, for example in int8",
    )


def check_backend(args: argparse.Namespace) -> None:
    """Raises `UsageError` if `--onnx` is given for torch."""
    if args.onnx and args.backend in (None, "torch"):
        raise UsageError("--onnx needs --backend onnxruntime or --backend openvino")


def add_offsets_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--offsets`, which places tiles in their slide."""
    parser.add_argument(
        "--offsets",
        metavar="FILE|names",
        help="the images are tiles of slides: write polygons and tables in the slide's pixels. Where a tile lies is "
        "read from its name ('names': slide_x1024_y2048.png, or as QuPath's exporter names tiles, with its downsample "
        "d=), or from a CSV or JSON file with the columns image, x, y and optionally downsample",
    )


def add_outlines_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--outlines`, which types nuclei that another tool has outlined."""
    parser.add_argument(
        "--outlines",
        metavar="FILE",
        help="do not look for nuclei: give types to the nuclei outlined in FILE (a label map, QuPath's or another "
        "GeoJSON, LabelMe's JSON, ImageJ's ROIs), whose outlines stay as they are; for several images, a folder with "
        "a file for each, named after it",
    )
