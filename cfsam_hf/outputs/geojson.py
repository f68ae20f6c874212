"""The nuclei as GeoJSON, one feature per nucleus, in the form that QuPath imports."""

import gzip
import io
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..files.atomic import atomic_path
from ..model.contours import split_polygons
from ..model.result import NucleiResult, TypeStyle, provenance, type_styles

# Measurements keep the names of the table's columns, so that the two can be joined.
MEASUREMENTS = ("id", "type_probability", "score", "area_px", "area_um2")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://arxiv.org/abs/2603.28027")
GZIP_ENDING = ".gz"
GZIP_LEVEL = 5


def nucleus_feature(
    origin: str,
    place: tuple[float, float],
    polygons: Sequence[Sequence[Sequence[Sequence[float]]]],
    style: TypeStyle,
    measurements: Mapping[str, float | None],
) -> dict[str, Any]:
    """The GeoJSON feature of one nucleus.

    It has a `Polygon` in image pixels (x right, y down, the image's corner at (0, 0), along the edges of the pixels in
    which the nucleus was found): a closed exterior ring of positive signed area in these coordinates, then the
    holes with negative area, as RFC 7946, 3.1.6 orders them. The properties are QuPath's (0.4 and later): `objectType`
    "detection", `classification` with name and colour, `measurements` (those that are numbers; an unknown one is left
    out). The `id` is a UUID that stays the same when the same image is segmented again with the same result.

    Args:
        origin: what tells this image, checkpoint and version from others.
        place: centroid (x, y).
        polygons: the pieces of the nucleus, nearly always one: points (x, y) of each ring, the exterior first; the
            first point is not repeated. Several pieces become a `MultiPolygon`.
        style: the nucleus's type.
        measurements: numbers by name, among them the `id`.
    """
    key = f"{origin}|{measurements['id']}|{place[0]:.3f}|{place[1]:.3f}"
    known = {name: value for name, value in measurements.items() if value is not None and math.isfinite(value)}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, key)),
        "geometry": _geometry([[[*ring, ring[0]] for ring in rings] for rings in polygons]),
        "properties": {
            "objectType": "detection",
            "classification": {"name": style.name, "color": list(style.color)},
            "measurements": {name: v if isinstance(v, int) else round(v, 6) for name, v in known.items()},
        },
    }


def _geometry(polygons: list[list[list[Sequence[float]]]]) -> dict[str, Any]:
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def feature_origin(record: Mapping[str, Any]) -> str:
    """What tells the features of an image, checkpoint and version from others, from the provenance record."""
    return f"{record['image']}|{record['checkpoint']}|{record['version']}"


def nucleus_features(result: NucleiResult) -> Iterator[dict[str, Any]]:
    """The features of a result, in the order of its table; a polygon's area is the pixel count.

    See [`nucleus_feature`].
    """
    styles = {style.type_id: style for style in type_styles(result)}
    origin = feature_origin(provenance(result))
    table = result.table
    columns = {name: table[name].tolist() for name in (*MEASUREMENTS, "type", "x", "y")}
    for row, rings in enumerate(result.contours):
        yield nucleus_feature(
            origin,
            (columns["x"][row], columns["y"][row]),
            [[ring.tolist() for ring in polygon] for polygon in split_polygons(rings)],
            styles[columns["type"][row]],
            {name: columns[name][row] for name in MEASUREMENTS},
        )


def write_geojson(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes a FeatureCollection with one feature per nucleus (see [`nucleus_feature`]), a line each.

    The member `metadata` holds the provenance record. The coordinates are pixels, as QuPath expects. Readers that
    treat GeoJSON as maps, such as geopandas, assume degrees; `frame.set_crs(None, allow_override=True)` corrects that.

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    write_features(nucleus_features(result), path, provenance(result))


def write_features(
    features: Iterable[Mapping[str, Any]], path: str | os.PathLike[str], record: Mapping[str, Any]
) -> None:
    """Writes a FeatureCollection, holding one feature at a time in memory.

    Args:
        features: one per nucleus.
        path: the file; an existing one is replaced. If its name ends in `.gz` it is compressed.
        record: the member `metadata`.

    Raises:
        OSError: the file cannot be written.
    """
    head = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as working, _open_text(working) as file:
        file.write(f'{{"type": "FeatureCollection",\n"metadata": {head},\n"features": [')
        separator = "\n"
        for feature in features:
            file.write(separator + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _open_text(path: Path) -> TextIO:
    if path.suffix != GZIP_ENDING:
        return open(path, "w", encoding="utf-8", newline="\n")
    # Without a time, equal results give equal files.
    packed = gzip.GzipFile(path, "wb", GZIP_LEVEL, mtime=0)
    return io.TextIOWrapper(io.BufferedWriter(packed, 2**20), encoding="utf-8", newline="\n")
