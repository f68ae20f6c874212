"""Windows over an image of any size, and the blending of their maps.

The network may see the image in several views, mirrored and turned, whose maps are blended into one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from .maps import HV_CHANNELS


@dataclass(frozen=True)
class View:
    """
    One of the eight symmetries of a square: rows and columns are swapped first, then mirrored.

    Args:
        transposed (`bool`): whether rows and columns are swapped.
        flipped_x, flipped_y (`bool`): whether the columns and the rows are in reverse order.
    """

    transposed: bool = False
    flipped_x: bool = False
    flipped_y: bool = False

    def turn(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tiles (B, C, H, W) in this view: (B, C, W, H) if rows and columns are swapped."""
        if self.transposed:
            pixels = pixels.transpose(2, 3).contiguous()
        return pixels.flip(self._flipped_axes) if self._flipped_axes else pixels

    def turn_back(self, maps: torch.Tensor) -> torch.Tensor:
        """
        Stacked maps (B, C, H, W) of tiles in this view, in the order of `MapLayout`, as maps of the tiles themselves.

        The distances have a direction: a flip changes the sign of the distance along its axis, and swapping rows and
        columns swaps the two.
        """
        if self == UPRIGHT:
            return maps
        maps = maps.flip(self._flipped_axes)  # a copy even without axes
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

# 16,384 x 16,384, as much as an image may have: a size in the file of a stranger must not fill memory.
MOST_PADDED_PIXELS = 2**28

# The first two are the tile and its half turn. A half turn reverses both axes, so a bias to one side, which is largest
# in the distance maps, cancels along both; a mirror image would cancel it along one axis only. The first four are the
# flips.
_VIEWS = tuple(
    View(transposed, *flips)
    for transposed in (False, True)
    for flips in ((False, False), (True, True), (True, False), (False, True))
)
VIEW_COUNTS = (1, 2, 4, 8)


