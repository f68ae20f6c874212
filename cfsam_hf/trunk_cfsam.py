"""The convolutional trunk: the first stages of EfficientNet-Lite0, whose weights come from photographs (ImageNet).

EfficientNet (Tan and Le 2019, arXiv 1905.11946) in the form without squeeze-and-excitation and with ReLU6 that Google
published as "Lite". The batch norms are folded into the convolutions, which is exact once they are no longer trained.
"""

import torch
import torch.nn.functional as F
from torch import nn

# Channels, kernel, stride of the first block, expansion, blocks. Lite0 goes on: one more block of the last stage, and
# two more stages, which hold most of its weights.
STAGES = ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 2))
FIRST_CHANNELS = 32
LEVELS = ((2, 16), (4, 24), (8, 40), (16, 80), (16, 112))
"""Stride in pixels and channels of what each stage gives."""


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
        """Features (B, C, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        inner = F.relu6(self.expand(features), inplace=True) if self.expand is not None else features
        inner = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return features + inner if self.adds else inner


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 to its second block of 112 channels.

    Padding is the same on both sides, where TensorFlow's is on one: value i of a level of stride s is then centred on
    pixel `s * i`, whatever the size of the tile, and not in the middle of pixels `s * i` to `s * (i + 1) - 1`.
    [`resample_level`] reads the levels accordingly. The normalisation of Lite's own pixels is part of the first
    convolution, so that the trunk reads what SAM's encoder reads.
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
        """Pixels (B, 3, H, W) to one map per entry of `LEVELS`, (B, C, H / s, W / s) rounded up."""
        features = F.relu6(self.first(pixel_values), inplace=True)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return levels


def _linear_weights(places: torch.Tensor, count: int) -> torch.Tensor:
    """Weights (length, count) of linear interpolation from values at 0, 1, ... to places (length,)."""
    # Past the outermost values these are held.
    places = places.clamp(0, count - 1)
    distance = (places[:, None] - torch.arange(count, device=places.device)).abs()
    return (1 - distance).clamp(min=0)


def resample_level(
    features: torch.Tensor, stride: int, size: tuple[int, int], new_stride: int, first: float = 0.0
) -> torch.Tensor:
    """Reads a level of the trunk at the middles of the cells of a grid, by linear interpolation.

    Args:
        features (`torch.Tensor` of shape `(B, C, h, w)`): value i is centred on pixel `first + stride * i`.
        stride (`int`): of the level.
        size (`tuple[int, int]`): rows and columns of the grid.
        new_stride (`int`): side of the grid's cells in pixels.
        first (`float`): pixel on which the first value is centred.

    Returns:
        (B, C, *size).
    """
    rows, columns = (
        _linear_weights(
            (torch.arange(length, device=features.device) * new_stride + (new_stride - 1) / 2 - first) / stride, count
        ).to(features.dtype)
        for count, length in zip(features.shape[2:], size, strict=True)
    )
    by_row = features.permute(0, 2, 3, 1).reshape(len(features), features.shape[2], -1)
    read = (rows @ by_row).reshape(len(features), size[0], features.shape[3], -1)
    return (columns @ read).permute(0, 3, 1, 2)
