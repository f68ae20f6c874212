"""The convolutional trunk: the first stages of EfficientNet-Lite0, for whose weights there is no need of SAM's.

EfficientNet (Tan and Le 2019, arXiv 1905.11946) in the form without squeeze-and-excitation and with ReLU6 that Google
published as "Lite". The batch norms are folded into the convolutions, which is exact once they are no longer trained.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.sam.modeling_sam import SamLayerNorm

# Channels, kernel, stride of the first block, expansion, blocks: the stages that are no coarser than SAM's patches.
STAGES = ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 3))
FIRST_CHANNELS = 32
LEVEL_CHANNELS = {2: 16, 4: 24, 8: 40, 16: 80 + 112}
"""Channels by stride in pixels of what the trunk gives; the two stages at stride 16 are joined."""


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation; added to the input where shapes allow.

    Args:
        in_channels, out_channels, kernel_size, stride (`int`).
        expansion (`int`): of the channels; 1 leaves the first convolution out.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(width, width, kernel_size, stride, kernel_size // 2, groups=width)
        self.project = nn.Conv2d(width, out_channels, 1)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, C, H, W) to (B, out_channels, H / stride, W / stride)."""
        inner = F.relu6(self.expand(features)) if self.expand is not None else features
        inner = self.project(F.relu6(self.depthwise(inner)))
        return features + inner if self.adds else inner


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 to stride 16.

    Padding is the same on both sides, where TensorFlow's depends on the size: what is seen of the tissue is the same
    but for a shift of a pixel. The normalisation of Lite's own pixels is part of the first convolution, so that the
    trunk reads what SAM's encoder reads.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, FIRST_CHANNELS, 3, 2, 1)
        self.stages = nn.ModuleList()
        before = FIRST_CHANNELS
        for channels, kernel_size, stride, expansion, count in STAGES:
            blocks = []
            for i in range(count):
                blocks.append(InvertedResidual(before, channels, kernel_size, stride if i == 0 else 1, expansion))
                before = channels
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Pixels (B, 3, H, W), H and W multiples of 16, to maps (B, C, H / s, W / s) as in `LEVEL_CHANNELS`."""
        features = F.relu6(self.first(pixel_values))
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        *finer, before, last = maps
        return [*finer, torch.cat([before, last], dim=1)]


class TrunkStem(nn.Module):
    """The trunk's finer levels in the form in which the mask features take the image's detail.

    Args:
        channels (`list[int]`): width at strides 2, 4, ...; one level each.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(LEVEL_CHANNELS[2 << i], width, 1),
                    SamLayerNorm(width, data_format="channels_first"),
                    nn.ReLU(),
                )
                for i, width in enumerate(channels)
            ]
        )

    def forward(self, trunk_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The trunk's maps to one map per level, (B, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        return [level(maps) for level, maps in zip(self.levels, trunk_maps, strict=False)]
