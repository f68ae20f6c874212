"""Outlines of nuclei on pictures: smooth lines in the colour of each nucleus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.measure import label

from ..model.contours import nucleus_contours
from ..model.result import TypeStyle

Color = tuple[int, int, int]
"""RGB, 0 to 255."""

# Smoothing would shrink a contour of fewer pixel edges (a nucleus of 2 x 4 pixels has 12) to nothing.
SMALLEST_SMOOTHED = 12


@dataclass(frozen=True, eq=False)
class ColoredNuclei:
    """The nuclei of an image, found or annotated, with the colour in which each is drawn.

    Attributes:
        label_map: (H, W) integers, 0 background. Ids may have gaps, and a nucleus may lie in several pieces.
        colors: RGB by id. A nucleus without a colour is not drawn. Where lines cross, the colour that comes later in
            this mapping lies on top.
    """

    label_map: np.ndarray
    colors: Mapping[int, Color]

    @classmethod
    def by_type(
        cls, label_map: np.ndarray, ids: np.ndarray, types: np.ndarray, styles: Sequence[TypeStyle]
    ) -> "ColoredNuclei":
        """Colours nuclei by type.

        Args:
            label_map: (H, W) integers.
            ids: (N,) ids of the nuclei.
            types: (N,) their type ids; nuclei of a type without a style are not drawn.
            styles: one per type, in the order of drawing.
        """
        return cls(label_map, {i: style.color for style in styles for i in ids[types == style.type_id].tolist()})

    def only(self, window: tuple[slice, slice]) -> "ColoredNuclei":
        """The part in a window, given as (rows, columns)."""
        return ColoredNuclei(np.ascontiguousarray(self.label_map[window]), self.colors)


def display_line(ring: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The closed line that represents a ring of pixel corners on a picture.

    It runs through the midpoints of the pixel edges, which turns stairs into slopes, and is then smoothed twice with
    (1, 2, 1)/4; it stays within half a pixel of the ring. For pictures only: exported polygons keep the exact ring.

    Args:
        ring: (K, 2) xy corners along pixel edges, the first point not repeated.
        scale: pixels of the canvas per pixel of the image.

    Returns:
        (L, 2) float64 xy in pixels of the canvas, L the ring's length in pixel edges.
    """
    corners = np.asarray(ring)
    if not np.issubdtype(corners.dtype, np.integer):
        return corners * scale
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


def draw_rings(canvas: np.ndarray, rings: Sequence[np.ndarray], color: Color, scale: float, thickness: int) -> None:
    """Draws rings as closed anti-aliased lines on an RGB canvas (H * scale, W * scale, 3) uint8, in place.

    Args:
        canvas: contiguous picture.
        rings: (K, 2) xy corners along pixel edges each, as [`cfsam_hf.model.contours.nucleus_contours`] returns them.
        color: RGB, 0 to 255.
        scale: pixels of the canvas per pixel of the image.
        thickness: width of the lines in pixels of the canvas.
    """
    # OpenCV puts integers at pixel centres and takes fixed-point coordinates with `shift` fractional bits.
    shift = 4
    lines = (display_line(ring, scale) for ring in rings)
    fixed = [np.round((line - 0.5) * (1 << shift)).astype(np.int32).reshape(-1, 1, 2) for line in lines]
    cv2.polylines(canvas, fixed, True, color, thickness, cv2.LINE_AA, shift)


def draw_nuclei(canvas: np.ndarray, nuclei: ColoredNuclei, scale: float, thickness: int) -> None:
    """Draws the outlines of nuclei on an RGB canvas (H * scale, W * scale, 3) uint8, in place; see [`draw_rings`]."""
    drawn = np.isin(nuclei.label_map, list(nuclei.colors))
    pieces, count = label(np.where(drawn, nuclei.label_map, 0), connectivity=1, background=0, return_num=True)
    if not count:
        return
    first = np.unique(pieces, return_index=True)[1][-count:]
    rings: dict[Color, list[np.ndarray]] = {color: [] for color in nuclei.colors.values()}
    contours = nucleus_contours(pieces, np.zeros((count, 4)))
    for nucleus, of_piece in zip(nuclei.label_map.ravel()[first].tolist(), contours, strict=True):
        rings[nuclei.colors[nucleus]] += of_piece
    for color, of_color in rings.items():
        draw_rings(canvas, of_color, color, scale, thickness)


def enlarge(image: np.ndarray, scale: float) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 as (H * scale, W * scale, 3), at least one pixel high and wide."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return np.array(image, order="C")
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def outlined(image: np.ndarray, nuclei: ColoredNuclei, scale: float, thickness: int | None = None) -> np.ndarray:
    """An image with the outlines of its nuclei.

    Args:
        image: (H, W, 3) uint8 RGB.
        nuclei: with a label map of the same (H, W).
        scale: pixels of the picture per pixel of the image.
        thickness: width of the lines in pixels of the picture; by default 2 from a scale of 1.5 on, else 1.

    Returns:
        (H * scale, W * scale, 3) uint8.
    """
    canvas = enlarge(image, scale)
    draw_nuclei(canvas, nuclei, scale, thickness or (2 if scale >= 1.5 else 1))
    return canvas
