"""Writes a checkpoint folder at half its size."""

import os

import torch

from ..files.atomic import atomic_folder
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.processing_cfsam import CfSamProcessor


def save_compact(
    model: CfSamForNucleiSegmentation, image_processor: CfSamImageProcessor, folder: str | os.PathLike
) -> None:
    """Writes a checkpoint folder whose weights are stored in float16 and loaded as float32.

    The folder appears when it is complete and replaces an existing one.

    Args:
        model (`CfSamForNucleiSegmentation`): in float32.
        image_processor (`CfSamImageProcessor`): saved beside the weights.
        folder (`str` or `os.PathLike`).

    Raises:
        OSError: the folder cannot be written.
        ValueError: a weight is too large for float16.
    """
    weights: dict[str, torch.Tensor] = {}
    halves: dict[int, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        # Tied weights stay tied, so they are written once.
        weights[name] = halves.setdefault(value.data_ptr(), value.half())
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{name} does not fit into float16 (largest value {value.abs().max():g}).")
    with atomic_folder(folder) as working:
        # `dtype` in the configuration is the model's own, float32, and decides how the folder is loaded.
        model.save_pretrained(working, state_dict=weights)
        CfSamProcessor(image_processor).save_pretrained(working)
