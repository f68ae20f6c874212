"""Two views of every crop whose maps are to agree, so that nuclei do not depend on where a tile begins.

A network with strides gives other maps for the same tissue when it lies elsewhere in the tile. Here each crop is cut
into two windows, shifted against each other and mirrored; both are trained on, and what their maps disagree in where
they overlap is a term of the loss (as Bachman, Alsharif and Precup 2014 have it for any random change of the input).
The labels of a nucleus that a window cuts are those of all of it that lies in the crop: the same in both windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..model.maps import HV_CHANNELS
from ..model.tiling import View, views_of
from .mixing import Mixture
from .recipe import OptimizationOptions

# Tile as it is, half turn, mirror images. Each is its own inverse, so that labels turn as maps turn back.
NUM_VIEWS = 4


def shift_margin(size: int) -> int:
    """Pixels by which a crop is larger than its windows of `size`: the largest distance of the two along an axis."""
    return size // 4


@dataclass(frozen=True)
class WindowPair:
    """Where the two windows of a batch lie; all crops of a batch have the same.

    Args:
        size: side of a window in pixels.
        places: row and column of each window's corner in the crop.
        view: in which the second window is seen.
        mixture: of the second windows among each other, before they are turned; `None`: they stay as they are.
    """

    size: int
    places: tuple[tuple[int, int], tuple[int, int]]
    view: View
    mixture: Mixture | None = None

    @classmethod
    def draw(cls, size: int, mixture: Mixture | None = None) -> "WindowPair":
        """A pair drawn with torch's generator."""
        rows_and_columns = torch.randint(shift_margin(size) + 1, (2, 2)).tolist()
        view = views_of(NUM_VIEWS)[int(torch.randint(NUM_VIEWS, ()))]
        return cls(size, tuple(map(tuple, rows_and_columns)), view, mixture)

    def cut(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pixels and labels of crops to those of the windows, (2 B, ..., size, size): first the first
        windows of all B crops, then the second ones, mixed and turned."""
        windows = {}
        for name, values in batch.items():
            first, second = (values[..., y : y + self.size, x : x + self.size] for y, x in self.places)
            if self.mixture is not None:
                second = self.mixture.mix(second)
            windows[name] = torch.cat([first, self._turn(name, second)])
        return windows

    def _turn(self, name: str, values: torch.Tensor) -> torch.Tensor:
        turned = self.view.turn(values if values.ndim == 4 else values[:, None])
        if name == "hv_labels":
            signs = [-1 if flipped else 1 for flipped in (self.view.flipped_x, self.view.flipped_y)]
            turned = turned * turned.new_tensor(signs)[:, None, None]
        return turned if values.ndim == 4 else turned[:, 0]

    def overlap(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacked maps (2 B, C, size, size) of the windows, in the order of `MapLayout`, to those of the first and of
        the second windows where the two overlap, (B, C, h, w) each, pixel upon pixel: the first mixed as the second
        are."""
        first, second = maps.chunk(2)
        (first_rows, first_columns), (rows, columns) = (
            [slice(max(0, b - a), self.size - max(0, a - b)) for a, b in zip(own, other, strict=True)]
            for own, other in (self.places, self.places[::-1])
        )
        first = first[..., first_rows, first_columns]
        if self.mixture is not None:
            first = self.mixture.cut(rows, columns).mix(first)
        return first, self.view.turn_back(second)[..., rows, columns]


def disagreement(outputs, pair: WindowPair) -> torch.Tensor:
    """How much the maps of the two windows differ where they overlap: 0 for the same maps.

    Of the nuclei, boundary and type maps it is the divergence of their mean from either (Kullback and Leibler's, in
    nats, summed over the two and averaged over pixels); of the distance maps the squared distance from their mean
    where nuclei are. Each is pulled to the mean, which itself is held fixed. All is averaged over the crops.

    Args:
        outputs (`CfSamNucleiSegmentationOutput`): of the windows that `pair` has cut.
        pair: where they lie.

    Returns:
        A scalar, float32.
    """
    parts = [outputs.nuclei_logits, outputs.hv_maps]
    parts += [values for values in (outputs.boundary_logits, outputs.type_logits) if values is not None]
    both = pair.overlap(torch.cat([values.float() for values in parts], dim=1))
    nuclei = [maps[:, :1] for maps in both]
    total = _binary_divergence(nuclei)
    offsets = torch.stack([maps[:, HV_CHANNELS[0] : HV_CHANNELS[1] + 1] for maps in both])
    inside = torch.stack(nuclei).detach().sigmoid().mean(0)
    squares = (offsets - offsets.detach().mean(0)).square().sum((0, 2), keepdim=True)[0]
    total = total + ((squares * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp_min(1)).mean()
    channel = HV_CHANNELS[1] + 1
    if outputs.boundary_logits is not None:
        total = total + _binary_divergence([maps[:, channel : channel + 1] for maps in both])
        channel += 1
    if outputs.type_logits is not None:
        logs = [maps[:, channel:].log_softmax(1) for maps in both]
        mean = torch.stack(logs).detach().exp().mean(0)
        # log_softmax is never so low that a mean of two is 0 where one of them is not.
        total = total + sum((mean * (mean.clamp_min(1e-12).log() - log)).sum(1).mean() for log in logs)
    return total


def training_loss(
    model: Callable[..., Any],
    batch: dict[str, torch.Tensor],
    size: int,
    options: OptimizationOptions,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of crops, and its unweighted terms.

    Args:
        model: gives `CfSamNucleiSegmentationOutput` with a loss.
        batch: pixels and labels of crops; of `size` pixels and the margin where they are seen twice.
        size: of the windows.
        options: how much disagreement weighs (at 0 crops are seen once), and how often windows are mixed.
    """
    pixels = batch["pixel_values"]
    mixture = None
    if options.mixing_probability:
        mixture = Mixture.draw(len(pixels), size, size, options.mixing_probability, pixels.device)
    if not options.agreement_weight:
        if mixture is not None:
            batch = {name: mixture.mix(values) for name, values in batch.items()}
        output = model(**batch)
        return output.loss, output.loss_parts
    pair = WindowPair.draw(size, mixture)
    windows = pair.cut(batch)
    if batch["pixel_values"].is_contiguous(memory_format=torch.channels_last):
        windows["pixel_values"] = windows["pixel_values"].contiguous(memory_format=torch.channels_last)
    output = model(**windows)
    between = disagreement(output, pair)
    return output.loss + options.agreement_weight * between, {**output.loss_parts, "disagreement": between.detach()}


def _binary_divergence(logits: list[torch.Tensor]) -> torch.Tensor:
    """Sum over two logit maps of the mean divergence of each from the mean of their probabilities."""
    mean = torch.stack(logits).detach().sigmoid().mean(0)
    # Not F.binary_cross_entropy, which autocast refuses.
    entropy = (torch.special.entr(mean) + torch.special.entr(1 - mean)).mean()
    return sum(F.binary_cross_entropy_with_logits(values, mean) for values in logits) - 2 * entropy
