"""A checkpoint and a device, as the command line names them, to a pipeline."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .messages import describe


def resolve_checkpoint(checkpoint: str | None) -> str:
    """The folder or Hub id to load: the bundled checkpoint where none, or its name, is given.

    Raises:
        OSError: it looks like a path and there is no such folder.
    """
    if checkpoint is not None and os.path.isdir(checkpoint):
        return checkpoint
    from ..bases.bundled import bundled_checkpoint, default_checkpoint_folder

    if checkpoint in (None, default_checkpoint_folder().name):
        return str(bundled_checkpoint())
    if os.path.exists(checkpoint):
        raise OSError(f"{checkpoint}: is a file; --checkpoint needs the checkpoint's folder")
    from ..model.checkpoint import is_meant_as_path

    if is_meant_as_path(checkpoint):
        raise OSError(f"{checkpoint}: no such checkpoint folder; give one, or the Hub id of a CF-SAM model")
    return checkpoint


@contextmanager
def naming_checkpoint(source: str) -> Iterator[None]:
    """Gives every error of the block the checkpoint's name, those that are not foreseen too.

    Raises:
        OSError, ValueError: in place of any error.
    """
    from ..model import checkpoint as checkpoint_cfsam

    try:
        with checkpoint_cfsam.naming_checkpoint(source):
            yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"checkpoint {source}: {describe(error)}") from error


def resolve_device(device: str | None) -> str:
    """The torch device to compute on: the given one, else a GPU if there is one, else the CPU.

    Raises:
        ValueError: torch does not know the device, or it is not there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device}: not a device; use cpu, cuda, cuda:1 or mps") from error
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(wanted.type, lambda: True)()
    if there and wanted.type == "cuda" and wanted.index is not None:
        there = wanted.index < torch.cuda.device_count()
    if not there:
        raise ValueError(f"--device {device}: there is no such device here; leave it out, or use --device cpu")
    return device


def load_pipeline(checkpoint: str | None, device: str | None):
    """The `nuclei-segmentation` pipeline for a checkpoint or adapter, of this machine or the Hub, on a device.

    Raises:
        OSError, ValueError: the checkpoint or device cannot be had; the message names it.
    """
    from transformers import AutoConfig, AutoModelForImageSegmentation, pipeline
    from transformers.utils import logging

    from ..model.adapter_files import ADAPTER_FILE
    from ..model.checkpoint import check_kind, check_place
    from ..model.modeling_cfsam import CfSamForNucleiSegmentation

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, source = resolve_device(device), resolve_checkpoint(checkpoint)
    with naming_checkpoint(source):
        is_adapter = os.path.isfile(os.path.join(source, ADAPTER_FILE))
        if not is_adapter:
            check_place(source, needs_config=True)
            try:
                config = AutoConfig.from_pretrained(source)
            except (OSError, ValueError):
                # Only now, so that an ordinary checkpoint of the Hub costs no further request.
                is_adapter = _is_hub_adapter(source)
                if not is_adapter:
                    raise
        if is_adapter:
            model = CfSamForNucleiSegmentation.from_adapter(source)
            processor = _image_processor(source) or _image_processor(model.name_or_path)
            return pipeline("nuclei-segmentation", model=model, image_processor=processor, device=place)
        check_kind(config)
        # Loaded here, since `pipeline` makes a page of tracebacks of an error.
        model = AutoModelForImageSegmentation.from_pretrained(source)
        return pipeline("nuclei-segmentation", model=model, image_processor=_image_processor(source), device=place)


def _is_hub_adapter(source: str) -> bool:
    """Whether an adapter is known to be in a Hub repository."""
    from ..model.adapter_files import find_adapter

    try:
        return not os.path.isdir(source) and find_adapter(source) is not None
    except OSError:
        return False


def _image_processor(source: str):
    """The image processor saved with a checkpoint; None where there is none, which the pipeline warns of."""
    from ..model.image_processing_cfsam import CfSamImageProcessor

    try:
        return CfSamImageProcessor.from_pretrained(source)
    except OSError as error:
        if "Can't load image processor" in str(error):  # and not, for example, that it is damaged
            return None
        raise
