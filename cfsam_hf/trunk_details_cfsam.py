"""What the type branch's pretrained trunk adds to the outlines: its levels, among the features of their stride."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers_cfsam import ZeroConv2d
from .trunk_cfsam import LEVELS

READ_LEVELS = tuple(range(1, len(LEVELS)))
"""Levels of the trunk that are read. That of stride 2 is not: the stem sees as much there."""


def read_at_middles(features: torch.Tensor, stride: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Projects a level and reads it at the middles of cells of its own stride, in one convolution.

    Value i of the level is centred on pixel `s * i`, the cell i on `s * i + (s - 1) / 2`: between it and the next.

    Args:
        features (`torch.Tensor` of shape `(B, C, h, w)`).
        stride (`int`): s.
        weight (`torch.Tensor` of shape `(D, C, 1, 1)`), bias (`torch.Tensor` of shape `(D,)`): the projection.

    Returns:
        (B, D, h, w); the outermost values are held beyond them.
    """
    share = (stride - 1) / (2 * stride)
    taps = weight.new_tensor([1 - share, share])
    padded = F.pad(features, (0, 1, 0, 1), mode="replicate")
    return F.conv2d(padded, weight * (taps[:, None] * taps), bias)


class TrunkDetails(nn.Module):
    """Brings levels of the trunk to the channels of the mask features at the same strides; zero at the start.

    Args:
        channels (`dict[int, int]`): stride in pixels, and channels of the features there. Levels of other strides are
            not read.
    """

    def __init__(self, channels: dict[int, int]):
        super().__init__()
        self.levels = [i for i in READ_LEVELS if LEVELS[i][0] in channels]
        self.project = nn.ModuleList(
            [ZeroConv2d(LEVELS[i][1], channels[LEVELS[i][0]], 1, bias=True) for i in self.levels]
        )

    def forward(self, levels: list[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Levels of the trunk, standardised, one per entry of `LEVELS`; to what is added, by stride."""
        found: dict[int, torch.Tensor] = {}
        for i, project in zip(self.levels, self.project, strict=True):
            stride = LEVELS[i][0]
            read = read_at_middles(levels[i], stride, project.weight, project.bias)
            found[stride] = found[stride] + read if stride in found else read
        return found
