"""Other runtimes for the network of a pipeline: ONNX Runtime and OpenVINO, on the CPU, from an exported file."""

import hashlib
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.maps import MapLayout

BACKENDS = ("torch", "onnxruntime", "openvino")

METADATA_KEY = "cfsam_hf"

Network = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Pixels (B, 3, H, W) float32 and styles (B,) int64 to maps (B, C, H, W) float32."""


@dataclass(frozen=True)
class OnnxFacts:
    """What an exported file states about its network.

    Attributes:
        weights: the digest of its weights, see [`weights_digest`].
        num_types: T; 0 without types.
        has_boundary: whether there is a boundary map.
        num_styles: styles that it takes besides the neutral one; with 0 the file has no input for them.
        precision: `"float32"`, or `"int8"` if its convolutions are quantised.
        calibration: in int8, a digest of the images on which ranges were measured.
    """

    weights: str
    num_types: int
    has_boundary: bool
    num_styles: int
    precision: str = "float32"
    calibration: str = ""

    @property
    def layout(self) -> MapLayout:
        """The order of its maps."""
        return MapLayout(self.num_types, self.has_boundary)

    def to_metadata(self) -> dict[str, str]:
        """The facts as metadata of an ONNX file."""
        return {METADATA_KEY: json.dumps(asdict(self))}

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "OnnxFacts":
        """The facts that a file states.

        Raises:
            ImportError: the package `onnx` is missing.
            OSError: the file is missing or damaged.
            ValueError: `export_onnx` did not write it.
        """
        onnx = imported("onnx", "onnxruntime")
        try:
            properties = {entry.key: entry.value for entry in onnx.load(os.fspath(file)).metadata_props}
        except OSError:
            raise
        except Exception as error:  # protobuf's own, with no common base
            raise OSError(f"{file}: not an ONNX file, or a damaged one") from error
        try:
            return cls(**json.loads(properties[METADATA_KEY]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: cfsam export --onnx did not write this file; export the checkpoint") from error


def describe_network(model: Any) -> OnnxFacts:
    """The facts that the exported file of a CF-SAM model states."""
    config = model.config
    return OnnxFacts(weights_digest(model), config.num_types or 0, config.use_bgmr, len(config.styles or []))


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of the names and float32 values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def use_backend(pipe: Any, backend: str, file: str | os.PathLike[str] | None = None) -> None:
    """Lets a pipeline run its network in another runtime; reading, blending and decoding stay the same.

    After a change of the model's weights or adapters, export the model and call this again.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> from cfsam_hf import export_onnx
    >>> from cfsam_hf.inference import use_backend

    >>> pipe = pipeline("nuclei-segmentation")
    >>> use_backend(pipe, "onnxruntime", export_onnx(pipe, "cfsam-tiny.onnx"))
    ```

    Args:
        pipe: the pipeline, on the CPU.
        backend: one of `BACKENDS`.
        file: what `export_onnx` wrote; not used with torch.

    Raises:
        ImportError: a package of the backend is missing.
        OSError: the file is missing or damaged.
        ValueError: the backend is unknown, the pipeline is on another device, or the file has other weights.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: it must be one of {', '.join(BACKENDS)}")
    if backend == "torch":
        pipe.engine, pipe.settings = None, {}
        return
    if pipe.device.type != "cpu":
        raise ValueError(f"the backend {backend} computes on the CPU, and the pipeline is on {pipe.device}; use torch")
    if file is None:
        raise ValueError(f"the backend {backend} needs the file that export_onnx wrote")
    facts = OnnxFacts.read(file)
    if facts.weights != weights_digest(pipe.model):
        raise ValueError(f"{file}: holds other weights than the pipeline's model; export it again")
    network = load_network(backend, Path(file), facts)

    def engine(values: np.ndarray, style_id: int) -> tuple[np.ndarray, MapLayout]:
        return network(values, np.full(len(values), style_id, dtype=np.int64)), facts.layout

    pipe.engine, pipe.settings = engine, {"backend": backend}
    if facts.precision != "float32":
        pipe.settings |= {"precision": facts.precision, "calibration": facts.calibration}


def load_network(backend: str, file: Path, facts: OnnxFacts) -> Network:
    """The network of an exported file, with as many threads as torch uses.

    Args:
        backend: `"onnxruntime"` or `"openvino"`.
        file: the ONNX file.
        facts: what it states.

    Raises:
        ImportError: the backend's package is missing.
    """
    takes_styles, threads = facts.num_styles > 0, torch.get_num_threads()
    if backend == "openvino":
        return OpenVinoNetwork(file, takes_styles, threads)
    return OnnxRuntimeNetwork(file, takes_styles, threads)


class OnnxRuntimeNetwork:
    """An exported network in ONNX Runtime.

    Args:
        file: the ONNX file.
        takes_styles: whether it has an input for styles.
        threads: number of threads.
    """

    def __init__(self, file: Path, takes_styles: bool, threads: int):
        onnxruntime = imported("onnxruntime", "onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
        self._takes_styles = takes_styles

    def __call__(self, values: np.ndarray, style_ids: np.ndarray) -> np.ndarray:
        """As `Network`."""
        inputs = {"pixel_values": values} | ({"style_ids": style_ids} if self._takes_styles else {})
        maps: np.ndarray = self._session.run(["maps"], inputs)[0]
        return maps


class OpenVinoNetwork:
    """An exported network in OpenVINO, compiled for each shape of the input, which is faster than one for all.

    Args:
        file: the ONNX file.
        takes_styles: whether it has an input for styles.
        threads: number of threads.
    """

    def __init__(self, file: Path, takes_styles: bool, threads: int):
        self._core = imported("openvino", "openvino").Core()
        self._file, self._takes_styles = file, takes_styles
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Otherwise processors with bfloat16 compute in it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, values: np.ndarray, style_ids: np.ndarray) -> np.ndarray:
        """As `Network`."""
        if values.shape not in self._compiled:
            graph = self._core.read_model(self._file)
            shapes = {"pixel_values": list(values.shape)}
            if self._takes_styles:
                shapes["style_ids"] = list(style_ids.shape)
            graph.reshape(shapes)
            self._compiled[values.shape] = self._core.compile_model(graph, "CPU", self._options)
        inputs = {"pixel_values": values} | ({"style_ids": style_ids} if self._takes_styles else {})
        # A copy: the runtime reuses its own memory for the next tile.
        return np.array(self._compiled[values.shape](inputs)["maps"])


def imported(module: str, extra: str) -> Any:
    """A module of an extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is not installed: pip install 'cfsam_hf[{extra}]'") from error
