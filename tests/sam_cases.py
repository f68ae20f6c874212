"""A plain `SamModel` with random weights in a folder: the base of the adapters in tests."""

import copy
from pathlib import Path

import torch
from transformers import SamConfig, SamModel

from cfsam_hf import CfSamForNucleiSegmentation

from .tiny import tiny_test_config

# The sizes of the tiny test model, which a plain SAM's configuration does not hold.
SIZES = {"adapter_dim": 8, "adapter_context_dim": 4, "fusion_dim": 16, "mask_dim": 8}


def tiny_sam(seed: int = 1) -> SamModel:
    """A tiny SamModel in evaluation mode whose position embeddings are not zero."""
    torch.manual_seed(seed)
    parts = tiny_test_config().to_dict()
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    sam = SamModel(SamConfig(**{name: parts[name] for name in names})).eval()
    with torch.no_grad():
        sam.vision_encoder.pos_embed.normal_()
        for layer in sam.vision_encoder.layers:
            layer.attn.rel_pos_h.normal_()
            layer.attn.rel_pos_w.normal_()
    return sam


def for_comparison(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose outputs depend on the values of its weights alone, to the last bit.

    Kernels round by how memory is aligned (libraries leave weights where a file has them) and by `requires_grad`.
    """
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def disturb(model: torch.nn.Module, seed: int = 0) -> None:
    """Changes every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def trained_on(base: Path, seed: int, **options) -> CfSamForNucleiSegmentation:
    """A CF-SAM on a base, as if trained, in evaluation mode."""
    torch.manual_seed(seed)
    model = CfSamForNucleiSegmentation.from_pretrained(base, **{**SIZES, **options})
    disturb(model, seed)
    return model
