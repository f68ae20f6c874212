"""SAM's vision encoder with a MALA beside each MLP, for tiles of any size. SAM's weights keep their names."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import (
    SamPatchEmbeddings,
    SamVisionAttention,
    SamVisionEncoder,
    SamVisionEncoderOutput,
    SamVisionLayer,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .mala import AdapterLinear, MultiScaleAdapter, MultiScaleKernel


@dataclass
class CfSamVisionEncoderOutput(SamVisionEncoderOutput):
    """As `SamVisionEncoderOutput`, with `levels`: the token maps (B, h, w, C) after the requested layers."""

    levels: tuple[torch.Tensor, ...] | None = None


class CfSamPatchEmbeddings(SamPatchEmbeddings):
    """SAM's patch projection for every image size that is a multiple of the patch size."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Maps pixels (B, 3, H, W) to patch tokens (B, H / p, W / p, C)."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {self.num_channels}, height, width), "
                f"got {tuple(pixel_values.shape)}."
            )
        height, width = pixel_values.shape[2:]
        patch_height, patch_width = self.patch_size
        if height % patch_height or width % patch_width or height == 0 or width == 0:
            raise ValueError(
                f"Image height and width must be positive multiples of the patch size {patch_height}, got {height} x "
                f"{width}; pad the image (as CfSamImageProcessor does) or change its size."
            )
        return self.projection(pixel_values).permute(0, 2, 3, 1)


class CfSamVisionLayer(SamVisionLayer):
    """A SAM encoder layer: `x + MLP(LN x) + MALA(LN x)` after SAM's own attention.

    `adapter` is `None` in layers without MALA. With `adapter_enabled` false the layer is SAM's own.
    """

    adapter_enabled = True

    def __init__(self, config: SamVisionConfig, window_size: int, adapter: MultiScaleAdapter | None):
        super().__init__(config, window_size)
        self.adapter = adapter

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps tokens (B, h, w, C) to tokens of the same shape."""
        attended = self.layer_norm1(hidden_states)
        height, width = attended.shape[1:3]
        if self.window_size > 0:
            attended, padded_shape = self.window_partition(attended, self.window_size)
        attended, _ = self.attn(hidden_states=attended)
        if self.window_size > 0:
            attended = self.window_unpartition(attended, self.window_size, padded_shape, (height, width))
        hidden_states = hidden_states + attended
        normed = self.layer_norm2(hidden_states)
        correction = self.mlp(normed)
        if self.adapter is not None and self.adapter_enabled:
            # In this order the result is bit for bit that of MALA in PEFT, a layer around the MLP.
            correction = correction + self.adapter(normed)
        return hidden_states + correction


def _is_trained(*parts: torch.nn.Module | torch.nn.Parameter | None) -> bool:
    """Whether any parameter of modules, or any of the parameters themselves, is trained."""
    return any(
        parameter.requires_grad
        for part in parts
        if part is not None
        for parameter in (part.parameters() if isinstance(part, torch.nn.Module) else [part])
    )


class CfSamVisionEncoder(SamVisionEncoder):
    """SAM's vision encoder with adapters.

    Args:
        config (`SamVisionConfig`): SAM's encoder.
        adapter_layers (`list[int]`): layers with a MALA; empty for none.
        adapter_options (`dict`): the arguments of [`MultiScaleAdapter`] except `hidden_size`.
    """

    _no_split_modules = ("CfSamVisionLayer",)
    _can_record_outputs = {"hidden_states": CfSamVisionLayer, "attentions": SamVisionAttention}  # noqa: RUF012

    def __init__(self, config: SamVisionConfig, adapter_layers: list[int], adapter_options: dict):
        super().__init__(config)
        self.patch_embed = CfSamPatchEmbeddings(config)
        for i, layer in enumerate(self.layers):
            adapter = MultiScaleAdapter(config.hidden_size, **adapter_options) if i in adapter_layers else None
            self.layers[i] = CfSamVisionLayer(config, layer.window_size, adapter)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        # With SAM's initializer range of 1e-10 an adapter could never learn, so adapters reset themselves.
        if isinstance(module, AdapterLinear | MultiScaleKernel | MultiScaleAdapter):
            module.reset()
        else:
            super()._init_weights(module)

    def position_embedding(self, height: int, width: int) -> torch.Tensor | None:
        """The absolute position embedding (1, h, w, C), interpolated (bicubic) if the stored grid differs."""
        if self.pos_embed is None or self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        stored = self.pos_embed.permute(0, 3, 1, 2)
        resized = F.interpolate(stored.float(), size=(height, width), mode="bicubic", align_corners=False)
        return resized.to(stored.dtype).permute(0, 2, 3, 1)

    def encode(
        self, pixel_values: torch.Tensor, levels: list[int], extra_tokens: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the encoder and keeps the outputs of the layers in `levels`; what `forward` wraps.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): H and W multiples of the patch size.
            levels (`list[int]`): layer numbers, ascending.
            extra_tokens (`torch.Tensor` of shape `(B, h, w, C)`, *optional*): added to the tokens of the patches.

        Returns:
            The neck's embedding (B, D, h, w) and the token maps (B, h, w, C) after the requested layers.
        """
        wants_gradient = torch.is_grad_enabled()
        # Below the first trained part nothing is stored for the backward pass, not even inputs of checkpointed layers.
        below = not pixel_values.requires_grad and not _is_trained(self.patch_embed, self.pos_embed)
        with torch.set_grad_enabled(wants_gradient and not below):
            hidden_states = self.patch_embed(pixel_values)
            position_embedding = self.position_embedding(*hidden_states.shape[1:3])
            if position_embedding is not None:
                hidden_states = hidden_states + position_embedding
        if extra_tokens is not None:
            below = below and not extra_tokens.requires_grad
            hidden_states = hidden_states + extra_tokens
        kept = []
        for i, layer in enumerate(self.layers):
            below = below and not _is_trained(layer)
            with torch.set_grad_enabled(wants_gradient and not below):
                hidden_states = layer(hidden_states)
            if i in levels:
                kept.append(hidden_states)
        return self.neck(hidden_states), kept

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        levels: list[int] | None = None,
        extra_tokens: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | CfSamVisionEncoderOutput:
        """Pixels (B, 3, H, W) to the image embedding (B, D, h, w), as in `SamVisionEncoder`.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): H and W multiples of the patch size.
            levels (`list[int]`, *optional*): layers, ascending, whose token maps are returned too.
            extra_tokens (`torch.Tensor` of shape `(B, h, w, C)`, *optional*): added to the tokens of the patches.
            output_hidden_states, output_attentions: as for any transformers model.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        embedding, kept = self.encode(pixel_values, levels or [], extra_tokens)
        return CfSamVisionEncoderOutput(last_hidden_state=embedding, levels=None if levels is None else tuple(kept))
