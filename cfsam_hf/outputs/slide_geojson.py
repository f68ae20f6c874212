"""The nuclei of a slide as GeoJSON, written batch by batch."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow

from ..model.result import record_styles
from .geojson import MEASUREMENTS, feature_origin, nucleus_feature, write_features
from .wkb import decode_polygon

# A plain file of so many nuclei has about 60 MB.
MOST_PLAIN_NUCLEI = 50_000
# Decimals of the coordinates, in pixels of level 0.
DECIMALS = 2


def slide_geojson_ending(nuclei: int) -> str:
    """The ending of the file for so many nuclei: `.geojson`, or from 50,001 nuclei on `.geojson.gz`."""
    return ".geojson" if nuclei <= MOST_PLAIN_NUCLEI else ".geojson.gz"


def slide_features(batches: Iterable[pyarrow.RecordBatch], record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The GeoJSON features of a slide's nuclei, in the form of a tile's (see `nucleus_feature` of `outputs.geojson`).

    Args:
        batches: nuclei in the columns of `nuclei_schema`, with coordinates in pixels of level 0.
        record: the provenance record of the slide; its `types` give names and colours.
    """
    styles = {style.type_id: style for style in record_styles(record)}
    origin = feature_origin(record)
    for batch in batches:
        columns = {name: batch.column(name).to_pylist() for name in ("geometry", "type", "x", "y", *MEASUREMENTS)}
        # Whole where the pixels of the model are those of level 0, as in a tile.
        columns["area_px"] = [int(area) if area.is_integer() else area for area in columns["area_px"]]
        for row, geometry in enumerate(columns["geometry"]):
            yield nucleus_feature(
                origin,
                (columns["x"][row], columns["y"][row]),
                [[_points(ring) for ring in decode_polygon(geometry)]],
                styles[columns["type"][row]],
                {name: columns[name][row] for name in MEASUREMENTS},
            )


def write_slide_geojson(
    batches: Iterable[pyarrow.RecordBatch], path: str | os.PathLike[str], record: Mapping[str, Any]
) -> None:
    """Writes a FeatureCollection with one feature per nucleus, a line each, holding one batch in memory.

    Args:
        batches, record: as in [`slide_features`]. The record becomes the member `metadata`.
        path: the file; an existing one is replaced. If its name ends in `.gz` it is compressed
            ([`slide_geojson_ending`] chooses).

    Raises:
        OSError: the file cannot be written.
    """
    write_features(slide_features(batches, record), path, record)


def _points(ring: np.ndarray) -> list[list[float]]:
    """The points of a ring (K, 2) as numbers that are short in text."""
    rounded = ring.round(DECIMALS)
    whole = rounded.astype(np.int64)
    points: list[list[float]] = (whole if (whole == rounded).all() else rounded).tolist()
    return points
