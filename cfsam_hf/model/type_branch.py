"""The type branch: it predicts the type of the nucleus at each place from the image, with a pretrained trunk.

The trunk is the first stages of EfficientNet-Lite0 with ImageNet weights: EfficientNet (Tan and Le 2019, arXiv
1905.11946) without squeeze-and-excitation and with ReLU6, as Google published it under the name "Lite". The batch
norms are folded into the convolutions, which is exact since they are no longer trained.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

# Channels, kernel, stride of the first block, expansion, blocks. Lite0 has one more block in the last stage, and two
# more stages with most of its weights.
STAGES = ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 2))
FIRST_CHANNELS = 32
LEVELS = ((2, 16), (4, 24), (8, 40), (16, 80), (16, 112))
"""Stride in pixels and channels of each stage's output."""


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation; added to the input where shapes allow.

    Args:
        in_channels, out_channels, kernel_size, stride (`int`).
        expansion (`int`): of the channels; 1 omits the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(width, width, kernel_size, stride, kernel_size // 2, groups=width)
        self.project = nn.Conv2d(width, out_channels, 1)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps features (B, C, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        inner = F.relu6(self.expand(features), inplace=True) if self.expand is not None else features
        inner = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return features + inner if self.adds else inner


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 to its second block of 112 channels.

    Padding is the same on both sides, unlike TensorFlow's: value i of a level of stride s is then centred on pixel
    `s * i`, for any size of the tile, and not in the middle of pixels `s * i` to `s * (i + 1) - 1`.
    [`resample_level`] takes this into account. The first convolution includes Lite's normalisation of pixels, so the
    trunk takes the same input as SAM's encoder.
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
        """Maps pixels (B, 3, H, W) to one map per entry of `LEVELS`, (B, C, H / s, W / s) rounded up."""
        # Channels last in memory: the trunk takes .7 of the time, the resampling of its levels half.
        features = F.relu6(self.first(pixel_values.contiguous(memory_format=torch.channels_last)), inplace=True)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return levels


def _linear_weights(places: torch.Tensor, count: int) -> torch.Tensor:
    """Weights (length, count) of linear interpolation from values at 0, 1, ... to places (length,)."""
    # Beyond the outermost values the result is constant.
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
    by_row = features.permute(0, 2, 3, 1).reshape(features.shape[0], features.shape[2], -1)
    read = (rows @ by_row).reshape(features.shape[0], size[0], features.shape[3], -1)
    return (columns @ read).permute(0, 3, 1, 2)


STRIDE = 4
"""Stride of the type maps in pixels: a nucleus at 40x has about 25 cells."""

# Inputs of the classification, from the image at full and at half size: level of the trunk, and side of the square
# over which it is averaged, in cells of that level: the nucleus itself, its neighbourhood (36 px; 72 px at half size)
# and the tissue around it (80 and 208 px; 160 px at half size). The level of stride 2 adds nothing to the others.
READ = {
    1: ((1, 1), (2, 1), (3, 1), (4, 1), (1, 9), (4, 5), (4, 13)),
    2: ((1, 1), (2, 1), (3, 1), (4, 1), (1, 9), (4, 5)),
}


def channels_read(scales: Sequence[int]) -> int:
    """Number of channels that are read from the image at these scales."""
    return sum(LEVELS[level][1] for scale in scales for level, _ in READ[scale])


class LevelMap(NamedTuple):
    """Features (B, C, h, w) of one level; value i is centred on pixel `first + stride * i` of the image."""

    features: torch.Tensor
    stride: int
    first: float

    def at_cells(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Resamples features with the level's geometry at the cells of the grid, (B, C, *size)."""
        return resample_level(features, self.stride, size, STRIDE, self.first)


class FoldedProjection(nn.Conv2d):
    """A 1x1 convolution of normalised channels, with the normalisation folded into its kernel and bias."""

    bias: torch.Tensor

    def forward(  # type: ignore[override]
        self, mean: torch.Tensor, deviation: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations (C,) of the channels to the folded kernel (D, C, 1, 1) and bias (D,)."""
        weight = self.weight / deviation[:, None, None]
        return weight, self.bias - weight.flatten(1) @ mean


class TypeBranch(nn.Module):
    """Classifies the cells of one grid from levels of the trunk, some of them averaged over the surroundings.

    Outlines and types need different training. Outlines gain from thousands of steps on strongly changed colours and
    sizes; types depend on colour and size, examples are few, and features trained on these alone overfit their tiles.
    Here the features for types have another origin, and outlines do not depend on them. Their channels differ in scale
    by orders of magnitude, so each is used relative to its mean and deviation (`mean`, `deviation`; see
    [`measure`](TypeBranch.measure)).

    Args:
        num_types (`int`): T, background not counted.
        dim (`int`): channels that all levels are projected to.
        dropout (`float`): of these, in training.
        scales (`list[int]`): 1 for the image at full size, 2 for half size.
        own_trunk (`bool`): whether the branch has a trunk of its own; if not, it reads levels that are passed to it.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self, num_types: int, dim: int, dropout: float, scales: Sequence[int] = (1, 2), own_trunk: bool = True
    ):
        super().__init__()
        self.scales = list(scales)
        channels = channels_read(scales)
        self.trunk = LiteTrunk() if own_trunk else None
        self.project = FoldedProjection(channels, dim, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(dim, num_types, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, pixel_values: torch.Tensor, trunk_levels: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Maps pixels (B, 3, H, W), H and W multiples of 8, to type logits inside nuclei (B, T, H / 4, W / 4).

        A branch without a trunk of its own reads `trunk_levels`, those of the image at full size.
        """
        weight, bias = self.project(self.mean, self.deviation)
        by_place: dict[tuple[int, float], list[tuple[LevelMap, torch.Tensor]]] = {}
        levels = self._read(pixel_values, trunk_levels)
        weights = weight.split([level.features.shape[1] for level in levels], dim=1)
        for level, columns in zip(levels, weights, strict=True):
            by_place.setdefault((level.stride, level.first), []).append((level, columns))
        size = _grid(pixel_values)
        features = sum(_project(entries, size) for entries in by_place.values())
        return self.classify(self.dropout(F.relu(features + bias[:, None, None])))

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], trunk: LiteTrunk | None = None) -> None:
        """Sets means and deviations of the channels from cells of some images, before training.

        Args:
            batches: pixels (B, 3, H, W), and a boolean mask of the cells to use (B, H / 4, W / 4).
            trunk: for a branch without one of its own.

        Raises:
            ValueError: no cell is selected.
        """
        count, total, squares = 0, *(torch.zeros_like(self.mean, dtype=torch.double) for _ in range(2))
        for pixels, counted in batches:
            size = _grid(pixels)
            levels = None if trunk is None else trunk(pixels)
            read = [level.at_cells(level.features, size) for level in self._read(pixels, levels)]
            values = torch.cat(read, dim=1).movedim(1, -1)[counted].double()
            count, total, squares = count + len(values), total + values.sum(0), squares + values.square().sum(0)
        if not count:
            raise ValueError("the type branch is measured inside nuclei with types, and there are none.")
        self.mean.copy_(total / count)
        # A channel that is constant in these images must not explode in others.
        self.deviation.copy_((squares / count - (total / count).square()).clamp_min(0).sqrt().clamp_min(1e-3))

    def _read(self, pixel_values: torch.Tensor, trunk_levels: Sequence[torch.Tensor] | None = None) -> list[LevelMap]:
        """The inputs of the projection, in the order of its columns."""
        levels = []
        for scale in self.scales:
            maps = trunk_levels
            if self.trunk is not None:
                maps = self.trunk(F.avg_pool2d(pixel_values, scale) if scale > 1 else pixel_values)
            if maps is None:
                raise ValueError("a type branch without a trunk of its own needs trunk_levels")
            for level, side in READ[scale]:
                features = maps[level] if side == 1 else _box_average(maps[level], side)
                levels.append(LevelMap(features, scale * LEVELS[level][0], (scale - 1) / 2))
        return levels


def _grid(pixel_values: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the cells of an image (..., H, W)."""
    return (pixel_values.shape[-2] // STRIDE, pixel_values.shape[-1] // STRIDE)


def _box_average(features: torch.Tensor, side: int) -> torch.Tensor:
    """Means over the square of `side` cells around each cell; cells beyond the tile's edge do not count."""
    half = side // 2
    rows = F.avg_pool2d(features, (side, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), count_include_pad=False)


def _project(entries: list[tuple[LevelMap, torch.Tensor]], size: tuple[int, int]) -> torch.Tensor:
    """Sum of the projected levels of one stride at the cells of the grid, resampled at the cheapest point."""
    place = entries[0][0]
    features = torch.cat([level.features for level, _ in entries], dim=1)
    weight = torch.cat([columns for _, columns in entries], dim=1)
    if features.shape[1] < len(weight):
        return F.conv2d(place.at_cells(features, size), weight)
    return place.at_cells(F.conv2d(features, weight), size)


def join_with_nuclei(nuclei_logits: torch.Tensor, type_logits: torch.Tensor) -> torch.Tensor:
    """Logits of background and types from those of nuclei and of types inside nuclei.

    Their softmax is 1 - p for the background and p times the probability of each type, where p is the probability of
    the nuclei logit. Gradients do not reach the nuclei logit, so learning types changes no outline.

    Args:
        nuclei_logits (`torch.Tensor` of shape `(B, 1, H, W)`).
        type_logits (`torch.Tensor` of shape `(B, T, H, W)`).

    Returns:
        (B, T + 1, H, W).
    """
    nuclei_logits = nuclei_logits.detach()
    return torch.cat([torch.zeros_like(nuclei_logits), nuclei_logits + type_logits.log_softmax(1)], dim=1)
