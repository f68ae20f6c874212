"""Loads the pipeline for a checkpoint and a device as the command line names them.

A checkpoint's own code never runs, and the user is never asked to allow it: the type in its config.json decides which
of this package's classes loads it, and any other type is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import describe
from .terminal import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..model.pipeline_cfsam import NucleiSegmentationPipeline


def resolve_checkpoint(checkpoint: str | None) -> str:
    """The folder or Hub id to load: a bundled checkpoint if its name is given, the default one if nothing is.

    Raises:
        OSError: it looks like a path, and there is no such folder.
    """
    from ..bases.bundled import bundled_checkpoint, or_bundled

    checkpoint = str(bundled_checkpoint()) if checkpoint is None else or_bundled(checkpoint)
    if os.path.isdir(checkpoint):
        return checkpoint
    if os.path.exists(checkpoint):
        raise OSError(f"{checkpoint}: is a file; --checkpoint needs the checkpoint's folder")
    from ..model.checkpoint import is_meant_as_path

    if is_meant_as_path(checkpoint):
        raise OSError(f"{checkpoint}: no such checkpoint folder; give a folder, or the Hub id of a CF-SAM model")
    return checkpoint


@contextmanager
def naming_checkpoint(source: str) -> Iterator[None]:
    """Makes every error of the block name the checkpoint, unexpected ones too.

    Raises:
        OSError, ValueError: instead of any error.
    """
    from ..model import checkpoint

    try:
        with checkpoint.naming_checkpoint(source):
            yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"checkpoint {source}: {describe(error)}") from error


def resolve_device(device: str | None) -> str:
    """The torch device to compute on: the given one, else a GPU if there is one, else the CPU.

    Raises:
        ValueError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device}: not a device; use cpu, cuda, cuda:1 or mps") from error
    available = True
    if wanted.type == "cuda":
        available = torch.cuda.is_available() and (wanted.index or 0) < torch.cuda.device_count()
    elif wanted.type == "mps":
        available = torch.backends.mps.is_available()
    if not available:
        raise ValueError(f"--device {device}: this machine has no such device; leave it out, or use --device cpu")
    return device


def load_pipeline(checkpoint: str | None, device: str | None) -> "NucleiSegmentationPipeline":
    """Loads the `nuclei-segmentation` pipeline for a checkpoint or an adapter, from a folder or the Hub.

    Raises:
        OSError, ValueError: the checkpoint or the device is not available, or the checkpoint is of another type; the
            message names it.
    """
    from transformers.utils import logging

    from ..model.pipeline_cfsam import NucleiSegmentationPipeline
    from ..model.processing_cfsam import saved_image_processor

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, source = resolve_device(device), resolve_checkpoint(checkpoint)
    with naming_checkpoint(source):
        model, base = _load_model(source)
        processor = saved_image_processor(source)
        if processor is None and base is not None:
            processor = saved_image_processor(base)
        return NucleiSegmentationPipeline(
            model=model, image_processor=processor, task="nuclei-segmentation", device=place
        )


def precision_note(autocast: str | None, pipe: Any) -> str | None:
    """What the user should know about `--autocast`: what `auto` decided, or that the choice is a slow one.

    Args:
        autocast: the option.
        pipe: the pipeline, whose device decides.
    """
    from ..model.precision import AUTO, native_bfloat16

    if autocast not in (AUTO, "bfloat16"):
        return None
    native = native_bfloat16(pipe.device)
    if autocast == AUTO:
        chosen = "bfloat16, which this device computes in natively" if native else "float32"
        return f"--autocast auto: the network runs in {chosen}" + ("" if native else "; this device lacks bfloat16")
    return None if native else "--autocast bfloat16: this device lacks bfloat16 and is faster without this option"


def apply_backend(backend: str | None, pipe: Any, file: str | None = None) -> None:
    """Lets the pipeline run its network as `--backend` and `--onnx` say.

    Without a file, a new checkpoint is converted first, and the result is kept for later.

    Args:
        backend: the option; None for torch.
        pipe: the pipeline.
        file: what `cfsam export --onnx` wrote, the option `--onnx`.

    Raises:
        ImportError, OSError, TypeError, ValueError: a package is missing, or the network cannot be converted.
    """
    if backend is None or backend == "torch":
        return
    from ..inference.backends import imported, use_backend, weights_digest
    from ..model.result import __version__
    from ..publish.onnx_export import export_onnx

    imported(backend, backend)
    if file is not None:
        use_backend(pipe, backend, file)
        return
    # The name tells whether the file is of these weights and of this version's code.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cfsam_hf"
    kept = cache / f"{weights_digest(pipe.model)[:32]}-{__version__}.onnx"
    if not kept.exists():
        say(f"note: converting the network for {backend}, once for this checkpoint -> {kept}")
        export_onnx(pipe, kept, overwrite=True)
    use_backend(pipe, backend, kept)


def _load_model(source: str) -> "tuple[PreTrainedModel, str | None]":
    """The model of a checkpoint, and the base that it was loaded from if the checkpoint is an adapter."""
    from ..model.adapter_files import ADAPTER_FILE
    from ..model.checkpoint import check_implementations, check_place, check_type, peft_base, read_config
    from ..model.configuration_cfsam import CfSamConfig
    from ..model.modeling_cfsam import CfSamForNucleiSegmentation

    if os.path.isfile(os.path.join(source, ADAPTER_FILE)):
        model = CfSamForNucleiSegmentation.from_adapter(source)
        return model, model.name_or_path
    check_place(source)
    values = read_config(source)
    if not values:
        # Checked only now, so that an ordinary checkpoint on the Hub costs no further request.
        if _is_hub_adapter(source):
            model = CfSamForNucleiSegmentation.from_adapter(source)
            return model, model.name_or_path
        base = peft_base(source)
        if base is not None:
            check_type(read_config(base), [CfSamConfig.model_type])
        return CfSamForNucleiSegmentation.from_pretrained(source), base
    check_implementations(values)
    if values.get("model_type") == "unet_nuclei":
        from ..baselines.unet import UNetForNucleiSegmentation

        return UNetForNucleiSegmentation.from_pretrained(source, use_safetensors=True), None
    check_type(values, [CfSamConfig.model_type])
    return CfSamForNucleiSegmentation.from_pretrained(source), None


def _is_hub_adapter(source: str) -> bool:
    """Whether an adapter is known to be in a Hub repository."""
    from ..model.adapter_files import find_adapter

    try:
        return not os.path.isdir(source) and find_adapter(source) is not None
    except OSError:
        return False
