"""Int8 versions of exported networks: convolutions of 8-bit numbers, with ranges measured on images."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ..inference.backends import OnnxFacts, imported, load_network
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.tiling import cut_window, tile_windows

Item = TypeVar("Item")

MAX_WINDOWS = 32
"""Windows on which ranges are measured; more change them little."""

INT8_TOLERANCE = 0.02
"""The largest mean difference between the maps of the int8 network and those of the float32 network."""

# Matrix products stay in float32: the encoder's gained no time, and OpenVINO 2026.4 cannot compile the mask decoder's.
QUANTISED = ["Conv"]

# Convolutions that read the image alone stay in float32 too, since the colours of another laboratory may lie outside
# the range that was measured (BGMR's reads it beside features, and is quantised). So does the trunk, whose channels
# differ in scale by orders of magnitude (see `TypeBranch`); the 1x1 convolutions that read its levels do not.
IMAGE = "pixel_values"
TRUNK = "/trunk/"


def calibration_windows(
    pipe: NucleiSegmentationPipeline, images: Iterable[Any], mpp: float | None = None
) -> list[np.ndarray]:
    """Windows of images as the network sees them, at most `MAX_WINDOWS`, as many from each image.

    Args:
        pipe: the pipeline.
        images: as for the pipeline; of more than `MAX_WINDOWS`, some evenly spread ones are read.
        mpp: micrometres per pixel of the images; default: what their files state, or the model's.

    Returns:
        Windows (1, 3, H, W) float32.

    Raises:
        OSError, TypeError, ValueError: an image cannot be read, or there is none.
    """
    chosen = _spread(list(images), MAX_WINDOWS)
    if not chosen:
        raise ValueError("int8 needs images on which the ranges of its numbers are measured, and there are none")
    windows = []
    for image in chosen:
        pixels = cast(np.ndarray, pipe.preprocess(image, mpp=mpp).image)
        height, width = pixels.shape[:2]
        places = tile_windows(height, width, *pipe.tiling_for(height, width))
        for place in _spread(places, MAX_WINDOWS // len(chosen)):
            windows.append(pipe.image_processor.pixel_values(cut_window(pixels, place)[None]))
    return windows


def digest(windows: Sequence[np.ndarray]) -> str:
    """What tells the ranges measured on some windows from those measured on others."""
    found = hashlib.sha256()
    for window in windows:
        found.update(window.tobytes())
    return found.hexdigest()[:16]


def _spread(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[place] for place in places]


def quantise(file: Path, facts: OnnxFacts, windows: Sequence[np.ndarray]) -> None:
    """Replaces an exported float32 network by its int8 version.

    Weights have 7 bits and a range for each channel, so that processors without VNNI, whose sums of two products
    saturate at 16 bits, compute the same.

    Args:
        file: the ONNX file.
        facts: what it states.
        windows: (1, 3, H, W) float32, for the ranges of what the layers pass on.

    Raises:
        ImportError: a package is missing.
        ValueError: the maps of the windows would differ from those in float32 by more than `INT8_TOLERANCE` on
            average.
    """
    quantization = imported("onnxruntime.quantization", "onnxruntime")
    preparing = imported("onnxruntime.quantization.shape_inference", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        prepared, smaller = os.path.join(folder, "prepared.onnx"), os.path.join(folder, "int8.onnx")
        preparing.quant_pre_process(os.fspath(file), prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            smaller,
            _Inputs(windows, facts.num_styles),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_kept_nodes(prepared),
        )
        difference = _mean_difference(file, Path(smaller), facts, windows)
        if not difference <= INT8_TOLERANCE:
            raise ValueError(
                f"{file.name}: in int8, maps differ from those in float32 by {difference:.2g} on average, more than "
                f"{INT8_TOLERANCE:g}; give more images, of the kind that will be segmented, or export without int8"
            )
        file.write_bytes(Path(smaller).read_bytes())


def _kept_nodes(file: str) -> list[str]:
    """The convolutions of an ONNX file that stay in float32."""
    nodes = imported("onnx", "onnxruntime").load(file).graph.node
    quantised = [node for node in nodes if node.op_type in QUANTISED]
    return [node.name for node in quantised if IMAGE in node.input or TRUNK in node.name]


class _Inputs:
    """The windows one by one, as ONNX Runtime asks for them."""

    def __init__(self, windows: Sequence[np.ndarray], num_styles: int):
        self._inputs: Iterator[dict[str, np.ndarray]] = (
            {"pixel_values": window} | ({"style_ids": style} if num_styles else {})
            for window, style in _with_styles(windows, num_styles)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def _with_styles(windows: Sequence[np.ndarray], num_styles: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each window with one of the styles in turn, the neutral one first."""
    for number, window in enumerate(windows):
        yield window, np.array([number % (num_styles + 1)], dtype=np.int64)


def _mean_difference(file: Path, smaller: Path, facts: OnnxFacts, windows: Sequence[np.ndarray]) -> float:
    networks = [load_network("onnxruntime", path, facts) for path in (file, smaller)]
    differences = []
    for window, style in _with_styles(windows, facts.num_styles):
        whole, rounded = (network(window, style) for network in networks)
        differences.append(np.abs(whole - rounded).mean())
    return float(np.mean(differences))
