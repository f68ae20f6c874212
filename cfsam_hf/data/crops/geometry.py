"""Random flips, rotations and scale, applied as one warp from a whole tile to a crop."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class Geometry:
    """How a crop is cut from a tile.

    Attributes:
        angle: rotation in radians.
        step: tile pixels per crop pixel; 2 shows tissue at half its size.
        mirrored: whether x is flipped.
    """

    angle: float = 0.0
    step: float = 1.0
    mirrored: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """`(2, 2)` matrix from crop offsets (x, y) to tile offsets."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        if self.angle % (np.pi / 2) == 0:
            # Quarter turns must hit pixel centres exactly, to copy pixels instead of interpolating.
            cosine, sine = np.rint(cosine), np.rint(sine)
        flip = -1.0 if self.mirrored else 1.0
        return self.step * np.array([[cosine * flip, -sine], [sine * flip, cosine]])

    def half_extent(self, size: int) -> float:
        """Half the side, in tile pixels, of the upright square around a crop of `size` pixels."""
        return float(np.abs(self.matrix).sum(axis=1).max()) * size / 2


def sample_geometry(
    rng: np.random.Generator,
    free_probability: float = 0.6,
    smallest: float = 0.75,
    largest: float = 1.3,
    turn_probability: float = 1.0,
    degrees: float = 45.0,
) -> Geometry:
    """Draws a geometry: one of the eight flips and quarter turns, sometimes with a free rotation and scale.

    Args:
        rng: source of randomness.
        free_probability: share of crops that are also rotated by any angle and scaled. The others keep the original
            pixels, which interpolation would soften.
        smallest, largest: range of the apparent size of tissue (1 unchanged), uniform in its logarithm.
        turn_probability: share of crops that get one of the eight flips and quarter turns.
        degrees: largest free rotation, added to the quarter turn.
    """
    mirrored = bool(rng.integers(2))
    angle = float(rng.integers(4)) * np.pi / 2
    if turn_probability < 1 and rng.random() >= turn_probability:
        mirrored, angle = False, 0.0
    if rng.random() >= free_probability:
        return Geometry(angle=angle, mirrored=mirrored)
    angle += float(np.radians(rng.uniform(-degrees, degrees)))
    size = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    return Geometry(angle=angle, step=1 / size, mirrored=mirrored)


def place_crop(
    centre: tuple[float, float], geometry: Geometry, size: int, tile_shape: tuple[int, int]
) -> tuple[float, float]:
    """Moves a crop's centre so that the crop stays within the tile if it can.

    Args:
        centre: wanted centre, xy in tile pixels (centre of the top-left pixel: (0.5, 0.5)).
        geometry: how the crop is cut.
        size: side of the crop in pixels.
        tile_shape: (H, W) of the tile.

    Returns:
        The centre xy. If the tile is smaller than the crop's extent, the crop covers the tile, and reflection fills
        the rest. For crops that copy pixels the centre is rounded to the pixel grid.
    """
    half = geometry.half_extent(size)
    placed = []
    for wanted, side in zip(centre, tile_shape[::-1], strict=True):
        low, high = sorted((half, side - half))
        position = min(max(wanted, low), high)
        if geometry.step == 1 and geometry.angle % (np.pi / 2) == 0:
            position = np.floor(position - size / 2 + 0.5) + size / 2
        placed.append(float(position))
    return placed[0], placed[1]


def warp_crop(
    array: np.ndarray,
    centre: tuple[float, float],
    geometry: Geometry,
    size: int,
    labels: bool,
    displacement: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts a crop out of a tile.

    Args:
        array: `(H, W)` or `(H, W, 3)` of uint8, uint16 or float32.
        centre: centre of the crop, xy in tile pixels (centre of the top-left pixel: (0.5, 0.5)).
        geometry: how the crop is cut.
        size: side of the crop in pixels.
        labels: take the nearest pixel (label maps) instead of interpolating (images).
        displacement: `(size, size, 2)` float32 xy in crop pixels, added to where each pixel is taken from, before the
            geometry (see `elastic.sample_displacement`).

    Returns:
        `(size, size)` or `(size, size, 3)`, dtype of `array`. Beyond the tile, images and labels are mirrored.
    """
    matrix = geometry.matrix
    # cv2 maps indices, whose pixel centres lie half a pixel further in the frame used here.
    offset = np.asarray(centre) - 0.5 - matrix @ np.full(2, (size - 1) / 2)
    interpolation = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    if displacement is not None:
        places = displacement + np.stack(np.meshgrid(*[np.arange(size, dtype=np.float32)] * 2), axis=-1)
        maps = cv2.transform(places, np.column_stack([matrix, offset]).astype(np.float32))
        no_second_map: Any = None  # which OpenCV's annotations do not allow
        return cv2.remap(array, maps, no_second_map, interpolation, borderMode=cv2.BORDER_REFLECT_101)
    return cv2.warpAffine(
        array,
        np.column_stack([matrix, offset]),
        (size, size),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def crop_position(
    point: tuple[float, float], centre: tuple[float, float], geometry: Geometry, size: int
) -> tuple[float, float]:
    """Returns the place of a tile point (xy) in the crop (xy, in the crop's pixels)."""
    x, y = np.linalg.solve(geometry.matrix, np.asarray(point) - np.asarray(centre)) + size / 2
    return float(x), float(y)
