"""Gives a trained model finer maps (`map_upscale`). They begin as its present ones before these are interpolated."""

import torch

from ..model.configuration_cfsam import CfSamConfig
from ..model.modeling_cfsam import CfSamForNucleiSegmentation


def with_finer_maps(model: CfSamForNucleiSegmentation, upscale: int) -> CfSamForNucleiSegmentation:
    """A copy of a trained model with finer maps. All pixels within one cell of the base's maps begin with its value.

    Args:
        model: with a `map_upscale` of 1; stays unchanged.
        upscale: the `map_upscale` of the copy.

    Raises:
        ValueError: the model's maps have parts already, or the cells cannot be divided in this way.
    """
    if model.config.map_upscale != 1:
        raise ValueError(
            f"map_upscale is {model.config.map_upscale} in the base and cannot be changed to {upscale}; start from a "
            "base in which it is 1"
        )
    new = CfSamForNucleiSegmentation(CfSamConfig.from_dict({**model.config.to_dict(), "map_upscale": upscale}))
    before, parts = model.state_dict(), upscale**2
    with torch.no_grad():
        for name, value in new.state_dict().items():
            old = before[name]
            if old.shape == value.shape:
                value.copy_(old)
            elif name.startswith("task_decoder.filters."):
                # A network's filters of the parts follow one another.
                value.copy_(torch.cat([old] * parts))
            elif name == "refinement.head.0.0.weight":
                # Its input consists of features and cues, followed by the maps, whose parts share their weight.
                others = old.shape[1] - model.num_maps
                value[:, :others] = old[:, :others]
                value[:, others:] = old[:, others:].repeat_interleave(parts, dim=1) / parts
            else:
                value.copy_(old.repeat_interleave(parts, dim=0))
    return new
