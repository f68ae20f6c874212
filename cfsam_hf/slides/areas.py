"""Areas that people draw on slides: annotations in GeoJSON, as QuPath and others export them, in level-0 pixels."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from ..files.json_input import read_json
from .slide import Slide

# Objects that software creates and people do not draw, by QuPath's names without separators.
_NOT_DRAWN = ("detection", "cell", "tile", "root")
_CHILDREN = ("childObjects", "children")
# The class of annotations that QuPath leaves out of the area around them.
IGNORED = "Ignore*"
_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")


@dataclass(frozen=True, eq=False)
class Areas:
    """
    A part of a slide.

    Attributes:
        shape: polygons, with holes, in level-0 pixels (x right, y down); valid and without overlaps.
    """

    shape: shapely.MultiPolygon

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in level-0 pixels."""
        x0, y0, x1, y1 = self.shape.bounds
        return x0, y0, x1, y1

    @property
    def rings(self) -> list[list[np.ndarray]]:
        """Each polygon's exterior and holes, (K, 2) float64 xy in level-0 pixels, the first point also at the end."""
        return [
            [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
            for polygon in self.shape.geoms
        ]

    def cut(self, x0: float, y0: float, x1: float, y1: float) -> "Areas":
        """The part in a box in level-0 pixels."""
        return Areas(_as_polygons(self.shape.intersection(shapely.box(x0, y0, x1, y1))))

    def common(self, other: "Areas") -> "Areas":
        """The part that also lies in the other areas."""
        return Areas(_as_polygons(self.shape.intersection(other.shape)))

    def beyond(self, other: "Areas") -> "Areas":
        """The part outside the other areas."""
        return Areas(_as_polygons(self.shape.difference(other.shape)))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """
        Which points lie in the areas.

        Args:
            points: (N, 2) xy in level-0 pixels.

        Returns:
            (N,) bool.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        shapely.prepare(self.shape)
        inside: np.ndarray = shapely.contains_xy(self.shape, points[:, 0], points[:, 1])
        return inside


def read_areas(path: str | os.PathLike[str], slide: Slide | None = None) -> Areas:
    """
    Reads annotations of a slide.

    The file holds a FeatureCollection, a list of features, one feature or a bare geometry, and may be compressed
    (`.gz`, `.zip`). Annotations within others (`childObjects`) are read too, and polygons that cross themselves are
    repaired. Detections, cells, tiles, points and lines are ignored. Areas of the class `Ignore*` are cut out of the
    others, as in QuPath.

    Args:
        path: the file.
        slide: the slide that the areas must lie on; None: no check.

    Raises:
        OSError: the file cannot be read, or is not JSON.
        ValueError: it is not GeoJSON, holds no area, or the areas lie off the slide. The message names the file.
    """
    path = Path(path)
    drawn: list[BaseGeometry] = []
    ignored: list[BaseGeometry] = []
    passed = 0
    for feature, place in _features(read_json(path), path):
        if _kind(feature) in _NOT_DRAWN:
            passed += 1
            continue
        is_ignored = fnmatchcase(_class_name(feature), IGNORED)
        (ignored if is_ignored else drawn).extend(_polygons(feature.get("geometry"), f"{path}: {place}"))
    shape = _union(drawn or ignored)
    if drawn and ignored:
        shape = _as_polygons(shape.difference(_union(ignored)))
    if shape.is_empty:
        what = f"holds {passed} detections, cells or tiles, but no annotation" if passed else "holds no annotation"
        raise ValueError(
            f"{path}: {what} with an area; draw one in QuPath and export it with File, Export objects as GeoJSON"
        )
    areas = Areas(shape)
    if slide is not None:
        _check_place(areas, slide, path)
    return areas


def _check_place(areas: Areas, slide: Slide, path: Path) -> None:
    """Raises ValueError if no part of the areas lies on the slide, with a guess at the reason."""
    width, height = slide.size
    x0, y0, x1, y1 = areas.bounds
    if x0 < width and y0 < height and x1 > 0 and y1 > 0:
        return
    reason = "they may belong to another slide"
    size = slide.pixel_size
    if size is not None:
        for factor, unit in ((1e-3, "nanometres"), (1.0, "micrometres"), (1e3, "millimetres")):
            if 0 <= x0 * factor / size.x <= x1 * factor / size.x <= width and y1 * factor / size.y <= height:
                reason = f"if they are {unit}, divide them by {size.x / factor:g}, the size of a pixel"
                break
    raise ValueError(
        f"{path}: its areas reach from ({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f}), off the slide {slide.path!r} of "
        f"{width} x {height} px; coordinates must be pixels of the largest level, from its upper left corner; {reason}"
    )


def _features(content: Any, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The features of the file, also those within others, each with its place for messages."""
    if isinstance(content, dict):
        if content.get("type") in _GEOMETRIES:
            content = [{"geometry": content}]
        elif "features" in content or content.get("type") == "FeatureCollection":
            content = content.get("features") or []
        elif "geometry" in content or content.get("type") == "Feature":
            content = [content]
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected GeoJSON: a FeatureCollection, a list of features, or a feature")
    stack = [(feature, f"feature {number}") for number, feature in enumerate(content)][::-1]
    while stack:
        feature, place = stack.pop()
        if not isinstance(feature, dict):
            raise ValueError(f"{path}: {place} is not an object with a geometry; export the annotations as GeoJSON")
        yield feature, place
        for owner in (feature, _properties(feature)):
            for children in (owner.get(key) for key in _CHILDREN):
                if isinstance(children, list):
                    stack += [(child, f"{place}, child {number}") for number, child in enumerate(children)][::-1]


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    """QuPath's word for what an object is, as its versions write it; empty where the file does not say."""
    properties = _properties(feature)
    text = properties.get("objectType") or properties.get("object_type")
    if text is None and isinstance(feature.get("id"), str) and feature["id"].endswith("Object"):
        text = feature["id"].removesuffix("Object").removeprefix("Path")
    return text.lower() if isinstance(text, str) else ""


def _class_name(feature: dict[str, Any]) -> str:
    value = _properties(feature).get("classification")
    if isinstance(value, dict):
        value = value.get("name") or value.get("names")
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) else ""


def _polygons(geometry: Any, place: str) -> list[BaseGeometry]:
    """The polygons of a geometry, made valid."""
    if geometry is None:
        return []
    if not isinstance(geometry, dict) or geometry.get("type") not in _GEOMETRIES:
        raise ValueError(f"{place} has no GeoJSON geometry; export the annotations as GeoJSON")
    if geometry["type"] == "GeometryCollection":
        return [shape for part in geometry.get("geometries") or [] for shape in _polygons(part, place)]
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    coordinates = geometry.get("coordinates") or []
    polygons = []
    try:
        for rings in [coordinates] if geometry["type"] == "Polygon" else coordinates:
            points = [np.array([point[:2] for point in ring], dtype=np.float64).reshape(-1, 2) for ring in rings]
            if any(not np.isfinite(ring).all() for ring in points):
                raise ValueError
            points = [ring for ring in points if len(ring) >= 3]
            if points:
                polygons.append(shapely.make_valid(shapely.Polygon(points[0], points[1:])))
    except (TypeError, ValueError, KeyError, OverflowError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"{place} has coordinates that are not a list of finite [x, y]") from error
    return polygons


def _union(shapes: Sequence[BaseGeometry]) -> shapely.MultiPolygon:
    return _as_polygons(shapely.union_all([_as_polygons(shape) for shape in shapes]))


def _as_polygons(shape: BaseGeometry) -> shapely.MultiPolygon:
    """The parts of a geometry that have an area."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon" and part.area > 0])
