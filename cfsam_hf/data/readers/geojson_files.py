"""Reads GeoJSON of nuclei and regions in pixels, as written by QuPath and other pathology tools."""

import contextlib
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...files.json_input import read_json
from ...files.own_results import SOFTWARE
from ..polygons import Polygon, are_coordinates

AREAS = ("Polygon", "MultiPolygon")
WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
CHILDREN = ("childObjects", "children")
MOST_CLASSES = 50
"""A property with more values than this holds names or measurements of single objects."""

CLASS_PROPERTIES = (
    *("type", "class", "classname", "celltype", "cellclass", "nucleustype", "nucleusclass", "category", "label"),
    *("classlabel", "typename", "predictedclass", "prediction"),
)
"""Where tools other than QuPath put the class, in lower case without separators: TIAToolbox, exported tables."""


@dataclass(frozen=True)
class GeoFeature:
    """One outlined object.

    Attributes:
        polygons: its polygons, usually one, each an exterior ring and its holes, `(K, 2)` xy in pixels.
        name: its class; None if it has none. Parts of a derived class are joined as QuPath shows them, "A: B".
        kind: "annotation", "detection", "cell", "tile", "tma core" or "root" in QuPath's words; None if not stated.
        place: where it is in the file, for messages.
        parent: kind of the object whose list of children contains it; None at the top.
        has_children: whether other outlined objects are in its list of children.
        whole: whether all its polygons are one object, however far apart.
    """

    polygons: tuple[Polygon, ...]
    name: str | None
    kind: str | None = None
    place: str = ""
    parent: str | None = None
    has_children: bool = False
    whole: bool = False


@dataclass
class OutlineFile:
    """What a file of outlines holds.

    Attributes:
        features: the objects with an area, in the order of the file, children after their parents.
        notes: what was left out or read in an unusual way, one sentence each.
        size: (height, width) of the image in pixels, None if the file does not state it.
        upright: whether the outlines are known to belong to the picture as its orientation tag turns it.
    """

    features: list[GeoFeature] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    upright: bool = False


@dataclass(frozen=True)
class _Raw:
    """A feature of the file, not yet read: `(content, place, kind of its parent)`."""

    content: Any
    place: str
    parent: str | None


def read_geojson(path: Path, class_property: str | None = None) -> OutlineFile:
    """Reads a FeatureCollection, a list of features or a single feature, compressed ones too (`read_json`).

    QuPath's cells have two outlines, of which the nucleus is read. Objects in the lists `childObjects` or `children`
    of others are read too. Objects without area (points, lines, empty geometries) are left out.

    Args:
        path: the file.
        class_property: property that holds the class. If None, QuPath's `classification`; in a file without any, one
            of `CLASS_PROPERTIES`.

    Raises:
        OSError: the file is missing, truncated or not JSON.
        ValueError: the content is not GeoJSON of outlines; the message names the feature.
    """
    return parse_geojson(read_json(path), path, class_property)


def parse_geojson(content: Any, path: Path, class_property: str | None = None) -> OutlineFile:
    """Reads the content of a GeoJSON file; `path` names it in errors. See `read_geojson`."""
    found = OutlineFile(upright=_is_own(content))
    without_area: Counter[str] = Counter()
    properties: list[dict[str, Any]] = []
    for raw in _walk(_top(content, path)):
        try:
            feature, why = _feature(raw, class_property)
        except ValueError as error:
            raise ValueError(f"{path}: {raw.place} cannot be used ({error})") from error
        if feature is None:
            without_area[why] += 1
            continue
        found.features.append(feature)
        properties.append(_mapping(raw.content.get("properties"), "properties"))
    if total := sum(without_area.values()):
        kinds = ", ".join(f"{count} {why}" for why, count in without_area.items())
        if not found.features and set(without_area) & set(WITHOUT_AREA):
            raise ValueError(f"{path}: none of its {total} objects has an area ({kinds}); nuclei need outlines")
        found.notes.append(f"{total} object{'s' * (total != 1)} without area left out ({kinds})")
    if class_property is None and not any(feature.name for feature in found.features):
        _find_classes(found, properties)
    return found


