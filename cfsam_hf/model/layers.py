"""The convolutional blocks of fusion, mask decoder and refinement.

There is no BatchNorm. The activation is ReLU, since at mask stride the backward pass of GELU costs as much as the
convolution.
"""

from itertools import pairwise

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
