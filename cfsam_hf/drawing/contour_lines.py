"""Contours as they are drawn: smooth lines in place of the pixels' stairs."""

from collections.abc import Sequence

import cv2
import numpy as np

# Below this many pixel edges (a nucleus of 2 x 4 pixels) smoothing would shrink a contour to nothing.
SMALLEST_SMOOTHED = 12


def display_line(ring: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The closed line that is drawn for a ring of pixel corners.

    It runs through the midpoints of the pixel edges, which turns stairs into slopes, and is then smoothed twice with
    (1, 2, 1)/4; it stays within half a pixel of the ring. For pictures only: exported polygons
    keep the exact ring.

    Args:
        ring: (K, 2) xy corners along pixel edges, the first point not repeated.
        scale: pixels of the canvas per pixel of the image.

    Returns:
        (L, 2) float64 xy in pixels of the canvas, L the ring's length in pixel edges.
    """
    corners = np.asarray(ring)
    steps = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(steps).sum(axis=1)
    directions = np.repeat(np.sign(steps), lengths, axis=0)  # (L, 2)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    along = np.arange(len(directions)) - first + 0.5
    points = np.repeat(corners, lengths, axis=0) + directions * along[:, None]
    if len(points) >= SMALLEST_SMOOTHED:
        for _ in range(2):
            points = (np.roll(points, 1, axis=0) + 2 * points + np.roll(points, -1, axis=0)) / 4
    return points * scale


def draw_lines(canvas: np.ndarray, lines: Sequence[np.ndarray], color: tuple[int, int, int], thickness: int) -> None:
    """Draws closed anti-aliased lines on an RGB canvas (H, W, 3) uint8, in place.

    Args:
        canvas: contiguous picture to draw on.
        lines: (L, 2) xy each, in pixels of the canvas with pixel edges at integers.
        color: RGB, 0 to 255.
        thickness: width in pixels of the canvas.
    """
    # OpenCV puts integers at pixel centres and takes fixed-point coordinates with `shift` fractional bits.
    shift = 4
    fixed = [np.round((line - 0.5) * (1 << shift)).astype(np.int32).reshape(-1, 1, 2) for line in lines]
    cv2.polylines(canvas, fixed, True, color, thickness, cv2.LINE_AA, shift)
