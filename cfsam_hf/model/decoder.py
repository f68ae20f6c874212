"""The task decoder: SAM's two-way transformer with one learned token per output map instead of prompts and masks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamFeedForward, SamLayerNorm, SamMaskDecoder

from .layers import ConvBlock, DetailStem, SeparableBlock, UpsampleBlock, ZeroConv2d


class StyleTokens(nn.Module):
    """A learned token for the manner of outlining of each data set, and a neutral one.

    The token joins the task tokens in the mask decoder, and scales and shifts the fused features (FiLM, which starts
    as the identity).

    Args:
        num_styles (`int`): number of styles; the neutral one is not counted.
        hidden_size (`int`): width E of SAM's mask decoder.
        fusion_dim (`int`): width D of the fused map.
        dropout (`float`): probability that a training image gets the neutral token, which thereby learns from all.
    """

    def __init__(self, num_styles: int, hidden_size: int, fusion_dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(num_styles + 1, hidden_size)
        self.modulation = ZeroConv2d(hidden_size, 2 * fusion_dim, 1)

    def forward(self, style_ids: torch.Tensor, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Style numbers (B,), 0 for the neutral one, and fused map (B, D, h, w) to tokens (B, E) and modulated map."""
        if self.training and self.dropout:
            dropped = torch.rand(style_ids.shape, device=style_ids.device) < self.dropout
            style_ids = style_ids.masked_fill(dropped, 0)
        tokens = self.tokens(style_ids)
        scale, shift = self.modulation(tokens[:, :, None, None]).chunk(2, dim=1)
        return tokens, fused * (1 + scale) + shift