def turned_features(features: Sequence[GeoFeature], turn: Callable[[np.ndarray], np.ndarray]) -> list[GeoFeature]:
    """The features with another ring `(K, 2)` for each ring."""
    return [
        replace(feature, polygons=tuple(tuple(map(turn, polygon)) for polygon in feature.polygons))
        for feature in features
    ]


def _is_own(content: Any) -> bool:
    """Whether the content is that of a file of this package, whose coordinates are those of the upright image."""
    metadata = content.get("metadata") if isinstance(content, dict) else None
    return isinstance(metadata, dict) and metadata.get("software") == SOFTWARE


def _top(content: Any, path: Path) -> list[Any]:
    """The features of the file."""
    if isinstance(content, dict):
        kind = content.get("type")
        if kind in (*AREAS, *WITHOUT_AREA, "GeometryCollection"):
            raise ValueError(
                f"{path}: a geometry, not a feature ({kind}); in QuPath, export with File, Export objects as GeoJSON"
            )
        if "features" not in content and {"images", "annotations"} <= set(content):
            raise ValueError(f"{path}: a COCO file, not GeoJSON; read it with the reader `coco`")
        if not {"type", "features", "geometry", "nucleusGeometry", *CHILDREN} & set(content):
            raise ValueError(
                f"{path}: not a file of outlines that is read here: GeoJSON, or the JSON of LabelMe, HoVer-Net or "
                f"CellViT; its members are {_shown(sorted(content))}"
            )
        content = content.get("features") if "features" in content or kind == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a GeoJSON FeatureCollection or a list of features")
    return content


def _walk(top: Sequence[Any]) -> Iterator[_Raw]:
    """All features, children after their parents."""
    stack = [_Raw(content, f"feature {number}", None) for number, content in enumerate(top)][::-1]
    while stack:
        raw = stack.pop()
        yield raw
        kind = kind_of(raw.content) or "object"
        children = _children(raw.content)
        stack += [_Raw(child, f"{raw.place}, child {number}", kind) for number, child in enumerate(children)][::-1]


def _children(content: dict[str, Any]) -> list[Any]:
    owners = (content, _mapping(content.get("properties"), "properties"))
    return [child for owner in owners for key in CHILDREN if isinstance(owner.get(key), list) for child in owner[key]]


def kind_of(content: dict[str, Any]) -> str | None:
    """Returns QuPath's word for what an object is, in the spelling of any version.

    Versions 0.4 and later write `objectType`, 0.3 `object_type`, 0.2 and earlier the class name as `id`.

    >>> [kind_of({"id": "PathCellObject"}), kind_of({"properties": {"objectType": "tma_core"}})]
    ['cell', 'tma core']
    """
    properties = content.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    text = properties.get("objectType") or properties.get("object_type")
    if text is None and isinstance(content.get("id"), str) and content["id"].endswith("Object"):
        text = content["id"].removesuffix("Object").removeprefix("Path")
    if not isinstance(text, str):
        return None
    text = text.lower().replace("_", " ")
    return {"tmacore": "tma core", "unknown": None}.get(text, text)


def _feature(raw: _Raw, class_property: str | None) -> tuple[GeoFeature | None, str]:
    """Returns the object, or None and the reason why it is left out."""
    content = raw.content
    if not isinstance(content, dict):
        raise ValueError(f"a feature is an object with a geometry, found {_shown(content)}")
    properties = _mapping(content.get("properties"), "properties")
    kind = kind_of(content)
    nucleus = content.get("nucleusGeometry") or properties.get("nucleusGeometry")
    if kind == "cell" and not nucleus:
        raise ValueError("a cell without nucleusGeometry: export cells with their nuclei, or detections")
    if not nucleus and "geometry" not in content:
        raise ValueError("it has no geometry")
    geometry = nucleus or content["geometry"]
    if geometry is None:
        return None, "empty"
    polygons, why = _polygons(geometry)
    if not polygons:
        return None, why
    value = properties.get("classification") if class_property is None else properties.get(class_property)
    feature = GeoFeature(
        polygons=tuple(polygons),
        name=class_name(value),
        kind=kind,
        place=raw.place,
        parent=raw.parent,
        has_children=any(isinstance(child, dict) for child in _children(content)),
        whole=kind == "cell",
    )
    return feature, ""


