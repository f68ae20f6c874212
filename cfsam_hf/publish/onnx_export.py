"""Exports the network as one ONNX file, which other runtimes read, with any height, width and batch."""

import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..files.atomic import atomic_path
from ..files.writable import check_file_writable
from ..inference.backends import Network, OnnxFacts, describe_network, imported, load_network
from ..model.configuration_cfsam import CfSamConfig
from ..model.maps import stack_maps
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from .onnx_int8 import calibration_windows, digest, quantise

OPSET = 17
TOLERANCE = 1e-3
"""The largest difference between the maps of the file and torch's: probabilities, and offsets from -1 to 1."""


class StackedMaps(nn.Module):
    """The network with the maps as its only output, probabilities in the order of `MapLayout`."""

    def __init__(self, model: CfSamForNucleiSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, style_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels (B, 3, H, W), and for a model with styles their numbers (B,), to maps (B, C, H, W)."""
        return stack_maps(self.model(pixel_values, style_ids=style_ids))


def export_onnx(
    source: NucleiSegmentationPipeline | CfSamForNucleiSegmentation,
    file: str | os.PathLike[str],
    *,
    int8_images: Iterable[Any] | None = None,
    mpp: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the network as an ONNX file, after its maps have been compared with torch's.

    The file's input is `pixel_values` (batch, 3, height, width), normalised as by the image processor, with sides that
    are multiples of the patch size; a model with styles also takes `style_ids` (batch,). Its output is `maps`
    (batch, C, height, width): nuclei, horizontal and vertical offset, boundary if any, background and types if any.
    Its metadata name the maps and identify the weights. The packages `onnx` and `onnxruntime` are needed.

    With `int8_images`, convolutions compute with 8-bit numbers, which is faster in some runtimes and changes nuclei a
    little.

    Args:
        source: the pipeline or model.
        file: the file to write.
        int8_images: about ten images, as for the pipeline, of the kind that will be segmented; the ranges of the 8-bit
            numbers are measured on them. Needs a pipeline. Default: float32.
        mpp: micrometres per pixel of `int8_images`; default: what their files state, or the model's.
        overwrite: whether to replace an existing file.

    Returns:
        The file.

    Raises:
        ImportError: a package is missing.
        OSError: the file cannot be written.
        TypeError: the model is of another kind, or `int8_images` are given without a pipeline.
        ValueError: the file exists, or its maps would differ from torch's by more than `TOLERANCE`; with `int8_images`
            also if there are none, or if maps would then differ by more than `INT8_TOLERANCE` on average.
    """
    file = Path(file)
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists; pass overwrite=True (--overwrite) to replace it")
    model = getattr(source, "model", source)
    if not isinstance(model, CfSamForNucleiSegmentation):
        raise TypeError(f"{type(model).__name__} cannot be exported as ONNX: only CF-SAM models can")
    windows = None
    if int8_images is not None:
        if not isinstance(source, NucleiSegmentationPipeline):
            raise TypeError("int8_images need the pipeline, which reads them, not the model alone")
        windows = calibration_windows(source, int8_images, mpp)
    check_file_writable(file)
    onnx = imported("onnx", "onnxruntime")
    # A copy on the CPU, so that the caller's model keeps its device and type.
    network = StackedMaps(_traceable(model)).eval()
    facts = describe_network(model)
    with atomic_path(file) as working:
        _trace(network, working, model.config)
        _check(network, working, facts, model.config.vision_config.patch_size)
        if windows is not None:
            quantise(working, facts, windows)
            facts = replace(facts, precision="int8", calibration=digest(windows))
        graph = onnx.load(working)
        onnx.helper.set_model_props(graph, facts.to_metadata())
        onnx.save(graph, working)
    return file


def _traceable(model: CfSamForNucleiSegmentation) -> CfSamForNucleiSegmentation:
    """A copy in float32 on the CPU, whose shapes follow those of its input when it is traced."""
    traced = copy.deepcopy(model).float().cpu()
    layers: Any = traced.sam.vision_encoder.layers
    for layer in layers:
        layer.attn.get_rel_pos = _relative_positions
    return traced


def _relative_positions(query_size: int, key_size: int, embedding: torch.Tensor) -> torch.Tensor:
    """SAM's relative positions for queries and keys on the same grid.

    transformers' own function turns sizes into Python numbers, which would become constants of the graph.

    Args:
        query_size, key_size: length of the grid, twice the same.
        embedding (`torch.Tensor` of shape `(2 * n - 1, C)`): n is the length for which it was made.

    Returns:
        (length, length, C).
    """
    resized = F.interpolate(embedding.T[None], size=2 * query_size - 1, mode="linear")[0].T
    places = torch.arange(query_size)
    return resized[places[:, None] - places[None, :] + (key_size - 1)]


def _trace(network: StackedMaps, file: Path, config: CfSamConfig) -> None:
    """Writes the graph of a forward pass."""
    patch = config.vision_config.patch_size
    # No two lengths agree, so that none can stand for another.
    inputs: dict[str, torch.Tensor] = {"pixel_values": torch.zeros(2, 3, 18 * patch, 20 * patch)}
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("pixel_values", "maps")}
    if config.styles:
        inputs["style_ids"] = torch.zeros(2, dtype=torch.long)
        axes["style_ids"] = {0: "batch"}
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of checks of the input's shape, which have no place in the graph, and of its age: the newer
        # exporter cannot simplify this network's symbolic shapes in reasonable time.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["maps"],
            dynamic_axes=axes,
        )


def _check(network: StackedMaps, file: Path, facts: OnnxFacts, patch: int) -> None:
    """Compares the maps of inputs of several shapes with torch's.

    Raises:
        ValueError: they differ.
    """
    exported = load_network("onnxruntime", file, facts)
    generator = torch.Generator().manual_seed(0)
    for batch, rows, columns in ((1, 16, 16), (2, 9, 21)):
        pixels = torch.randn(batch, 3, rows * patch, columns * patch, generator=generator)
        styles = range(batch) if facts.num_styles else [0] * batch
        difference = _largest_difference(network, exported, pixels, styles)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{file.name}: maps of {tuple(pixels.shape)} pixels differ from torch's by {difference:.2g}, more "
                f"than {TOLERANCE:g}; this version of torch or onnxruntime cannot export the model"
            )


def _largest_difference(network: StackedMaps, exported: Network, pixels: torch.Tensor, styles: Sequence[int]) -> float:
    style_ids = torch.tensor(list(styles))
    with torch.inference_mode():
        own = network(pixels, style_ids if any(styles) else None).numpy()
    return float(np.abs(own - exported(pixels.numpy(), style_ids.numpy())).max())