class MaskFeatures(nn.Module):
    """Up-samples the fused map to the mask stride, level by level, and adds detail from the image.

    It works like the decoder of a U-Net (Ronneberger, Fischer and Brox 2015) whose lowest level is the SAM encoder's
    and whose contracting path, a small convolutional stem on the image or the levels of a pretrained trunk, sees what
    patches of 16 pixels blur.

    Args:
        fusion_dim (`int`): width D of the fused map at the patch stride.
        upscaled_dim (`int`): channels of SAM's up-scaled embedding, at a quarter of the patch stride.
        dims (`list[int]`): channels at the mask stride, at twice that, ..., at half the patch stride.
        upscaled_level (`int`): the one of these levels at a quarter of the patch stride.
        num_finer (`int`): levels of stem or trunk that are finer than the masks.
        use_stem (`bool`): whether there is a stem; ignored with a trunk.
        trunk_dims (`list[int]`): channels of the trunk's levels at strides 2, 4, ...; empty without a trunk.
        join (`str`): one of `JOINS`.
    """

    def __init__(
        self,
        fusion_dim: int,
        upscaled_dim: int,
        dims: list[int],
        upscaled_level: int,
        num_finer: int,
        use_stem: bool = True,
        trunk_dims: Sequence[int] = (),
        join: str = "double",
    ):
        super().__init__()
        self.upscaled_level, self.num_finer = upscaled_level, num_finer
        self.stem = DetailStem([dims[0]] * num_finer + dims) if use_stem and not trunk_dims else None
        self.details: nn.ModuleList | None = None
        if trunk_dims:
            # The channels of the trunk differ in scale by orders of magnitude.
            self.details = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(before, dim, 1), SamLayerNorm(dim, data_format="channels_first"))
                    for before, dim in zip(trunk_dims[num_finer:], dims, strict=False)
                ]
            )
        self.up = nn.ModuleList([UpsampleBlock(below, dim) for dim, below in pairwise([*dims, fusion_dim])])
        self.concatenates = join == "double"
        joined = 2 if use_stem or trunk_dims else 1
        self.join = nn.ModuleList([_join(join, joined * dim, dim) for dim in dims])
        self.upscaled_projection = nn.Conv2d(upscaled_dim, dims[upscaled_level], 1)

    def forward(
        self,
        fused: torch.Tensor,
        upscaled: torch.Tensor,
        pixel_values: torch.Tensor,
        trunk_levels: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Computes the features that masks are read from.

        Args:
            fused (`torch.Tensor` of shape `(B, D, h, w)`).
            upscaled (`torch.Tensor` of shape `(B, U, 4h, 4w)`): SAM's up-scaled embedding.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): read by the stem.
            trunk_levels: (B, C, H / 2, W / 2), (B, C, H / 4, W / 4), ... with a trunk.

        Returns:
            (B, F, H / s, W / s).
        """
        details = None
        if self.details is not None:
            levels = trunk_levels[self.num_finer :]
            details = [project(level) for project, level in zip(self.details, levels, strict=False)]
        elif self.stem is not None:
            details = self.stem(pixel_values)[self.num_finer :]
        features = fused
        for level in reversed(range(len(self.up))):
            features = self.up[level](features)
            if level == self.upscaled_level:
                features = features + self.upscaled_projection(upscaled)
            if details is not None and self.concatenates:
                features = torch.cat([features, details[level]], dim=1)
            elif details is not None:
                features = features + details[level]
            features = self.join[level](features)
        return features


def _join(kind: str, joined: int, dim: int) -> nn.Module:
    """What follows the meeting of coarser features and details, which have `joined` channels if concatenated."""
    if kind == "double":
        return nn.Sequential(ConvBlock(joined, dim), ConvBlock(dim, dim))
    return ConvBlock(dim, dim) if kind == "single" else SeparableBlock(dim)


class TaskMaskDecoder(nn.Module):
    """Task tokens, and hyper-networks that turn each token into the filter of its map.

    The two-way transformer and the up-scaling belong to SAM and are passed in at run time, so that their weights keep
    SAM's names.

    Args:
        num_maps (`int`): number of output maps, one token each.
        hidden_size (`int`): width of SAM's mask decoder.
        mask_dim (`int`): channels F of the features that the filters read.
    """

    def __init__(self, num_maps: int, hidden_size: int, mask_dim: int):
        super().__init__()
        self.mask_dim = mask_dim
        self.task_tokens = nn.Embedding(num_maps, hidden_size)
        self.filters = nn.ModuleList(
            [SamFeedForward(hidden_size, hidden_size, mask_dim + 1, num_layers=3) for _ in range(num_maps)]
        )

    def attend(
        self,
        sam_decoder: SamMaskDecoder,
        embedding: torch.Tensor,
        position: torch.Tensor,
        style: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lets tokens and image embedding attend to each other, then up-scales the embedding like SAM.

        Args:
            sam_decoder (`SamMaskDecoder`).
            embedding (`torch.Tensor` of shape `(B, E, h, w)`): image embedding with SAM's "no mask" prompt added.
            position (`torch.Tensor` of shape `(1, E, h, w)`): SAM's dense positional encoding.
            style (`torch.Tensor` of shape `(B, E)`, *optional*): a token that the others can attend to.

        Returns:
            Tokens (B, number of maps, E) and the up-scaled embedding (B, E / 8, 4h, 4w).
        """
        batch, channels, height, width = embedding.shape
        # Looked up, and not read off the weight, so that the hooks of offloaded modules run.
        tokens = self.task_tokens(torch.arange(self.task_tokens.num_embeddings, device=embedding.device))
        tokens = tokens.to(embedding.device).expand(batch, 1, -1, -1)
        if style is not None:
            tokens = torch.cat([tokens, style[:, None, None].to(tokens)], dim=2)
        tokens, embedding = sam_decoder.transformer(
            point_embeddings=tokens,
            image_embeddings=embedding,
            image_positional_embeddings=position,
            attention_similarity=None,
        )
        embedding = embedding.transpose(2, 3).reshape(batch, channels, height, width)
        upscaled = sam_decoder.upscale_conv1(embedding)
        upscaled = sam_decoder.activation(sam_decoder.upscale_layer_norm(upscaled))
        upscaled = sam_decoder.activation(sam_decoder.upscale_conv2(upscaled))
        return tokens[:, 0, : self.task_tokens.num_embeddings], upscaled

    def read_maps(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Computes the initial maps (B, M, H / s, W / s) from tokens (B, M, E) and features (B, F, H / s, W / s)."""
        filters = torch.stack([network(tokens[:, i]) for i, network in enumerate(self.filters)], dim=1).to(
            features.device
        )  # (B, M, F + 1)
        weights, bias = filters[..., :-1] * self.mask_dim**-0.5, filters[..., -1:]
        maps = weights @ features.flatten(2) + bias
        return maps.unflatten(2, features.shape[2:])