def _polygons(geometry: Any) -> tuple[list[Polygon], str]:
    """The polygons of a geometry that enclose an area; or none, and a word for what it is instead."""
    found: list[Polygon] = []
    why = "empty"
    stack = [geometry]
    while stack:
        part = stack.pop()
        if not isinstance(part, dict):
            raise ValueError(f"a geometry is an object with type and coordinates, found {_shown(part)}")
        kind, coordinates = part.get("type"), part.get("coordinates")
        if kind == "GeometryCollection":
            stack += list(_list(part.get("geometries"), "geometries"))[::-1]
        elif kind in WITHOUT_AREA:
            why = str(kind)
        elif kind in AREAS:
            for rings in _list([coordinates] if kind == "Polygon" else coordinates, "coordinates"):
                polygon = [read_ring(ring) for ring in _list(rings, "a polygon") if ring]
                if polygon and encloses(polygon[0]):
                    found.append(tuple(polygon))
                elif polygon:
                    why = "flat"
        else:
            raise ValueError(f"expected a Polygon or MultiPolygon, found {_shown(kind)}")
    return found, why


def read_ring(ring: Any) -> np.ndarray:
    """Returns a list of `[x, y]`, or of longer positions, as `(K, 2)` float64.

    Raises:
        ValueError: the value is anything else.
    """
    try:
        points = np.array([point[:2] for point in ring], dtype=np.float64)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        points = np.empty((0, 0))
    if points.ndim != 2 or points.shape[1] != 2 or not are_coordinates(points):
        raise ValueError("a ring must be a list of finite [x, y]")
    return points


def encloses(ring: np.ndarray) -> bool:
    """Whether the points of a ring `(K, 2)`, K at least 1, do not all lie on one line."""
    steps = ring - ring[0]
    far = steps[np.abs(steps).sum(axis=1).argmax()]
    return bool((steps[:, 0] * far[1] != steps[:, 1] * far[0]).any())


def class_name(value: Any) -> str | None:
    """Returns the class that a value of `classification` stands for; None if it stands for none.

    Accepted are text, numbers, `{"name": ...}`, `{"names": [...]}`, lists, and such an object written as text, as in
    tables exported by GDAL.

    >>> [class_name(value) for value in ("Tumor", 3, {"names": ["A", "B"]}, '{"name": "Tumor"}', {}, "")]
    ['Tumor', '3', 'A: B', 'Tumor', None, None]
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, dict):
        value = value.get("names") or value.get("name")
    if isinstance(value, list):
        if any(isinstance(part, list | dict) for part in value):
            raise ValueError(f"its class must be text, found {_shown(value)}")
        return ": ".join(name for name in map(class_name, value) if name is not None) or None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"its class must be text, found {_shown(value)}")
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _find_classes(found: OutlineFile, properties: Sequence[dict[str, Any]]) -> None:
    """Takes the classes from the property that holds them if no feature has a `classification`."""
    keys = {key.lower().replace("_", "").replace("-", "").replace(" ", ""): key for row in properties for key in row}
    for known in CLASS_PROPERTIES:
        if (key := keys.get(known)) is None:
            continue
        values = [row.get(key) for row in properties]
        if any(not isinstance(value, str | int | None) or isinstance(value, bool) for value in values):
            continue
        names = [class_name(value) for value in values]
        different = len({name for name in names if name})
        numbered = different == len(values) > 1 and not any(isinstance(value, str) for value in values)
        if not different or different > MOST_CLASSES or numbered or set(names) <= {*AREAS, "Feature", None}:
            continue
        found.features = [replace(f, name=name) for f, name in zip(found.features, names, strict=True)]
        found.notes.append(f"no object has a classification; the classes are those of the property {key!r}")
        return
    for key in sorted({key for row in properties for key in row} - {"id", "color", "objectType"}):
        texts = [row[key] for row in properties if isinstance(row.get(key), str | int)]
        texts = [text for text in texts if not isinstance(text, bool)]
        if len(texts) == len(properties) and 1 < len(set(texts)) <= min(MOST_CLASSES, len(texts) // 2):
            found.notes.append(
                f"no object has a classification, but all have the property {key!r} with {len(set(texts))} values; "
                f"class_property={key} reads it as the class"
            )


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, found {_shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return reprlib.repr(value)
