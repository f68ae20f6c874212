"""Draws polygons into label maps: a pixel belongs to the polygon that contains its centre; a rule settles overlaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.draw import polygon as polygon_pixels

OVERLAP_RULES = ("later", "smaller")

Polygon = Sequence[np.ndarray]
"""Rings `(K, 2)` of xy vertices in pixels: the exterior, then the holes."""

LARGEST_COORDINATE = 2.0**31
"""Pixels. Larger numbers cannot be coordinates of an image, and their products are not finite."""

FARTHEST_BEYOND = 50
"""Annotators overshoot the border by a few pixels; polygons that lie farther out belong to another image."""


FEWEST_UNDRAWN = 2
UNDRAWN_SHARE = 0.5
"""Share of outlines without a pixel; a larger one means that the coordinates are not pixels of this image."""


@dataclass(frozen=True)
class Overlaps:
    """What was lost by drawing the annotated nuclei of a tile into one label map.

    Attributes:
        nuclei: nuclei that share a pixel with another one.
        pixels: pixels that several nuclei claim; one of them has each.
        hidden: nuclei that others cover completely.
        undrawn: outlines that contain no pixel centre: outside the image, or slips of the mouse.
    """

    nuclei: int = 0
    pixels: int = 0
    hidden: int = 0
    undrawn: int = 0

    def __bool__(self) -> bool:
        return bool(self.pixels or self.undrawn)


def are_coordinates(points: np.ndarray) -> bool:
    """Whether all numbers are finite and small enough to be coordinates in pixels."""
    return bool((np.abs(points) < LARGEST_COORDINATE).all())


def check_overlap_rule(overlap: str) -> None:
    """Raises ValueError if `overlap` is not one of `OVERLAP_RULES`."""
    if overlap not in OVERLAP_RULES:
        raise ValueError(f"overlap must be one of {', '.join(OVERLAP_RULES)}, got {overlap!r}")


def rasterise_polygons(
    polygons: Sequence[np.ndarray], height: int, width: int, overlap: str = "later"
) -> tuple[np.ndarray, np.ndarray, Overlaps]:
    """Draws nuclei that consist of one ring each into a label map; see `rasterise_shapes`.

    Args:
        polygons: each `(K, 2)` xy vertices.
        height, width, overlap: as in `rasterise_shapes`.
    """
    return rasterise_shapes([[[vertices]] for vertices in polygons], height, width, overlap)


def rasterise_shapes(
    shapes: Sequence[Sequence[Polygon]], height: int, width: int, overlap: str = "later"
) -> tuple[np.ndarray, np.ndarray, Overlaps]:
    """Draws nuclei into a label map.

    Args:
        shapes: the polygons of each nucleus, usually one, each an exterior ring and its holes. Vertices are xy in
            pixels in the frame in which the centre of the top-left pixel is (0.5, 0.5). Parts outside the image are
            cut off; rings of fewer than three vertices draw nothing.
        height, width: size of the map in pixels.
        overlap: which nucleus keeps a pixel that several cover: "later" the last in the sequence, "smaller" the one
            with the fewest pixels (equal sizes: the later).

    Returns:
        The label map `(height, width)` int32, 0 background, ids 1..N without gaps in the order of the sequence;
        `(N,)` int64, the position in `shapes` of each id (a shape that covers no pixel centre, or is completely hidden
        by others, has no id); and the counts of overlaps.

    Raises:
        ValueError: the rule is unknown, or vertices are not finite `(K, 2)`.
    """
    return paint_pixels(
        [shape_pixels(shape, height, width, position) for position, shape in enumerate(shapes)], height, width, overlap
    )


def paint_pixels(
    pixels: Sequence[np.ndarray], height: int, width: int, overlap: str = "later"
) -> tuple[np.ndarray, np.ndarray, Overlaps]:
    """Makes a label map of nuclei given by their pixels, as `rasterise_shapes` does for outlines.

    Args:
        pixels: for each nucleus the flat indices `row * width + column` of its pixels.
        height, width, overlap: as in `rasterise_shapes`.
    """
    check_overlap_rule(overlap)
    order: Sequence[int] = range(len(pixels))
    if overlap == "smaller":
        order = sorted(order, key=lambda position: -len(pixels[position]))
    canvas = np.zeros(height * width, dtype=np.int32)
    shared = np.zeros(height * width, dtype=bool)
    overlapping = np.zeros(len(pixels) + 1, dtype=bool)
    for position in order:
        below = canvas[pixels[position]]
        canvas[pixels[position]] = position + 1
        if below.any():
            shared[pixels[position][below > 0]] = True
            overlapping[below] = overlapping[position + 1] = True
    kept = np.unique(canvas)
    kept = kept[kept > 0]
    new_ids = np.zeros(len(pixels) + 1, dtype=np.int32)
    new_ids[kept] = np.arange(1, len(kept) + 1)
    undrawn = sum(len(indices) == 0 for indices in pixels)
    overlaps = Overlaps(
        nuclei=int(overlapping[1:].sum()),
        pixels=int(shared.sum()),
        hidden=len(pixels) - undrawn - len(kept),
        undrawn=undrawn,
    )
    return new_ids[canvas].reshape(height, width), kept.astype(np.int64) - 1, overlaps


def shape_pixels(shape: Sequence[Polygon], height: int, width: int, position: int = 0) -> np.ndarray:
    """Returns the flat indices of the pixels of a nucleus; `position` names it in errors."""
    parts = [_polygon_pixels(rings, height, width, position) for rings in shape]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def check_reach(vertices: Sequence[np.ndarray], height: int, width: int, label_path, image_path) -> None:
    """Raises ValueError, naming the files, if vertices lie so far outside that they belong to another image.

    Args:
        vertices: arrays `(K, 2)` of xy in pixels.
        height, width: size of the image in pixels.
        label_path, image_path: named in the error.
    """
    farthest = max((float(points.max()) for points in vertices if len(points)), default=0.0)
    if farthest > max(height, width) + FARTHEST_BEYOND:
        raise ValueError(
            f"{label_path}: polygons reach {farthest:.0f} px but the image {image_path} has only "
            f"{height} x {width} (rows x columns)"
        )


def check_drawn(undrawn: int, total: int, label_path, image_path) -> None:
    """Raise ValueError, naming the files, if most outlines hold no pixel of the image.

    Args:
        undrawn: number of outlines that hold no pixel.
        total: number of all outlines.
        label_path, image_path: named in the error.
    """
    if undrawn >= FEWEST_UNDRAWN and undrawn > UNDRAWN_SHARE * total:
        raise ValueError(
            f"{label_path}: {undrawn} of its {total} outlines contain no pixel of the image {image_path}; coordinates "
            "must be pixels of this image, not of a slide, micrometres or fractions"
        )


def _polygon_pixels(rings: Polygon, height: int, width: int, position: int) -> np.ndarray:
    """Returns the flat indices of the pixels whose centres lie in the exterior ring but not in a hole."""
    inside = np.empty(0, dtype=np.int64)
    for number, ring in enumerate(rings):
        vertices = np.asarray(ring, dtype=np.float64)
        if vertices.ndim != 2 or vertices.shape[1] != 2 or not are_coordinates(vertices):
            raise ValueError(f"polygon {position} must be (K, 2) finite xy vertices, got shape {vertices.shape}")
        if len(vertices) < 3:
            continue
        rows, columns = polygon_pixels(vertices[:, 1] - 0.5, vertices[:, 0] - 0.5, shape=(height, width))
        pixels = rows * width + columns
        inside = pixels if number == 0 else np.setdiff1d(inside, pixels, assume_unique=True)
    return inside
