"""How features meet: HMFM, the Hierarchical Modulated Fusion Module (arXiv 2603.28027; the numbers are this project's
choice), fuses the encoder's levels; the fused map is then up-sampled and joined with details of the image, which come
from a convolutional stem or a trunk.

The blocks have no BatchNorm. Their activation is ReLU, since at mask stride the backward pass of GELU costs as much as
the convolution.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.sam.modeling_sam import SamLayerNorm


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts as zero. The model recognises the class and initialises it."""


class ConvBlock(nn.Sequential):
    """3x3 convolution, layer norm over channels, ReLU.

    Args:
        in_channels, out_channels (`int`).
        stride, dilation (`int`): of the convolution; the output has the input's size over `stride`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation),
            SamLayerNorm(out_channels, data_format="channels_first"),
            nn.ReLU(),
        )


class SeparableBlock(nn.Module):
    """Depthwise 3x3 convolution, layer norm over channels, two 1x1 convolutions; added to the input.

    Args:
        channels (`int`): of input and output; there are twice as many between the two 1x1 convolutions.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = SamLayerNorm(channels, data_format="channels_first")
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features (B, C, H, W) to features of the same shape."""
        return features + self.project(F.relu(self.expand(self.norm(self.depthwise(features)))))


class UpsampleBlock(nn.Sequential):
    """Learned x2 up-sampling: 2x2 transposed convolution, layer norm over channels, ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2),
            SamLayerNorm(out_channels, data_format="channels_first"),
            nn.ReLU(),
        )


class HierarchicalModulatedFusion(nn.Module):
    """Aggregates several encoder levels into one map, with weights that depend on position and image.

    Every level is projected to D channels and modulated at each position with a scale and a shift computed from the
    neck's embedding (FiLM, which starts as the identity). Softmax weights over the levels, one set per position, mix
    them.

    Args:
        hidden_size (`int`): width C of the encoder.
        num_levels (`int`): number of levels.
        embedding_dim (`int`): channels of the neck's embedding.
        fusion_dim (`int`): width D.
    """

    def __init__(self, hidden_size: int, num_levels: int, embedding_dim: int, fusion_dim: int):
        super().__init__()
        self.level_projections = nn.ModuleList([nn.Conv2d(hidden_size, fusion_dim, 1) for _ in range(num_levels)])
        self.level_norms = nn.ModuleList(
            [SamLayerNorm(fusion_dim, data_format="channels_first") for _ in range(num_levels)]
        )
        self.modulations = nn.ModuleList([ZeroConv2d(embedding_dim, 2 * fusion_dim, 1) for _ in range(num_levels)])
        self.level_scores = nn.ModuleList([nn.Conv2d(fusion_dim, 1, 1) for _ in range(num_levels)])

    def modulated_levels(self, levels: list[torch.Tensor], embedding: torch.Tensor) -> list[torch.Tensor]:
        """Projects and modulates each level (B, h, w, C) to (B, D, h, w)."""
        modulated = []
        for level, project, norm, modulate in zip(
            levels, self.level_projections, self.level_norms, self.modulations, strict=True
        ):
            scale, shift = modulate(embedding).chunk(2, dim=1)
            modulated.append(norm(project(level.permute(0, 3, 1, 2))) * (1 + scale) + shift)
        return modulated

    def forward(self, levels: list[torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        """Fuses levels (B, h, w, C) and embedding (B, E, h, w) into one map (B, D, h, w)."""
        modulated = self.modulated_levels(levels, embedding)
        scores = torch.cat([score(level) for score, level in zip(self.level_scores, modulated, strict=True)], dim=1)
        weights = scores.softmax(dim=1)  # (B, levels, h, w)
        return cast(torch.Tensor, sum(weights[:, i : i + 1] * level for i, level in enumerate(modulated)))


class DetailStem(nn.Module):
    """A light convolutional pyramid on the image, for what a patch embedding loses (this project's addition).

    Args:
        channels (`list[int]`): width at strides 2, 4, ...; one level each.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        widths = [3, *channels]
        self.levels = nn.ModuleList(
            [
                nn.Sequential(ConvBlock(before, width, stride=2), ConvBlock(width, width))
                for before, width in pairwise(widths)
            ]
        )

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Maps pixels (B, 3, H, W) to one map per level, (B, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        maps = []
        features = pixel_values
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return maps


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
