"""A loss on the disagreement between two windows of every crop, so that nuclei do not depend on where a tile begins.

A network with strides gives different maps for the same tissue when its place in the tile changes. Here each crop is
cut into two windows, shifted against each other and mirrored. The model trains on both, and the difference between
their maps where they overlap is a term of the loss (as in Bachman, Alsharif and Precup 2014 for any random change of
the input). A nucleus that a window cuts has the labels of its whole part in the crop, so both windows agree on them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..model.maps import HV_CHANNELS
from ..model.modeling_cfsam import CfSamNucleiSegmentationOutput
from ..model.tiling import View, views_of
from .divergence import binary_divergence, offset_difference, type_divergence
from .mixing import Mixture
from .recipe import OptimizationOptions
from .teacher import Teacher

# Unchanged, half turn, two mirror images. Each is its own inverse, so the same operation turns labels and maps back.
NUM_VIEWS = 4


def shift_margin(size: int) -> int:
    """Pixels by which a crop exceeds its windows of `size`: the largest shift between the two along an axis."""
    return size // 4


@dataclass(frozen=True)
class WindowPair:
    """Where the two windows of a batch lie, which is the same for all crops of the batch.

    Args:
        size: side of a window in pixels.
        places: row and column of each window's corner in the crop.
        view: how the second window is turned.
        mixture: of the second windows among each other, before they are turned; `None` leaves them unmixed.
    """

    size: int
    places: tuple[tuple[int, int], tuple[int, int]]
    view: View
    mixture: Mixture | None = None

    @classmethod
    def draw(cls, size: int, mixture: Mixture | None = None) -> "WindowPair":
        """A pair drawn with torch's generator."""
        (y, x), (other_y, other_x) = torch.randint(shift_margin(size) + 1, (2, 2)).tolist()
        view = views_of(NUM_VIEWS)[int(torch.randint(NUM_VIEWS, ()))]
        return cls(size, ((y, x), (other_y, other_x)), view, mixture)

    def cut(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cuts pixels and labels of crops into those of the windows, (2 B, ..., size, size): the first windows of all
        B crops, followed by the second ones, mixed and turned."""
        windows = {}
        for name, values in batch.items():
            # A value per crop, such as its style, has no place in it.
            per_pixel = values.ndim > 1
            first = second = values
            if per_pixel:
                first, second = (values[..., y : y + self.size, x : x + self.size] for y, x in self.places)
            if self.mixture is not None:
                second = self.mixture.mixed(name, second)
            windows[name] = torch.cat([first, self._turn(name, second) if per_pixel else second])
        return windows

    def _turn(self, name: str, values: torch.Tensor) -> torch.Tensor:
        turned = self.view.turn(values if values.ndim == 4 else values[:, None])
        if name == "hv_labels":
            signs = [-1 if flipped else 1 for flipped in (self.view.flipped_x, self.view.flipped_y)]
            turned = turned * turned.new_tensor(signs)[:, None, None]
        return turned if values.ndim == 4 else turned[:, 0]

    def overlap(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Selects from stacked maps (2 B, C, size, size), in the order of `MapLayout`, the area where the two windows
        overlap: maps of the first and of the second windows, (B, C, h, w) each, aligned by pixel. The first are mixed
        like the second."""
        first, second = maps.chunk(2)
        (first_rows, first_columns), (rows, columns) = (
            [slice(max(0, b - a), self.size - max(0, a - b)) for a, b in zip(own, other, strict=True)]
            for own, other in (self.places, self.places[::-1])
        )
        first = first[..., first_rows, first_columns]
        if self.mixture is not None:
            first = self.mixture.cut(rows, columns).mix(first)
        return first, self.view.turn_back(second)[..., rows, columns]


def disagreement(outputs: CfSamNucleiSegmentationOutput, pair: WindowPair) -> torch.Tensor:
    """Measures how much the maps of the two windows differ where they overlap: 0 for equal maps.

    For the nuclei, boundary and type maps it is the Kullback-Leibler divergence between each and their mean (in nats,
    summed over the two and averaged over pixels); for the distance maps the squared distance from their mean inside
    nuclei. Gradients pull each map towards the mean, which counts as constant. The result is averaged over the crops.

    Args:
        outputs: of the windows that `pair` has cut.
        pair: where they lie.

    Returns:
        A scalar, float32.
    """
    maps_in_order = (outputs.nuclei_logits, outputs.hv_maps, outputs.boundary_logits, outputs.type_logits)
    parts = [values for values in maps_in_order if values is not None]
    both = pair.overlap(torch.cat([values.float() for values in parts], dim=1))
    nuclei = [maps[:, :1] for maps in both]
    inside = _mean_probability(nuclei)
    terms = [binary_divergence(logits, inside) for logits in nuclei]
    offsets = [maps[:, HV_CHANNELS[0] : HV_CHANNELS[1] + 1] for maps in both]
    between = torch.stack(offsets).detach().mean(0)
    terms += [offset_difference(values, between, inside) for values in offsets]
    channel = HV_CHANNELS[1] + 1
    if outputs.boundary_logits is not None:
        boundaries = [maps[:, channel : channel + 1] for maps in both]
        edge = _mean_probability(boundaries)
        terms += [binary_divergence(logits, edge) for logits in boundaries]
        channel += 1
    if outputs.type_logits is not None:
        types = [maps[:, channel:] for maps in both]
        mean = torch.stack(types).detach().softmax(2).mean(0)
        terms += [type_divergence(logits, mean) for logits in types]
    return torch.stack(terms).sum()


def _mean_probability(logits: list[torch.Tensor]) -> torch.Tensor:
    """The mean of the probabilities of one-channel maps, as a constant."""
    return torch.stack(logits).detach().sigmoid().mean(0)


def training_loss(
    model: Callable[..., Any],
    batch: dict[str, torch.Tensor],
    size: int,
    options: OptimizationOptions,
    teacher: Teacher | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch of crops, and its unweighted terms.

    Args:
        model: returns `CfSamNucleiSegmentationOutput` with a loss.
        batch: pixels and labels of crops of `size` pixels, plus [`shift_margin`] if they are cut into two windows.
        size: of the windows.
        options: the weight of the disagreement (at 0 there is one window), how often windows are mixed, and the weight
            of the difference to the teacher's maps.
        teacher: whose maps are learned too, on the crops that the batch marks as `taught`.
    """
    pixels = batch["pixel_values"]
    mixture = None
    if options.mixing_probability:
        mixture = Mixture.draw(len(pixels), size, size, options.mixing_probability, pixels.device)
    pair = None
    if options.agreement_weight:
        pair = WindowPair.draw(size, mixture)
        windows = pair.cut(batch)
        if pixels.is_contiguous(memory_format=torch.channels_last):
            windows["pixel_values"] = windows["pixel_values"].contiguous(memory_format=torch.channels_last)
    elif mixture is not None:
        windows = {name: mixture.mixed(name, values) for name, values in batch.items()}
    else:
        windows = dict(batch)
    taught = windows.pop("taught", None)
    output = model(**windows)
    loss, terms = output.loss, output.loss_parts
    if pair is not None:
        between = disagreement(output, pair)
        loss, terms = loss + options.agreement_weight * between, {**terms, "disagreement": between.detach()}
    if teacher is not None and taught is not None:
        other = teacher.loss(output, windows["pixel_values"], taught, windows.get("type_labels"))
        loss, terms = loss + options.teacher_weight * other, {**terms, "teacher": other.detach()}
    return loss, terms
