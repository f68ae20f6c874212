"""Views of a tile, mirrored and turned: the network sees each, and the mean of their maps is what is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .maps_cfsam import HV_CHANNELS, MapLayout, stack_maps


@dataclass(frozen=True)
class View:
    """
    One of the eight ways in which a square lies on itself: rows and columns are swapped first, then mirrored.

    Args:
        transposed (`bool`): whether rows and columns change places.
        flipped_x, flipped_y (`bool`): whether the columns and the rows run backwards.
    """

    transposed: bool = False
    flipped_x: bool = False
    flipped_y: bool = False

    def turn(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tiles (B, C, H, W) in this view: (B, C, W, H) where rows and columns are swapped."""
        if self.transposed:
            pixels = pixels.transpose(2, 3).contiguous()
        return pixels.flip(self._flipped_axes) if self._flipped_axes else pixels

    def turn_back(self, maps: torch.Tensor) -> torch.Tensor:
        """
        Stacked maps (B, C, H, W) of tiles in this view, in the order of `MapLayout`, as maps of the tiles themselves.

        The distances have a direction: where columns run backwards the horizontal one changes its sign, where rows do
        the vertical one, and where rows and columns are swapped the two change places.
        """
        if self == View():
            return maps
        maps = maps.flip(self._flipped_axes)  # A copy, also without axes.
        horizontal, vertical = HV_CHANNELS
        if self.flipped_x:
            maps[:, horizontal] *= -1
        if self.flipped_y:
            maps[:, vertical] *= -1
        if self.transposed:
            maps = maps.transpose(2, 3).contiguous()
            maps[:, [horizontal, vertical]] = maps[:, [vertical, horizontal]]
        return maps

    @property
    def _flipped_axes(self) -> list[int]:
        return [axis for axis, flipped in ((2, self.flipped_y), (3, self.flipped_x)) if flipped]


# The first two are the tile and its half turn, which reverses both axes: what leans to one side, in the maps of
# distances above all, leans to the other in the second, along both. A mirror image would even out one axis alone. The
# first four are the flips.
_VIEWS = tuple(
    View(transposed, *flips)
    for transposed in (False, True)
    for flips in ((False, False), (True, True), (True, False), (False, True))
)
VIEW_COUNTS = (1, 2, 4, 8)


def views_of(count: int) -> tuple[View, ...]:
    """
    The first `count` views: the tile as it is, turned by 180 degrees, its two mirror images, and these four with rows
    and columns swapped.

    >>> views_of(2)
    (View(transposed=False, flipped_x=False, flipped_y=False), View(transposed=False, flipped_x=True, flipped_y=True))

    Raises:
        ValueError: `count` is not 1, 2, 4 or 8.
    """
    if count not in VIEW_COUNTS:
        raise ValueError(f"views must be 1, 2, 4 or 8, got {count!r}")
    return _VIEWS[:count]


def mean_maps(
    model: Callable[..., Any], pixel_values: torch.Tensor, views: Sequence[View]
) -> tuple[torch.Tensor, MapLayout]:
    """
    Mean over the views of a model's stacked maps (B, C, H, W), float32, and their layout.

    The views go through the model one after the other, so that no batch is larger than that of one view. The mean is
    taken of halves, which keeps the sums exact where all views agree.

    Args:
        model: gives `CfSamNucleiSegmentationOutput` or what `stack_maps` takes in its place.
        pixel_values: (B, 3, H, W).
        views: as many as a power of two.
    """
    if len(views) > 1:
        half = len(views) // 2
        first, layout = mean_maps(model, pixel_values, views[:half])
        second, _ = mean_maps(model, pixel_values, views[half:])
        return (first + second) / 2, layout
    [view] = views
    outputs = model(pixel_values=view.turn(pixel_values))
    return view.turn_back(stack_maps(outputs)), MapLayout.of(outputs)
