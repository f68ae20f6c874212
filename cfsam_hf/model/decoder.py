"""From features to maps: SAM's two-way transformer with a learned token for each map instead of prompts and masks, and
the refinement of its maps at boundaries (BGMR, arXiv 2603.28027; the numbers are this project's choice)."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.sam.modeling_sam import SamFeedForward, SamLayerNorm, SamMaskDecoder

from .fusion import ConvBlock, ZeroConv2d


def joined_parts(parts: torch.Tensor, upscale: int) -> torch.Tensor:
    """Maps (B, M, r h, r w) from the r^2 parts of each cell (B, M r^2, h, w); r is `upscale`."""
    return parts if upscale == 1 else F.pixel_shuffle(parts, upscale)


def parts_of(maps: torch.Tensor, upscale: int) -> torch.Tensor:
    """The reverse of `joined_parts`, written out since `pixel_unshuffle` fixes the size of maps in an ONNX file."""
    if upscale == 1:
        return maps
    corners = [maps[..., row::upscale, column::upscale] for row in range(upscale) for column in range(upscale)]
    return torch.stack(corners, dim=2).flatten(1, 2)


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


class TaskMaskDecoder(nn.Module):
    """Task tokens, and hyper-networks that turn each token into the filter of its map.

    The two-way transformer and the up-scaling belong to SAM and are passed in at run time, so that their weights keep
    SAM's names.

    Args:
        num_maps (`int`): number of output maps, one token each.
        hidden_size (`int`): width of SAM's mask decoder.
        mask_dim (`int`): channels F of the features that the filters read.
        upscale (`int`): rows and columns of the maps per row and column of the features. Each network makes a filter
            for every part of a cell (sub-pixel convolution, Shi et al. 2016, arXiv 1609.05158).
    """

    def __init__(self, num_maps: int, hidden_size: int, mask_dim: int, upscale: int = 1):
        super().__init__()
        self.mask_dim, self.upscale = mask_dim, upscale
        self.task_tokens = nn.Embedding(num_maps, hidden_size)
        outputs = upscale**2 * (mask_dim + 1)
        self.filters = nn.ModuleList(
            [SamFeedForward(hidden_size, hidden_size, outputs, num_layers=3) for _ in range(num_maps)]
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
        """Computes initial maps (B, M, r h, r w) from tokens (B, M, E) and features (B, F, h, w); r is `upscale`."""
        filters = torch.stack([network(tokens[:, i]) for i, network in enumerate(self.filters)], dim=1).to(
            features.device
        )  # (B, M, r^2 (F + 1))
        filters = filters.flatten(1).unflatten(1, (-1, self.mask_dim + 1))
        weights, bias = filters[..., :-1] * self.mask_dim**-0.5, filters[..., -1:]
        maps = weights @ features.flatten(2) + bias
        return joined_parts(maps.unflatten(2, features.shape[2:]), self.upscale)


class BoundaryGuidedRefinement(nn.Module):
    """Finds boundaries in several contexts and refines the initial maps there.

    Parallel dilated convolutions compute multi-context cues, and from them a boundary map, which is supervised with
    the true contours. A small head, which starts at zero, takes the features gated by the boundary probability, the
    cues and the initial maps; its output is added to the initial maps.

    Args:
        mask_dim (`int`): channels F of the features.
        num_maps (`int`): number of maps M that are refined.
        dilations (`list[int]`): dilation rates.
        dim (`int`, *optional*):
            Channels that a 1x1 convolution reduces the features to, together with the pixels of each cell, so that
            boundaries are found at the resolution of the image. Default: the features are taken unchanged, without
            pixels.
        stride (`int`): of the features in pixels; with `dim`.
        upscale (`int`): rows and columns of the maps per row and column of the features.
    """

    def __init__(
        self,
        mask_dim: int,
        num_maps: int,
        dilations: list[int],
        dim: int | None = None,
        stride: int = 2,
        upscale: int = 1,
    ):
        super().__init__()
        self.stride, self.upscale = stride, upscale
        self.reduce: nn.Module | None = None
        if dim is not None:
            self.reduce = nn.Sequential(
                nn.Conv2d(mask_dim + 3 * stride**2, dim, 1), SamLayerNorm(dim, data_format="channels_first"), nn.ReLU()
            )
            mask_dim = dim
        context_dim = max(1, mask_dim // 2)
        self.contexts = nn.ModuleList([ConvBlock(mask_dim, context_dim, dilation=rate) for rate in dilations])
        self.merge = nn.Sequential(nn.Conv2d(context_dim * len(dilations), mask_dim, 1), nn.ReLU())
        parts = upscale**2
        self.boundary = nn.Conv2d(mask_dim, parts, 1)
        self.head = nn.Sequential(
            ConvBlock(mask_dim + num_maps * parts, mask_dim), ZeroConv2d(mask_dim, num_maps * parts, 1)
        )

    def forward(
        self,
        features: torch.Tensor,
        maps: torch.Tensor,
        normalised_maps: torch.Tensor,
        pixel_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refines the initial maps.

        Args:
            features (`torch.Tensor` of shape `(B, F, h, w)`).
            maps (`torch.Tensor` of shape `(B, M, r h, r w)`): initial maps (logits and offsets); r is `upscale`.
            normalised_maps (`torch.Tensor` of the same shape): the initial maps as probabilities and offsets.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`).

        Returns:
            Refined maps (B, M, r h, r w) and boundary logits (B, 1, r h, r w).
        """
        if self.reduce is not None:
            pixels = F.pixel_unshuffle(pixel_values, self.stride).contiguous(memory_format=torch.channels_last)
            features = self.reduce(torch.cat([features, pixels.to(features.dtype)], dim=1))
        cues = self.merge(torch.cat([context(features) for context in self.contexts], dim=1))
        boundary_logits = self.boundary(cues)
        gated = features * boundary_logits.sigmoid().mean(1, keepdim=True) + cues
        # Layer norms over channels leave the features with channels last in memory. If maps in another layout joined
        # them, later operations would copy everything back and forth and take half as long again.
        maps_beside = parts_of(normalised_maps.to(gated.dtype), self.upscale)
        maps_beside = maps_beside.contiguous(memory_format=torch.channels_last)
        residual = self.head(torch.cat([gated, maps_beside], dim=1))
        return maps + joined_parts(residual, self.upscale), joined_parts(boundary_logits, self.upscale)
