"""The tiny model that the tests share: 32 channels, 4 layers, 64 px, half of its layers windowed."""

import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation

SIZE = 64


def tiny_test_config(**options) -> CfSamConfig:
    """A configuration small enough that a forward pass takes milliseconds."""
    image = {"image_size": SIZE, "patch_size": 16}
    settings = {
        "vision_config": {
            **image,
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "window_size": 3,
            "global_attn_indexes": [1, 3],
            "num_pos_feats": 8,
            "initializer_range": 0.02,
        },
        "prompt_encoder_config": {**image, "hidden_size": 16},
        "mask_decoder_config": {
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        "num_types": 3,
        "adapter_dim": 8,
        "adapter_context_dim": 4,
        "fusion_dim": 16,
        "mask_dim": 8,
    }
    return CfSamConfig(**{**settings, **options})


def tiny_test_model(seed: int = 0, **options) -> CfSamForNucleiSegmentation:
    """The tiny model in evaluation mode; what starts at zero is filled, so that every part has an effect."""
    torch.manual_seed(seed)
    model = CfSamForNucleiSegmentation(tiny_test_config(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


def random_labels(batch: int, height: int = SIZE, width: int = SIZE, num_types: int = 3, seed: int = 0) -> dict:
    """Random labels in the form that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    nuclei = (torch.rand(batch, height, width, generator=generator) > 0.6).long()
    types = torch.randint(1, num_types + 1, (batch, height, width), generator=generator) * nuclei
    return {
        "nuclei_labels": nuclei,
        "hv_labels": torch.rand(batch, 2, height, width, generator=generator) * 2 - 1,
        "type_labels": types,
        "boundary_labels": (torch.rand(batch, height, width, generator=generator) > 0.8).long() * nuclei,
    }
