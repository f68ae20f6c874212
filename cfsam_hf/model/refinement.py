"""BGMR, the Boundary-Guided Mask Refinement (arXiv 2603.28027; the numbers are this project's choice)."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.sam.modeling_sam import SamLayerNorm

from .layers import ConvBlock, ZeroConv2d


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
    """

    def __init__(self, mask_dim: int, num_maps: int, dilations: list[int], dim: int | None = None, stride: int = 2):
        super().__init__()
        self.stride = stride
        self.reduce: nn.Module | None = None
        if dim is not None:
            self.reduce = nn.Sequential(
                nn.Conv2d(mask_dim + 3 * stride**2, dim, 1), SamLayerNorm(dim, data_format="channels_first"), nn.ReLU()
            )
            mask_dim = dim
        context_dim = max(1, mask_dim // 2)
        self.contexts = nn.ModuleList([ConvBlock(mask_dim, context_dim, dilation=rate) for rate in dilations])
        self.merge = nn.Sequential(nn.Conv2d(context_dim * len(dilations), mask_dim, 1), nn.ReLU())
        self.boundary = nn.Conv2d(mask_dim, 1, 1)
        self.head = nn.Sequential(ConvBlock(mask_dim + num_maps, mask_dim), ZeroConv2d(mask_dim, num_maps, 1))

    def forward(
        self,
        features: torch.Tensor,
        maps: torch.Tensor,
        normalised_maps: torch.Tensor,
        pixel_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refines the initial maps.

        Args:
            features (`torch.Tensor` of shape `(B, F, H / s, W / s)`).
            maps (`torch.Tensor` of shape `(B, M, H / s, W / s)`): initial maps (logits and offsets).
            normalised_maps (`torch.Tensor` of the same shape): the initial maps as probabilities and offsets.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`).

        Returns:
            Refined maps (B, M, H / s, W / s) and boundary logits (B, 1, H / s, W / s).
        """
        if self.reduce is not None:
            pixels = F.pixel_unshuffle(pixel_values, self.stride).contiguous(memory_format=torch.channels_last)
            features = self.reduce(torch.cat([features, pixels.to(features.dtype)], dim=1))
        cues = self.merge(torch.cat([context(features) for context in self.contexts], dim=1))
        boundary_logits = self.boundary(cues)
        gated = features * boundary_logits.sigmoid() + cues
        # Layer norms over channels leave the features with channels last in memory. If maps in another layout joined
        # them, later operations would copy everything back and forth and take half as long again.
        maps_beside = normalised_maps.to(gated.dtype).contiguous(memory_format=torch.channels_last)
        residual = self.head(torch.cat([gated, maps_beside], dim=1))
        return maps + residual, boundary_logits
