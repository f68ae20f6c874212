"""Reading GeoJSON of nuclei and regions in pixels, as QuPath exports it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..polygons import Polygon


@dataclass(frozen=True)
class GeoFeature:
    """One outlined object.

    Attributes:
        polygons: its polygons, one as a rule, each an exterior ring and its holes, `(K, 2)` xy in pixels.
        name: its class, None where it has none. Parts of a derived class are joined as QuPath shows them, "A: B".
    """

    polygons: tuple[Polygon, ...]
    name: str | None


def read_geojson(path: Path) -> list[GeoFeature]:
    """Read a FeatureCollection, a list of features or a single feature, in the order of the file.

    Of QuPath's cells, which have two outlines, the nucleus is read.

    Raises:
        OSError: if the file is missing, truncated or not JSON.
        ValueError: naming the feature, for other content, or geometries that enclose no area.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path}: not a JSON file that can be read, or truncated ({error})") from error
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a GeoJSON FeatureCollection or a list of features")
    features = []
    for number, feature in enumerate(content):
        try:
            features.append(_feature(feature))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: feature {number} cannot be used ({error})") from error
    return features


def _feature(feature: dict[str, Any]) -> GeoFeature:
    properties = feature.get("properties") or {}
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    if properties.get("objectType") == "cell" and "nucleusGeometry" not in feature:
        raise ValueError("a cell without nucleusGeometry: export cells with their nuclei, or detections")
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon":
        polygons = [coordinates]
    elif kind == "MultiPolygon":
        polygons = coordinates
    else:
        raise ValueError(f"expected a Polygon or MultiPolygon, found {kind}")
    if not polygons or not all(polygons):
        raise ValueError("its geometry is empty")
    classification = properties.get("classification") or {}
    names = classification.get("names") or [classification.get("name")]
    return GeoFeature(
        polygons=tuple(tuple(_ring(ring) for ring in polygon) for polygon in polygons),
        name=": ".join(names) if names[0] else None,
    )


def _ring(ring: list[list[float]]) -> np.ndarray:
    points = np.array([point[:2] for point in ring], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("a ring must be a list of finite [x, y]")
    return points
