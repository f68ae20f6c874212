"""The nuclei as GeoJSON, one feature per nucleus, in the form that QuPath imports."""

import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..files.atomic import atomic_path
from ..model.contours import split_polygons
from ..model.result import NucleiResult, provenance, type_styles

# Measurements keep the names of the table's columns, so that the two can be joined.
MEASUREMENTS = ("id", "type_probability", "score", "area_px", "area_um2")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://arxiv.org/abs/2603.28027")


def nucleus_features(result: NucleiResult) -> Iterator[dict[str, Any]]:
    """The GeoJSON features of a result, in the order of its table.

    Each has a `Polygon` in image pixels (x right, y down, the image's corner at (0, 0), along the pixels' edges, so
    that its area is the pixel count): a closed exterior ring of positive signed area in these coordinates, then the
    holes with negative area, as RFC 7946, 3.1.6 orders them. The properties are QuPath's (0.4 and later): `objectType`
    "detection", `classification` with name and colour, `measurements` (those that are numbers; NaN is left out). The
    `id` is a UUID that stays the same when the same image is segmented again with the same result.
    A nucleus that was given in several pieces is a `MultiPolygon`.
    """
    styles = {style.type_id: style for style in type_styles(result)}
    source = f"{result.image_name}|{result.checkpoint}|{result.version}"
    table = result.table
    columns = {name: table[name].tolist() for name in (*MEASUREMENTS, "type", "x", "y")}
    for row, rings in enumerate(result.contours):
        style = styles[columns["type"][row]]
        key = f"{source}|{columns['id'][row]}|{columns['x'][row]:.3f}|{columns['y'][row]:.3f}"
        measurements = {name: columns[name][row] for name in MEASUREMENTS}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(NAMESPACE, key)),
            "geometry": _geometry(rings),
            "properties": {
                "objectType": "detection",
                "classification": {"name": style.name, "color": list(style.color)},
                "measurements": {
                    n: v if isinstance(v, int) else round(v, 6) for n, v in measurements.items() if math.isfinite(v)
                },
            },
        }


def _geometry(rings: Sequence[np.ndarray]) -> dict[str, Any]:
    polygons = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in split_polygons(rings)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def write_geojson(result: NucleiResult, path: str | os.PathLike[str]) -> None:
    """Writes a FeatureCollection with one feature per nucleus (see [`nucleus_features`]), a line each.

    The member `metadata` holds the provenance record. The coordinates are pixels, as QuPath expects. Readers that
    treat GeoJSON as maps, such as geopandas, assume degrees; `frame.set_crs(None, allow_override=True)` corrects that.

    Args:
        result: the nuclei of one image.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    head = json.dumps(provenance(result), ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as working, open(working, "w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"type": "FeatureCollection",\n"metadata": {head},\n"features": [')
        separator = "\n"
        for feature in nucleus_features(result):
            file.write(separator + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")
