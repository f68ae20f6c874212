"""Decides which objects of an export are nuclei, which bound the annotated area, and which are neither."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
from skimage.measure import points_in_poly

from .geojson_files import GeoFeature
from .object_parts import separate_nuclei

LARGE = 20
"""An outline of this many times the median area may be a region instead of a nucleus."""

VERY_LARGE = 100
"""An outline of this many times the median area is not a nucleus: its diameter is ten times the usual one."""

AROUND = 4
"""In a file with detections, an annotation of this many times the area of a detection inside it is a region."""

TILE_SHARE = 0.5
SMALLEST_TILE = 200 * 200
"""Pixels. Half of a smaller tile can be one nucleus."""

NEVER_NUCLEI = ("tile", "tma core", "root")
FOUND = ("detection", "cell")
SUBCELLULAR = "Subcellular"
"""How QuPath names the classes of spots and clusters within cells."""


@dataclass
class Roles:
    """The objects of a file by their role.

    Attributes:
        nuclei: one feature per nucleus.
        regions: they form the annotated area; without regions, it is the whole image.
        ignored: areas that are not annotated.
        notes: what was left out or read in an unusual way, one sentence each.
    """

    nuclei: list[GeoFeature] = field(default_factory=list)
    regions: list[GeoFeature] = field(default_factory=list)
    ignored: list[GeoFeature] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sort_objects(
    features: Sequence[GeoFeature],
    region_class: str,
    ignore_class: str,
    size: tuple[int, int] | None = None,
) -> Roles:
    """Distinguishes nuclei, regions and other objects.

    Regions have the class `region_class`. In a file with detections or cells, annotations that are far larger than
    these, or contain them, are regions of another class: they bound the annotated area if they contain all detections,
    and are left out otherwise. QuPath's tiles, TMA cores and objects within cells are left out.

    Args:
        features: the objects of a file.
        region_class, ignore_class: patterns of class names.
        size: (height, width) of the image in pixels, None if unknown.

    Raises:
        ValueError: an outline must be a region, but neither its class nor its kind says so.
    """
    roles = Roles()
    left_out: Counter[str] = Counter()
    candidates: list[GeoFeature] = []
    for feature in features:
        if _matches(feature, region_class):
            roles.regions.append(feature)
        elif _matches(feature, ignore_class):
            roles.ignored.append(feature)
        elif feature.kind in NEVER_NUCLEI:
            left_out[f"QuPath's {feature.kind}s"] += 1
        elif feature.parent in FOUND or (feature.name or "").startswith(SUBCELLULAR):
            left_out["objects within cells"] += 1
        else:
            candidates.append(feature)
    for what, count in left_out.items():
        roles.notes.append(f"{what} left out: {count}")
    nuclei = _take_apart(candidates, size, roles)
    _tell_regions(nuclei, region_class, size, roles)
    return roles


def _matches(feature: GeoFeature, pattern: str) -> bool:
    return feature.name is not None and fnmatchcase(feature.name, pattern)


def _take_apart(features: Sequence[GeoFeature], size: tuple[int, int] | None, roles: Roles) -> list[GeoFeature]:
    """One feature per nucleus."""
    nuclei: list[GeoFeature] = []
    groups = 0
    for feature in features:
        parts = separate_nuclei(feature.polygons, size, whole=feature.whole)
        groups += len(parts) > 1
        nuclei += [replace(feature, polygons=part) for part in parts]
    if groups:
        more = len(nuclei) - len(features) + groups
        roles.notes.append(
            f"{groups} MultiPolygon{'s' * (groups != 1)} of {more} separate parts read as {more} objects"
        )
    return nuclei


def _tell_regions(nuclei: list[GeoFeature], region_class: str, size: tuple[int, int] | None, roles: Roles) -> None:
    """Adds to `roles` the nuclei among the candidates, and the regions without a region class."""
    areas = np.array([_area(feature) for feature in nuclei])
    boxes = np.array([_box(feature) for feature in nuclei]).reshape(-1, 4)
    found = np.array([feature.kind in FOUND for feature in nuclei], dtype=bool)
    # The largest is left out: the median of two objects would lie between them.
    usual = areas[found] if found.any() else np.sort(areas)[:-1]
    median = float(np.median(usual)) if len(usual) else np.inf
    most = np.inf if size is None or np.prod(size) < SMALLEST_TILE else TILE_SHARE * float(np.prod(size))
    regions = []
    for position in np.flatnonzero(~found).tolist():
        area = areas[position]
        if nuclei[position].has_children:
            regions.append(position)
        elif found.any():
            smaller = np.flatnonzero(found & (areas * AROUND <= area))
            if area > min(LARGE * median, most) or _inside(nuclei, boxes, position, smaller, most=1):
                regions.append(position)
        elif area > min(LARGE * median, most):
            enclosed = len(_inside(nuclei, boxes, position, np.arange(len(nuclei))))
            if enclosed or area > min(VERY_LARGE * median, most):
                what = f"has {area / median:,.0f} times the median area" if area <= most else "covers most of the tile"
                what = f"encloses {enclosed} others" if enclosed else what
                raise ValueError(_refusal(nuclei[position], boxes[position], what, region_class))
    chosen = set(regions)
    roles.nuclei = [feature for position, feature in enumerate(nuclei) if position not in chosen]
    if regions:
        _use_regions([nuclei[position] for position in regions], region_class, roles)


def _use_regions(regions: list[GeoFeature], region_class: str, roles: Roles) -> None:
    names = ", ".join(sorted({feature.name or "without class" for feature in regions}))
    one = len(regions) == 1
    text = f"{len(regions)} annotation{'' if one else 's'} ({names}) read as {'a region' if one else 'regions'}"
    centres = np.array([feature.polygons[0][0].mean(axis=0) for feature in roles.nuclei]).reshape(-1, 2)
    held = np.zeros(len(centres), dtype=bool)
    for region in regions:
        held |= _holds(region, centres)
    covered = held.all()
    if roles.regions or not covered:
        reason = f"there are regions of the class {region_class!r}" if roles.regions else "nuclei lie outside"
        roles.notes.append(f"{text} and left out, since {reason}")
    else:
        roles.regions = regions
        roles.notes.append(f"{text} that bound{'s' if one else ''} the annotated area, since all nuclei lie within")


def _refusal(feature: GeoFeature, box: np.ndarray, what: str, region_class: str) -> str:
    return (
        f"the outline from {box[:2].tolist()} to {box[2:].tolist()} (class {feature.name!r}) {what}; if it bounds the "
        f"annotated area, give it a class like {region_class!r}; otherwise leave it out of the export"
    )


def _inside(
    nuclei: Sequence[GeoFeature], boxes: np.ndarray, position: int, others: np.ndarray, most: int | None = None
) -> list[int]:
    """The nuclei among `others` that lie completely within another object; at most `most` of them."""
    low, high = boxes[position, :2], boxes[position, 2:]
    within = (boxes[others, :2] >= low).all(axis=1) & (boxes[others, 2:] <= high).all(axis=1)
    inside = []
    for other in others[within & (others != position)].tolist():
        if _holds(nuclei[position], np.concatenate([polygon[0] for polygon in nuclei[other].polygons])).mean() > 0.9:
            inside.append(other)
            if len(inside) == most:
                break
    return inside


def _holds(region: GeoFeature, points: np.ndarray) -> np.ndarray:
    """Which of the points `(N, 2)` lie in the outer rings of an object."""
    held = np.zeros(len(points), dtype=bool)
    for polygon in region.polygons:
        held |= points_in_poly(points, polygon[0])
    return held


def _box(feature: GeoFeature) -> np.ndarray:
    rings = np.concatenate([polygon[0] for polygon in feature.polygons])
    return np.concatenate([rings.min(axis=0), rings.max(axis=0)])


def _area(feature: GeoFeature) -> float:
    return sum(_ring_area(polygon[0]) - sum(map(_ring_area, polygon[1:])) for polygon in feature.polygons)


def _ring_area(ring: np.ndarray) -> float:
    x, y = (ring - ring[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
