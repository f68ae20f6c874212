"""Checkpoint folders: the one that the package ships, and how one is written small."""

import os
from pathlib import Path

import torch

from ..files.atomic import atomic_folder
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.processing_cfsam import CfSamProcessor

DEFAULT_CHECKPOINT = "cfsam-tiny"

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def default_checkpoint_folder() -> Path:
    """Where the default checkpoint lies in the package."""
    return _CHECKPOINTS / DEFAULT_CHECKPOINT


def bundled_checkpoint(name: str = DEFAULT_CHECKPOINT) -> Path:
    """Folder of a checkpoint that is shipped with the package, ready for `from_pretrained`.

    Args:
        name (`str`, defaults to `"cfsam-tiny"`).

    Raises:
        ValueError: no checkpoint of that name is shipped.
    """
    folder = _CHECKPOINTS / name
    if "/" in name or not (folder / "config.json").is_file():
        known = sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))
        raise ValueError(f"No checkpoint {name!r} is bundled; there are {known}.")
    return folder


def save_compact(
    model: CfSamForNucleiSegmentation, image_processor: CfSamImageProcessor, folder: str | os.PathLike
) -> None:
    """Writes a checkpoint folder with the weights in float16, half the size, that loads as float32.

    The folder appears when it is complete; one that is there is replaced.

    Args:
        model (`CfSamForNucleiSegmentation`): in float32.
        image_processor (`CfSamImageProcessor`): saved beside it.
        folder (`str` or `os.PathLike`).

    Raises:
        ValueError: a weight is too large for float16.
    """
    weights, halves = {}, {}
    for name, value in model.state_dict().items():
        # Tied weights stay tied, and so are written once.
        weights[name] = halves.setdefault(value.data_ptr(), value.half())
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{name} does not fit into float16 (largest value {value.abs().max():g}).")
    with atomic_folder(folder) as working:
        # `dtype` in the configuration is the model's own, float32, and decides how the folder is loaded.
        model.save_pretrained(working, state_dict=weights)
        CfSamProcessor(image_processor).save_pretrained(working)
