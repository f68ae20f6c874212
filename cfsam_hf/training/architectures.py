"""Architectures that have no public SAM weights to start from."""

from typing import Any

from ..model.configuration_cfsam import CfSamConfig


def tiny_config(**options: Any) -> CfSamConfig:
    """The architecture from which `cfsam-tiny` started: SAM's own classes, 8 layers of width 192, tiles of 256 pixels.

    The bundled checkpoint later got a type branch instead of type maps.

    Every other layer attends globally, the rest in windows of 8 x 8 tokens (an even split of the 16 x 16 grid, which
    SAM's 14 would pad). All values are this project's choice.

    Args:
        options: fields of [`CfSamConfig`] that differ.
    """
    image = {"image_size": 256, "patch_size": 16}
    settings: dict[str, Any] = {
        "vision_config": {
            **image,
            "hidden_size": 192,
            "output_channels": 128,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "window_size": 8,
            "global_attn_indexes": [1, 3, 5, 7],
            "num_pos_feats": 64,
            # The absolute position in a tile says nothing about a nucleus; attention keeps relative positions.
            "use_abs_pos": False,
            # SAM's own value of 1e-10 suits only weights that are loaded afterwards.
            "initializer_range": 0.02,
            # Frequencies of the decoder's positional encoding: SAM's default grows with the width and is learned.
            "scale": 2.0,
        },
        "prompt_encoder_config": {**image, "hidden_size": 128},
        "mask_decoder_config": {
            "hidden_size": 128,
            "mlp_dim": 512,
            "num_attention_heads": 8,
            "iou_head_hidden_dim": 64,
        },
        "adapter_dim": 32,
        "mask_dim": 32,
        "coarser_dims": [80, 160],
    }
    return CfSamConfig(**{**settings, **options})
