"""Views of a tile, mirrored and turned: the network sees tissue in each, and their maps are blended into one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .maps_cfsam import HV_CHANNELS


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
        if self == UPRIGHT:
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


UPRIGHT = View()

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


def turn_tiles(tiles: np.ndarray, views: Sequence[View]) -> None:
    """Turns each of some square tiles (B, C, S, S) into its own view, in place."""
    for tile, view in zip(torch.from_numpy(tiles), views, strict=True):
        if view != UPRIGHT:
            tile.copy_(view.turn(tile[None])[0])


def turn_tiles_back(maps: np.ndarray, views: Sequence[View]) -> None:
    """Turns stacked maps (B, C, S, S), of each tile in its own view, to those of the tiles themselves, in place."""
    for tile_maps, view in zip(torch.from_numpy(maps), views, strict=True):
        if view != UPRIGHT:
            tile_maps.copy_(view.turn_back(tile_maps[None])[0])
