"""The nuclei of a slide as record batches, and as one GeoParquet file written batch by batch.

All coordinates are pixels of the slide's level 0: x to the right, y down, the centre of the first pixel at (.5, .5).
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ..files.atomic import atomic_path
from ..model.result import NucleiResult
from .table import METADATA_KEY
from .wkb import encode_polygon

GEO_KEY = b"geo"
# Nuclei of a row group: what is held in memory, and what a reader of a window skips or reads at once.
ROW_GROUP_SIZE = 16_384
BOX_COLUMNS = ("bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1")
COVERING_FIELDS = ("xmin", "ymin", "xmax", "ymax")
COVERING = pyarrow.field("bbox", pyarrow.struct([(name, pyarrow.float32()) for name in COVERING_FIELDS]))


def nuclei_schema(type_names: Mapping[int, str]) -> pyarrow.Schema:
    """The columns of a slide's nuclei.

    They are those of a tile's table, with `bbox_*` and `area_px` as real numbers since a pixel of the model need not
    be one of level 0, and in addition `geometry` (a polygon as WKB) and, last, for each type its share in the
    summed probabilities of all types (see [`probability_columns`]).

    Args:
        type_names: names of the types 1..T by id; empty for a model without types.
    """
    real = pyarrow.float64()
    return pyarrow.schema(
        [
            ("geometry", pyarrow.binary()),
            ("id", pyarrow.int64()),
            ("type", pyarrow.int64()),
            ("type_name", pyarrow.string()),
            ("type_probability", real),
            ("score", real),
            ("x", real),
            ("y", real),
            *((name, real) for name in BOX_COLUMNS),
            ("area_px", real),
            ("area_um2", real),
            *((name, pyarrow.float32()) for name in probability_columns(type_names).values()),
        ]
    )


def probability_columns(type_names: Mapping[int, str]) -> dict[int, str]:
    """The column of each type's probability, by type id: `probability_` and the name in plain characters.

    >>> probability_columns({1: "epithelial", 2: "spindle-shaped"})
    {1: 'probability_epithelial', 2: 'probability_spindle_shaped'}
    """
    plain = {i: re.sub(r"\W+", "_", name.lower()).strip("_") for i, name in sorted(type_names.items())}
    # If two names become the same, or one becomes empty, all columns carry the ids of their types.
    distinct = "" not in plain.values() and len(set(plain.values())) == len(plain)
    return {i: f"probability_{name if distinct else f'{i}_{name}'}" for i, name in plain.items()}


def nuclei_batch(
    result: NucleiResult,
    schema: pyarrow.Schema,
    offset: tuple[float, float] = (0.0, 0.0),
    scale: tuple[float, float] = (1.0, 1.0),
) -> pyarrow.RecordBatch:
    """The nuclei of a part of a slide, moved to pixels of level 0; unknown numbers are null.

    Args:
        result: the nuclei of the part, in its own pixels.
        schema: of [`nuclei_schema`] for the same types.
        offset: (x, y) of the part's upper left corner in pixels of level 0.
        scale: width and height of a pixel of the part in pixels of level 0.

    Raises:
        ValueError: the schema has other types than the result.
    """
    by_type = probability_columns(result.type_names)
    if schema != nuclei_schema(result.type_names):
        raise ValueError(f"the schema has the columns {schema.names}, which do not fit the types {result.type_names}")
    shift, factor = np.array(offset, dtype=np.float64), np.array(scale, dtype=np.float64)
    table = result.table
    columns: dict[str, Any] = {name: table[name] for name in table.columns if name in schema.names}
    columns["geometry"] = [encode_polygon([ring * factor + shift for ring in rings]) for rings in result.contours]
    for axis, names in enumerate((("x", "bbox_x0", "bbox_x1"), ("y", "bbox_y0", "bbox_y1"))):
        for name in names:
            columns[name] = table[name] * factor[axis] + shift[axis]
    columns["area_px"] = table["area_px"] * factor.prod()
    shares = result.probabilities
    for type_id, name in by_type.items():
        columns[name] = np.full(len(table), np.nan) if shares is None else shares[:, type_id - 1]
    return pyarrow.RecordBatch.from_arrays(
        [pyarrow.array(columns[field.name], field.type, from_pandas=True) for field in schema], schema=schema
    )


def numbered(batches: Iterable[pyarrow.RecordBatch], first: int = 1) -> Iterator[pyarrow.RecordBatch]:
    """The batches with new ids `first`, `first` + 1, ... in their order, so that the parts of a slide share one
    numbering."""
    for batch in batches:
        ids = pyarrow.array(np.arange(first, first + len(batch)), pyarrow.int64())
        yield batch.set_column(batch.schema.get_field_index("id"), "id", ids)
        first += len(batch)


def write_slide_table(
    batches: Iterable[pyarrow.RecordBatch],
    schema: pyarrow.Schema,
    path: str | os.PathLike[str],
    record: Mapping[str, Any],
) -> int:
    """Writes the nuclei of a slide as GeoParquet 1.1, one row per nucleus, holding one row group in memory.

    The file's metadata states, under `geo`, that the polygons have no coordinate reference system, since they are
    pixels, and under `cfsam_hf` the provenance record. A column `bbox`, the box again as GeoParquet wants it, lets
    readers load a window without the rest (`geopandas.read_parquet(path, bbox=(x0, y0, x1, y1))`).

    Args:
        batches: nuclei of the schema, in the order of the file.
        schema: as [`nuclei_schema`] makes it.
        path: the file; an existing one is replaced.
        record: what made the nuclei, JSON-ready.

    Returns:
        The number of nuclei.

    Raises:
        OSError: the file cannot be written.
    """
    count, bounds = 0, np.array([np.inf, np.inf, -np.inf, -np.inf])
    # Opened here, since pyarrow takes only names that are valid text.
    with (
        atomic_path(path) as working,
        open(working, "wb") as file,
        # A stored Arrow schema would hide from Arrow's own readers the metadata that is added at the end.
        pyarrow.parquet.ParquetWriter(file, schema.append(COVERING), compression="zstd", store_schema=False) as writer,
    ):
        for rows in _row_groups(batches, schema):
            boxes = np.stack([rows.column(name).to_numpy() for name in BOX_COLUMNS])
            bounds[:2] = np.minimum(bounds[:2], boxes[:2].min(axis=1))
            bounds[2:] = np.maximum(bounds[2:], boxes[2:].max(axis=1))
            writer.write_table(rows.append_column(COVERING, _covering(boxes)), row_group_size=len(rows))
            count += len(rows)
        writer.add_key_value_metadata(
            {GEO_KEY: json.dumps(_geo_metadata(bounds if count else None)), METADATA_KEY: json.dumps(dict(record))}
        )
    return count


def read_slide_batches(
    path: str | os.PathLike[str], columns: list[str] | None = None, rows: int = ROW_GROUP_SIZE
) -> Iterator[pyarrow.RecordBatch]:
    """The nuclei of a file of [`write_slide_table`], some at a time, in the columns of [`nuclei_schema`].

    Args:
        path: the file.
        columns: only these.
        rows: nuclei of a batch at most.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    with open(path, "rb") as source, pyarrow.parquet.ParquetFile(source) as file:
        names = columns or [name for name in file.schema_arrow.names if name != COVERING.name]
        yield from file.iter_batches(rows, columns=names)


