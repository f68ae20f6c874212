"""Smooth random displacements: tissue bends when it is cut and mounted."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np


def sample_displacement(rng: np.random.Generator, size: int, largest: float, spacing: float) -> np.ndarray:
    """Draws a smooth displacement of a square crop.

    Cubic B-splines interpolate random vectors on a grid of `spacing` pixels, so no pixel moves by more than `largest`
    along an axis, and with `largest < spacing / 4` the map is one to one: nothing folds, and no nucleus appears twice.

    Args:
        rng: source of randomness.
        size: side of the crop in pixels.
        largest: largest displacement along x and along y, in pixels.
        spacing: pixels between the nodes of the grid.

    Returns:
        `(size, size, 2)` float32, xy: where each pixel is taken from, relative to itself.
    """
    weights = _spline_weights(size, float(spacing))
    nodes = rng.uniform(-largest, largest, size=(2, weights.shape[1], weights.shape[1])).astype(np.float32)
    # OpenCV's product instead of numpy's: BLAS would start threads, which compete with training for the cores.
    return np.stack([_product(_product(weights, axis), weights.T) for axis in nodes], axis=-1)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    nothing: Any = None  # which OpenCV's annotations do not allow
    return cv2.gemm(left, np.ascontiguousarray(right), 1.0, nothing, 0.0)


@lru_cache(maxsize=4)
def _spline_weights(size: int, spacing: float) -> np.ndarray:
    """`(size, nodes)` float32: weights of the nodes at each pixel; every row sums to 1."""
    positions = (np.arange(size) + 0.5) / spacing + 1
    nodes = np.arange(int(np.ceil(positions[-1])) + 2)
    distance = np.abs(positions[:, None] - nodes)
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)
