"""Where a slide holds tissue: found by its stain, read from a file, or assumed everywhere."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from ..model.contours import nucleus_contours
from ..model.inputs import encoded_picture
from ..model.pictures import read_stored
from .areas import Areas, read_areas
from .level_check import check_levels
from .overview import MAX_SIDE, OVERVIEW_MPP, overview_steps, read_overview
from .slide import Slide
from .stain_cues import stained_tissue

# How far the aspect of a mask image may be off the slide's.
_ASPECT_TOLERANCE = 0.02
# Points along each side of a mask's pixel by which the part of it that lies in an area is measured.
_SAMPLES = 4
# A mask in colours has fewer different values than a photograph.
_MOST_MASK_VALUES = 64
_JSON_MAGIC = (b"{", b"[", b"\x1f\x8b", b"PK", b"\xef\xbb\xbf")


@dataclass(frozen=True, eq=False)
class TissueMask:
    """
    The parts of a slide in which to look for nuclei.

    Attributes:
        mask: (h, w) bool, over the whole slide.
        scale: (x, y) level-0 pixels per pixel of the mask.
        pixel_area_um2: square micrometres per pixel of the mask; None where the pixel size is not known.
        areas: drawn areas that restrict the mask; None: there are none.
        share: (h, w) float32, the part of each pixel of `mask` that lies in `areas`; None: all of it.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    pixel_area_um2: float | None = None
    areas: Areas | None = None
    share: np.ndarray | None = None

    @property
    def area_um2(self) -> float | None:
        """Square micrometres of tissue; None where the pixel size is not known."""
        if self.pixel_area_um2 is None:
            return None
        count = self.mask.sum() if self.share is None else self.share.sum(dtype=np.float64)
        return float(count) * self.pixel_area_um2

    def touches(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether a box in level-0 pixels holds tissue."""
        height, width = self.mask.shape
        left, top = (max(0, math.floor(low / step)) for low, step in zip((x0, y0), self.scale, strict=True))
        right, bottom = (max(0, math.ceil(high / step)) for high, step in zip((x1, y1), self.scale, strict=True))
        return bool(self.mask[top : min(bottom, height), left : min(right, width)].any())

    def contains(self, points: np.ndarray) -> np.ndarray:
        """
        Which points lie on pixels of the mask and in its areas.

        Args:
            points: (N, 2) xy in level-0 pixels.

        Returns:
            (N,) bool; False beyond the slide.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        columns, rows = np.floor(points / self.scale).T
        height, width = self.mask.shape
        inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
        result = np.zeros(len(points), dtype=bool)
        result[inside] = self.mask[rows[inside].astype(np.int64), columns[inside].astype(np.int64)]
        if self.areas is not None:
            result[result] = self.areas.contains(points[result])
        return result

    def within(self, areas: Areas) -> "TissueMask":
        """
        The tissue in the areas. A pixel of which only a part lies in them stays in the mask; `area_um2` counts that
        part, and `contains` follows the drawn line.
        """
        return self._restricted(areas if self.areas is None else self.areas.common(areas))

    def without(self, areas: Areas) -> "TissueMask":
        """The tissue outside the areas; see `within`."""
        return self._restricted((self.areas or self._everywhere()).beyond(areas))

    def _everywhere(self) -> Areas:
        height, width = self.mask.shape
        return Areas(shapely.MultiPolygon([shapely.box(0, 0, width * self.scale[0], height * self.scale[1])]))

    def _restricted(self, areas: Areas) -> "TissueMask":
        share = self.mask * _coverage(areas, self.mask.shape, self.scale)
        return replace(self, mask=share > 0, areas=areas, share=share)

    def outlines(self) -> list[list[np.ndarray]]:
        """
        The outlines of the tissue along the pixels of the mask.

        Returns:
            For each piece its exterior ring and then its holes, each (K, 2) float64 xy in level-0 pixels; the first
            point is not repeated.
        """
        count, pieces, boxes, _ = cv2.connectedComponentsWithStats(self.mask.astype(np.uint8), connectivity=4)
        contours = nucleus_contours(pieces, boxes[1:count, :4])
        return [[ring * np.array(self.scale) for ring in rings] for rings in contours]


def tissue_geojson(tissue: TissueMask) -> dict[str, Any]:
    """A GeoJSON FeatureCollection of the tissue's pieces in level-0 pixels, which QuPath shows as annotations."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tissue", "color": [0, 150, 0]}},
        }
        for rings in tissue.outlines()
    ]
    return {"type": "FeatureCollection", "features": features}


def find_tissue(slide: Slide) -> TissueMask:
    """
    Finds the tissue of an H&E slide on a small picture of it, at about 8 micrometres per pixel (see `stained_tissue`).

    Raises:
        OSError: the slide is damaged, or one of its levels is black; the message names it.
    """
    tissue = whole_slide(slide)
    # Tissue is recognised by lengths in micrometres; without a pixel size, 8 micrometres are assumed.
    area = tissue.pixel_area_um2
    mpp = OVERVIEW_MPP if area is None else math.sqrt(area)
    return replace(tissue, mask=stained_tissue(read_overview(slide), mpp))


def whole_slide(slide: Slide) -> TissueMask:
    """
    A mask of all of a slide, on the grid of `find_tissue`.

    Raises:
        OSError: a level of the slide is damaged or black (see `check_levels`); the message names it.
    """
    check_levels(slide)
    scale = overview_steps(slide)
    shape = (round(slide.size[1] / scale[1]), round(slide.size[0] / scale[0]))
    return TissueMask(np.ones(shape, dtype=bool), scale, _pixel_area(slide, scale))


def read_tissue(path: str | os.PathLike[str], slide: Slide) -> TissueMask:
    """
    Reads where a slide holds tissue.

    Args:
        path: GeoJSON of the tissue (see `read_areas`), or a mask image of any size with the slide's aspect, in which
            all that is not black is tissue.
        slide: the slide.

    Raises:
        OSError: the file cannot be read, or a level of the slide is damaged or black; the message names it.
        ValueError: it holds no tissue, another aspect than the slide, or a photograph. The message names it.
    """
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(64).lstrip()
    if magic.startswith(_JSON_MAGIC):
        return whole_slide(slide).within(read_areas(path, slide))
    mask = _read_mask(path)
    check_levels(slide)
    height, width = mask.shape
    across, down = slide.size
    if abs(width * down / (height * across) - 1) > max(_ASPECT_TOLERANCE, 1.5 / min(height, width)):
        raise ValueError(
            f"{path}: a mask of {width} x {height} px does not have the shape of the slide {slide.path!r}, "
            f"{across} x {down} px; make it from a picture of the whole slide"
        )
    if not mask.any():
        raise ValueError(f"{path}: the mask is black, so there is no tissue; paint the tissue white")
    factor = max(height, width) / MAX_SIDE
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    scale = (across / mask.shape[1], down / mask.shape[0])
    return TissueMask(mask, scale, _pixel_area(slide, scale))


def _read_mask(path: Path) -> np.ndarray:
    """(h, w) bool: where an image is not black."""
    source = encoded_picture(path)
    if source is None:
        raise ValueError(f"{path}: expected a mask image or GeoJSON")
    stored = read_stored(source, indices=True)
    if stored.ndim == 3:
        colors = stored[..., :3]
        if np.ptp(colors.astype(np.int64), axis=2).max(initial=0) > 64 and len(np.unique(colors)) > _MOST_MASK_VALUES:
            raise ValueError(f"{path}: this is a photograph, not a mask; paint the tissue white on black")
        stored = colors.max(axis=2)
    # Values between black and the brightest that never fill an even area come from JPEG or smoothing at edges.
    between = (stored > 0) & (stored < stored.max(initial=0))
    even = cv2.morphologyEx(stored.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3))) == 0
    threshold = stored.max(initial=0) / 2 if 2 * (between & even).sum() < between.sum() else 0
    mask: np.ndarray = stored > threshold
    return mask


def _pixel_area(slide: Slide, scale: tuple[float, float]) -> float | None:
    size = slide.pixel_size
    return None if size is None else size.x * scale[0] * size.y * scale[1]


def _coverage(areas: Areas, shape: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """(h, w) float32: the part of each pixel of a mask that lies in the areas, to a sixteenth where an edge runs."""
    height, width = shape
    inside, edges = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for rings in areas.cut(-scale[0], -scale[1], (width + 1) * scale[0], (height + 1) * scale[1]).rings:
        # In sixteenths of a pixel; OpenCV's pixels have whole numbers at their centres.
        points = [np.rint((ring / scale - 0.5) * 16).astype(np.int32) for ring in rings]
        cv2.fillPoly(inside, points, 1, shift=4)
        cv2.polylines(edges, points, True, 1, shift=4)
    near_edges = cv2.dilate(edges, np.ones((3, 3), np.uint8))
    coverage = inside.astype(np.float32)
    rows, columns = np.nonzero(near_edges)
    if len(rows):
        steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        x = (columns[:, None, None] + steps[None, None, :]) * scale[0]
        y = (rows[:, None, None] + steps[None, :, None]) * scale[1]
        shapely.prepare(areas.shape)
        coverage[rows, columns] = shapely.contains_xy(areas.shape, *np.broadcast_arrays(x, y)).mean(axis=(1, 2))
    return coverage
