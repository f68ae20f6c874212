"""Reads the JSON files of LabelMe and its relatives (AnyLabeling, X-AnyLabeling): one file per image."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...model.contours import nucleus_contours, split_polygons
from ...model.pictures import open_picture
from ..polygons import Polygon
from .geojson_files import GeoFeature, OutlineFile, class_name, encloses, read_ring

CIRCLE_POINTS = 64
MOST_MASK_PIXELS = 2**24
"""A mask of 4,096 x 4,096 is no nucleus; a few bytes of PNG can claim far more."""

WITHOUT_AREA = ("point", "points", "line", "linestrip", "lines")


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def parse_labelme(content: dict[str, Any], path: Path) -> OutlineFile:
    """Reads the content of a file; `path` names it in errors.

    Polygons, rectangles and circles are objects; shapes of one label that share a `group_id` are parts of one object.

    Raises:
        ValueError: a shape cannot be read; the message names it.
    """
    found = OutlineFile(size=_size(content), upright=True)
    left_out = 0
    groups: dict[tuple[Any, str | None], int] = {}
    for number, shape in enumerate(content["shapes"]):
        place = f"shape {number}"
        try:
            polygons = _polygons(shape)
            name = class_name(shape.get("label"))
        except ValueError as error:
            raise ValueError(f"{path}: {place} cannot be used ({error})") from error
        if not polygons:
            left_out += 1
            continue
        group = shape.get("group_id")
        key = (group, name)
        if isinstance(group, int | str) and key in groups:
            first = found.features[groups[key]]
            found.features[groups[key]] = replace(first, polygons=(*first.polygons, *polygons), whole=True)
            continue
        if isinstance(group, int | str):
            groups[key] = len(found.features)
        found.features.append(GeoFeature(tuple(polygons), name, None, place, whole=len(polygons) > 1))
    if left_out:
        found.notes.append(f"{left_out} shape{'s' * (left_out != 1)} without area left out")
    return found


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _polygons(shape: Any) -> list[Polygon]:
    """The polygons of a shape; none for one without area."""
    if not isinstance(shape, dict):
        raise ValueError("a shape is an object with points")
    kind = shape.get("shape_type") or "polygon"
    if kind in WITHOUT_AREA:
        return []
    points = read_ring(shape.get("points"))
    if kind == "mask":
        return _mask_polygons(shape.get("mask"), points)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle":
        if len(points) != 2:
            raise ValueError(f"a circle has a centre and a point on it, found {len(points)} points")
        angles = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
        radius = float(np.hypot(*(points[1] - points[0])))
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind not in ("polygon", "rectangle", "rotation"):
        raise ValueError(f"its shape_type is {kind!r}; polygons, rectangles, circles and masks are read")
    return [(points,)] if len(points) and encloses(points) else []


def _mask_polygons(text: Any, corners: np.ndarray) -> list[Polygon]:
    """The outlines of a mask as LabelMe's AI tools save it: a PNG in base64, whose corners are those of its box."""
    if not isinstance(text, str) or len(corners) != 2:
        raise ValueError("a mask is a picture in base64 and the two corners of its box")
    try:
        with open_picture(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            if picture.width * picture.height > MOST_MASK_PIXELS:
                raise ValueError(f"its mask is {picture.width} x {picture.height}, too large for a nucleus")
            box = (corners[1] - corners[0] + 1).tolist()
            if list(picture.size) != box:
                raise ValueError(f"its mask is {picture.width} x {picture.height}, its box {box[0]:g} x {box[1]:g}")
            mask = np.asarray(picture.convert("L")) > 0
    except (OSError, SyntaxError) as error:
        raise ValueError(f"its mask cannot be read: {error}") from error
    rings = nucleus_contours(mask.astype(np.int32), np.zeros((1, 4)))[0]
    return [tuple(ring + corners[0] for ring in polygon) for polygon in split_polygons(rings)]
