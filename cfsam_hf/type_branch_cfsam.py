"""The type branch: what kind of nucleus lies at each place, read off the image by a pretrained trunk of its own."""

import torch
import torch.nn.functional as F
from torch import nn

from .trunk_cfsam import LEVELS, LiteTrunk, resample_level

STRIDE = 4
"""Of the type maps in pixels: a nucleus at 40x has some 25 cells."""
# Level of the trunk, and side of the square over which it is averaged, in cells of its own: the nucleus' neighbourhood
# (36 px) and the tissue around (80 and 208 px).
CONTEXTS = ((1, 9), (4, 5), (4, 13))


class TypeBranch(nn.Module):
    """Reads every level of the trunk, and some averaged over the surroundings, at the cells of one grid.

    Outlines and types want different training. Outlines gain from thousands of steps on strongly changed colours and
    sizes; types are told by colour and size, their examples are few, and features trained on these alone fit the tiles
    they were seen in. Here types are read from features of another origin, none of which the outlines depend on.

    Args:
        num_types (`int`): T, background not counted.
        dim (`int`): channels that all levels are projected to.
        dropout (`float`): of these, in training.
    """

    def __init__(self, num_types: int, dim: int, dropout: float):
        super().__init__()
        self.trunk = LiteTrunk()
        self.levels = nn.ModuleList([nn.Conv2d(channels, dim, 1) for _, channels in LEVELS])
        self.contexts = nn.ModuleList([nn.Conv2d(LEVELS[level][1], dim, 1, bias=False) for level, _ in CONTEXTS])
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(dim, num_types, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W), H and W multiples of 4, to logits of the types given a nucleus (B, T, H / 4, W / 4)."""
        # Last in memory the channels are read together: the trunk takes .7 of the time, the resampling half.
        maps = self.trunk(pixel_values.contiguous(memory_format=torch.channels_last))
        read = [(index, maps[index], project) for index, project in enumerate(self.levels)]
        for (index, side), project in zip(CONTEXTS, self.contexts, strict=True):
            read.append((index, _box_average(maps[index], side), project))
        by_stride: dict[int, list[tuple[torch.Tensor, nn.Conv2d]]] = {}
        for index, features, project in read:
            by_stride.setdefault(LEVELS[index][0], []).append((features, project))
        size = tuple(length // STRIDE for length in pixel_values.shape[2:])
        features = sum(_read_stride(stride, entries, size) for stride, entries in by_stride.items())
        return self.classify(self.dropout(F.relu(features)))


def _box_average(features: torch.Tensor, side: int) -> torch.Tensor:
    """Means of the squares of `side` cells around each cell; beyond the tile's edge there is nothing to average."""
    half = side // 2
    rows = F.avg_pool2d(features, (side, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), count_include_pad=False)


def _read_stride(stride: int, entries: list[tuple[torch.Tensor, nn.Conv2d]], size: tuple[int, int]) -> torch.Tensor:
    """Sum of the projected maps of one stride, at the cells of the grid; resampled where it costs least."""
    features = torch.cat([level for level, _ in entries], dim=1)
    weight = torch.cat([project.weight for _, project in entries], dim=1)
    bias = sum(project.bias for _, project in entries if project.bias is not None)
    if stride <= STRIDE:
        return F.conv2d(resample_level(features, stride, size, STRIDE), weight, bias)
    return resample_level(F.conv2d(features, weight, bias), stride, size, STRIDE)


def join_with_nuclei(nuclei_logits: torch.Tensor, type_logits: torch.Tensor) -> torch.Tensor:
    """Logits of background and types from those of nuclei and of types given a nucleus.

    Their softmax is 1 - p for the background and p times the probability of each type, with p the nuclei logit's
    probability. The nuclei logit is held fixed: what is learned about types changes no outline.

    Args:
        nuclei_logits (`torch.Tensor` of shape `(B, 1, H, W)`).
        type_logits (`torch.Tensor` of shape `(B, T, H, W)`).

    Returns:
        (B, T + 1, H, W).
    """
    nuclei_logits = nuclei_logits.detach()
    return torch.cat([torch.zeros_like(nuclei_logits), nuclei_logits + type_logits.log_softmax(1)], dim=1)
