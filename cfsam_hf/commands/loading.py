"""A checkpoint and a device, as the command line names them, to a pipeline."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..cli import describe


def resolve_checkpoint(checkpoint: str | None) -> str:
    """The folder or Hub id to load: the bundled checkpoint where none is given.

    Raises:
        OSError: it looks like a path and there is no such folder.
    """
    if checkpoint is None:
        from ..hub import bundled_checkpoint

        return str(bundled_checkpoint())
    if os.path.isdir(checkpoint):
        return checkpoint
    path = Path(checkpoint)
    # A Hub id is NAME or OWNER/NAME; anything else, and every file, can only be meant as a path.
    if path.exists():
        raise OSError(f"{checkpoint}: is a file; --checkpoint needs the checkpoint's folder")
    if path.is_absolute() or checkpoint.count("/") > 1 or checkpoint.startswith((".", "~")):
        raise OSError(f"{checkpoint}: no such checkpoint folder")
    return checkpoint


@contextmanager
def naming_checkpoint(source: str) -> Iterator[None]:
    """Gives every error of the block the checkpoint's name.

    Loading goes through several libraries, each with kinds of errors of its own, many of which do not name it.

    Raises:
        OSError: in place of any error.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"checkpoint {source}: its safetensors file is damaged or cut short; get it again") from error
    except Exception as error:
        text = describe(error)
        hint = "" if os.path.isdir(source) else " (nor is it a folder here)"
        raise OSError(text if source in text else f"checkpoint {source}{hint}: {text}") from error


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
    """The `nuclei-segmentation` pipeline for a checkpoint on a device, both as on the command line.

    Raises:
        OSError, ValueError: the checkpoint or device cannot be had; the message names it.
    """
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, source = resolve_device(device), resolve_checkpoint(checkpoint)
    with naming_checkpoint(source):
        return pipeline("nuclei-segmentation", model=source, device=place)