def _row_groups(batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    """Tables of `ROW_GROUP_SIZE` rows, the last one smaller."""
    waiting: list[pyarrow.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= ROW_GROUP_SIZE:
            table = pyarrow.Table.from_batches(waiting, schema)
            yield table.slice(0, ROW_GROUP_SIZE)
            waiting = table.slice(ROW_GROUP_SIZE).to_batches()
            count -= ROW_GROUP_SIZE
    if count:
        yield pyarrow.Table.from_batches(waiting, schema)


def _covering(boxes: np.ndarray) -> pyarrow.StructArray:
    """Boxes (4, N) of float64 as float32 that are never smaller."""
    small = boxes.astype(np.float32)
    low = np.where(small[:2] > boxes[:2], np.nextafter(small[:2], np.float32(-np.inf)), small[:2])
    high = np.where(small[2:] < boxes[2:], np.nextafter(small[2:], np.float32(np.inf)), small[2:])
    return pyarrow.StructArray.from_arrays([pyarrow.array(side) for side in (*low, *high)], fields=list(COVERING.type))


def _geo_metadata(bounds: np.ndarray | None) -> dict[str, Any]:
    """The metadata of GeoParquet 1.1 for one column of polygons in pixels."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: [COVERING.name, name] for name in COVERING_FIELDS}},
    }
    if bounds is not None:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