def views_of(count: int) -> tuple[View, ...]:
    """
    The first `count` views: the tile itself, turned by 180 degrees, its two mirror images, and these four with rows
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
    """Turns each square tile (B, C, S, S) into its own view, in place."""
    for tile, view in zip(torch.from_numpy(tiles), views, strict=True):
        if view != UPRIGHT:
            tile.copy_(view.turn(tile[None])[0])


def turn_tiles_back(maps: np.ndarray, views: Sequence[View]) -> None:
    """Turns stacked maps (B, C, S, S) of tiles in their own views back to those of the tiles themselves, in place."""
    for tile_maps, view in zip(torch.from_numpy(maps), views, strict=True):
        if view != UPRIGHT:
            tile_maps.copy_(view.turn_back(tile_maps[None])[0])


@dataclass(frozen=True)
class Window:
    """A tile of the padded image: rows `y` to `y + size`, columns `x` to `x + size`, in the `view` of the network."""

    y: int
    x: int
    size: int
    view: View = UPRIGHT


def axis_starts(length: int, tile_size: int, overlap: int, shift: float = 0.0) -> list[int]:
    """
    First pixels of the tiles along one axis: as few as cover `length` with an overlap of at least `overlap` pixels,
    evenly spread, the first at 0 and the last ending at `length` (or at `tile_size`, if that is longer).

    With a `shift` in (0, 1) each but the last moves by this share of the distance to the next, and one more starts at
    0: a grid with other borders.

    Tiles need not begin at multiples of the patch size: where they overlap, the blend is then a mean over several
    positions of the network's patches, which finds nuclei better than tiles that all see the same patches.

    >>> axis_starts(600, 256, 64)
    [0, 172, 344]
    >>> axis_starts(600, 256, 64, shift=0.5)
    [0, 86, 258, 344]
    >>> axis_starts(100, 256, 64)
    [0]
    """
    check_tiling(tile_size, overlap)
    if length <= tile_size:
        return [0]
    steps = -(-(length - tile_size) // (tile_size - overlap))
    starts = [(length - tile_size) * step // steps for step in range(steps + 1)]
    if not shift:
        return starts
    moved = (first + round(shift * (second - first)) for first, second in pairwise(starts))
    # Tiles that hardly overlap move by less than a pixel.
    return sorted({0, *moved, starts[-1]})


def check_tiling(tile_size: int, overlap: int) -> None:
    """Raises ValueError unless the tile is positive and the overlap lies in 0..tile_size - 1."""
    if tile_size < 1:
        raise ValueError(f"tile_size must be positive, got {tile_size}")
    if not 0 <= overlap < tile_size:
        raise ValueError(f"tile_overlap must lie in 0..{tile_size - 1} for tiles of {tile_size} px, got {overlap}")


def fitted_tile_size(height: int, width: int, tile_size: int, overlap: int, smallest: int, multiple: int) -> int:
    """
    The smallest tile that covers an image with as many tiles as `tile_size` does, so that tiles share less and need
    less padding.

    Args:
        height, width (`int`): of the image in pixels.
        tile_size, overlap (`int`): the largest tile, and the minimum number of pixels that neighbours share.
        smallest (`int`): no tile is smaller.
        multiple (`int`): tiles are multiples of this, as `tile_size` and `smallest` are.

    >>> fitted_tile_size(1000, 600, 576, 144, 256, 16), fitted_tile_size(600, 600, 576, 144, 256, 16)
    (576, 384)
    >>> fitted_tile_size(300, 200, 576, 144, 256, 16), fitted_tile_size(50, 200, 576, 144, 256, 16)
    (304, 256)
    """
    needed = smallest
    for length in (height, width):
        tiles = len(axis_starts(length, tile_size, overlap))
        side = -(-(length + (tiles - 1) * overlap) // tiles)
        needed = max(needed, -(-side // multiple) * multiple)
    return min(needed, tile_size)


def tile_windows(height: int, width: int, tile_size: int, overlap: int, views: int = 1) -> list[Window]:
    """
    All windows over an image of `height` x `width` pixels, row by row from the top.

    Each view has its own grid, shifted by an equal share of the distance to the next tile, so that the
    border of a tile in one view is in the middle of a tile in another.

    Raises:
        ValueError: `views` is not 1, 2, 4 or 8, or the tiling is impossible.
    """
    windows = [
        Window(y, x, tile_size, view)
        for number, view in enumerate(views_of(views))
        for y in axis_starts(height, tile_size, overlap, number / views)
        for x in axis_starts(width, tile_size, overlap, number / views)
    ]
    return sorted(windows, key=lambda window: (window.y, window.x))


def padded_size(
    images: Sequence[np.ndarray], multiple: int, size: Mapping[str, int | None] | None = None
) -> tuple[int, int]:
    """
    Height and width of the tensor that holds some images (H, W, C): those of `size`, else of the largest image,
    rounded up to a multiple.

    Raises:
        ValueError: `size` lacks its "height" or "width", is smaller than an image, or has more than
            `MOST_PADDED_PIXELS`.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    if size is not None:
        rows, columns = size.get("height"), size.get("width")
        if not rows or not columns:
            raise ValueError(f"pad_size must have a height and a width, got {size}")
        if rows < height or columns < width:
            raise ValueError(f"an image of {width}x{height} px is larger than pad_size, {columns}x{rows}")
        if rows * columns > MOST_PADDED_PIXELS:
            raise ValueError(f"pad_size, {columns}x{rows}, is larger than any image that is read")
        height, width = rows, columns
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_right_bottom(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Pad (H, W, C) at the right and at the bottom to at least `height` x `width` by reflection.

    Reflection continues the tissue; a constant would be an edge of a kind that the network never sees in training. It
    is repeated if the padding is wider than the image; a single row or column is repeated.
    """
    while image.shape[0] < height or image.shape[1] < width:
        missing = (height - image.shape[0], width - image.shape[1])
        rows, columns = (
            min(max(gap, 0), max(length - 1, 1)) for gap, length in zip(missing, image.shape, strict=False)
        )
        pad = ((0, rows if image.shape[0] > 1 else 0), (0, columns if image.shape[1] > 1 else 0), (0, 0))
        image = np.pad(image, pad, mode="reflect")
        # One row or column has nothing to reflect.
        single = ((0, rows if image.shape[0] == 1 else 0), (0, columns if image.shape[1] == 1 else 0), (0, 0))
        image = np.pad(image, single, mode="edge")
    return image


def cut_window(image: np.ndarray, window: Window) -> np.ndarray:
    """The window's pixels (size, size, C), padded by reflection where the image is smaller than the tile."""
    tile = image[window.y : window.y + window.size, window.x : window.x + window.size]
    return pad_right_bottom(tile, window.size, window.size)


def blend_weights(tile_size: int, overlap: int) -> np.ndarray:
    """
    Weight of each pixel of a tile in the blend, (tile_size, tile_size) float32 in (0, 1].

    It rises with the squared sine over `overlap` pixels from each side and is 1 in between, so that a pixel counts
    most in the tile that shows it with the most context, and no tile ends with a step.
    """
    profile = _blend_profile(tile_size, overlap)
    return (profile[:, None] * profile[None, :]).astype(np.float32)


def _blend_profile(tile_size: int, overlap: int) -> np.ndarray:
    """The weights along one axis, (tile_size,) float64."""
    check_tiling(tile_size, overlap)
    ramp = min(overlap, tile_size // 2)
    edge = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    profile = np.ones(tile_size)
    profile[:ramp] = edge
    profile[tile_size - ramp :] = edge[::-1]
    return profile


def view_shares(length: int, tile_size: int, overlap: int, views: int) -> dict[View, np.ndarray]:
    """
    Weights of the tiles of each view along one axis, (length,) float32, with which all views count equally.

    The overlap of a grid varies; the shares are one over the sum of the weights of its own tiles. A single view has
    none, since the blender divides by the sum of all weights.
    """
    if views == 1:
        return {}
    profile = _blend_profile(tile_size, overlap)
    shares = {}
    for number, view in enumerate(views_of(views)):
        total = np.zeros(max(length, tile_size))
        for start in axis_starts(length, tile_size, overlap, number / views):
            total[start : start + tile_size] += profile
        shares[view] = (1 / total[:length]).astype(np.float32)
    return shares


@dataclass(frozen=True)
class Part:
    """
    Which part of a larger image an image is, and which of the larger image's windows it holds.

    Its maps are those of the larger image to the last bit wherever all windows that cover a pixel are among `windows`;
    a pixel that none covers counts as background.

    Args:
        windows (`tuple` of `Window`): in the part's own pixels, row by row from the top.
        inside (`tuple` of four `int`): top, left, bottom and right of the pixels to decode, half-open.
        row_shares, column_shares (`dict`): the rows and columns of `view_shares` of the larger image that the part
            shows.
    """

    windows: tuple[Window, ...]
    inside: tuple[int, int, int, int]
    row_shares: dict[View, np.ndarray] = field(default_factory=dict)
    column_shares: dict[View, np.ndarray] = field(default_factory=dict)

    def crop_rows(self, sink: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], None]:
        """
        A sink for bands of rows (C, rows, W) of the part, from the top, that passes on the pixels inside alone.
        """
        top, left, bottom, right = self.inside
        first = 0

        def take(rows: np.ndarray) -> None:
            nonlocal first
            start, stop = max(top - first, 0), min(bottom - first, rows.shape[1])
            first += rows.shape[1]
            if start < stop:
                sink(np.ascontiguousarray(rows[:, start:stop, left:right]))

        return take


class MapBlender:
    """
    Weighted mean of the maps of overlapping tiles, passed on in bands of rows.

    Tiles come in the order of `tile_windows`. Sums are kept in float32 for the rows of one tile only, 4 (C + 1) bytes
    for each of `tile_size` x W pixels: rows above the next row of tiles are finished, divided by their weights, and
    passed on in float16. Float16 has steps of at most .0005, less than the network's own uncertainty; it is used for
    small images too, so that a crop decodes as the whole.

    Args:
        channels (`int`): number of maps C.
        height, width (`int`): size of the image in pixels; predictions beyond it are dropped.
        tile_size, overlap, views (`int`): as in `tile_windows`.
        sink (`Callable`): called with each band of finished rows (C, rows, W) float16, from the top.
        part (`Part`, *optional*): the image is this part of a larger one, whose windows need not cover it.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        tile_size: int,
        overlap: int,
        views: int = 1,
        *,
        sink: Callable[[np.ndarray], object],
        part: Part | None = None,
    ) -> None:
        self.weights = blend_weights(tile_size, overlap)
        if part is None:
            self._row_shares, self._column_shares = (
                view_shares(length, tile_size, overlap, views) for length in (height, width)
            )
        else:
            self._row_shares, self._column_shares = part.row_shares, part.column_shares
        self._has_gaps = part is not None
        self.height, self.width = height, width
        self._sink = sink
        rows = min(tile_size, height)
        self._sums = np.zeros((channels, rows, width), dtype=np.float32)
        self._total = np.zeros((rows, width), dtype=np.float32)
        self._top = 0

    def add(self, window: Window, maps: np.ndarray) -> None:
        """Add the maps (C, size, size) of one tile; no window may lie above the one before."""
        if window.y < self._top:
            raise ValueError(f"tiles must come row by row: row {window.y} after row {self._top}")
        if window.y > self._top:
            self._pass_on(window.y)
        rows = min(window.size, self.height - window.y)
        columns = slice(window.x, min(window.x + window.size, self.width))
        weights = self.weights[:rows, : columns.stop - columns.start]
        if self._row_shares:
            weights = weights * self._row_shares[window.view][window.y : window.y + rows, None]
            weights *= self._column_shares[window.view][columns]
        self._sums[:, :rows, columns] += maps[:, :rows, : weights.shape[1]] * weights
        self._total[:rows, columns] += weights

    def finish(self) -> None:
        """Pass on the last rows, after the last tile."""
        self._pass_on(self.height)

    def _pass_on(self, row: int) -> None:
        """Pass on the rows above `row` and move the float32 sums down to it."""
        rows = len(self._total)
        while self._top < row:
            done = min(row - self._top, rows)
            total = self._total[:done]
            if self._has_gaps:
                total = np.where(total == 0, np.float32(1), total)
            elif row - self._top > rows or not total.all():
                raise ValueError(f"rows {self._top} to {row} are not covered by tiles")
            means = torch.from_numpy(self._sums[:, :done] / total)
            # Torch converts to float16 many times faster than numpy.
            band = means.to(torch.float16).numpy()
            for array in (self._sums, self._total[None]):
                array[:, : rows - done] = array[:, done:]
                array[:, rows - done :] = 0
            self._top += done
            self._sink(band)
