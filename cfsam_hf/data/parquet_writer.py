"""Writes any data set as Parquet shards that stream through `datasets` and that the reader restores exactly."""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from ..files.atomic import staged_folder
from ..model.pictures import open_picture
from ..model.result import __version__
from .readers.files import read_image
from .readers.parquet import METADATA_KEY, STORED_UNKNOWN_TYPE
from .records import UNKNOWN_TYPE, Tile, TileRecord

GROUP_BYTES = 2**20
"""Rows are read in groups of about this size: small, since reading one tile at random reads its whole group."""

LARGEST_16_BIT = 2**16 - 1
ORIENTATION = 0x0112
"""EXIF tag by which some viewers, and `datasets`, turn a picture."""


@dataclass
class _Shard:
    """A file being written: `writer`, its `bytes` so far, and the rows of the next group."""

    writer: pyarrow.parquet.ParquetWriter
    path: Path
    bytes: int = 0
    pending: list[dict[str, Any]] = field(default_factory=list)
    pending_bytes: int = 0

    def add(self, row: dict[str, Any], size: int, schema: pyarrow.Schema) -> None:
        self.pending.append(row)
        self.bytes += size
        self.pending_bytes += size
        if self.pending_bytes >= GROUP_BYTES:
            self.flush(schema)

    def flush(self, schema: pyarrow.Schema) -> None:
        if self.pending:
            self.writer.write_table(pyarrow.Table.from_pylist(self.pending, schema=schema))
        self.pending, self.pending_bytes = [], 0


def write_shards(
    records: Sequence[TileRecord],
    output: str | Path,
    shard_bytes: int = 500_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes tiles as `<fold>-00000-of-00002.parquet`, ..., all shards or none.

    A row has the columns of `load_nuclei_dataset`: `image` (PNG, or the data set's own JPEG or PNG file where that
    decodes to the same pixels), `instance_map` (16-bit PNG; 32-bit TIFF where ids go beyond 65,535), `type_map` (8-bit
    PNG, 255 where a nucleus has no annotated type; null without types), `annotated` (1-bit PNG or null), `tissue`,
    `mpp`, `id`, `fold`; besides `types`, the types present, whose feature names all of them; `position`, the place in
    the data set; and `details`, JSON of what else the reader knows.

    Args:
        records: tiles of one data set, with the same type names.
        output: the folder; created if needed.
        shard_bytes: a shard ends with the tile by which it reaches this size.
        progress: called with the number of tiles written so far and the number of all tiles.

    Returns:
        The files, in order.

    Raises:
        ImportError: `datasets` is not installed.
        FileExistsError: `output` holds `.parquet` files: shards of two conversions would be read as one data set.
        ValueError, OSError: there are no tiles, a tile cannot be read, type names differ or exceed 254, or the
            files cannot be written.
    """
    output = Path(output)
    if not records:
        raise ValueError("there are no tiles to write")
    type_names = dict(records[0].type_names)
    for record in records:
        if (record.dataset, dict(record.type_names)) != (records[0].dataset, type_names):
            raise ValueError(
                f"tile {record.id} of {record.dataset} has the types {dict(record.type_names)}, but {records[0].id} "
                f"of {records[0].dataset} has {type_names}; write each data set to a folder of its own"
            )
    if records[0].points:
        raise ValueError(f"{records[0].dataset} has points and no outlines, which shards cannot hold")
    if type_names and not 1 <= min(type_names) <= max(type_names) < STORED_UNKNOWN_TYPE:
        raise ValueError(f"type ids must lie in 1..{STORED_UNKNOWN_TYPE - 1}, got {sorted(type_names)}")
    if output.is_dir() and (present := sorted(output.glob("*.parquet"))):
        raise FileExistsError(f"{output}: holds {present[0].name} already; choose another folder or remove its shards")
    schema = _schema(records[0].dataset, type_names)
    shards: dict[str, list[_Shard]] = {}
    with staged_folder(output) as stage:
        try:
            for position, record in enumerate(records):
                row, size = _row(record, record.load(), position)
                fold = re.sub(r"[^\w.-]+", "_", record.fold or "all")
                of_fold = shards.setdefault(fold, [])
                if not of_fold or of_fold[-1].bytes >= shard_bytes:
                    if of_fold:
                        of_fold[-1].flush(schema)
                        of_fold[-1].writer.close()
                    path = stage / f"{fold}-{len(of_fold):05d}"
                    # The pictures are compressed already.
                    of_fold.append(_Shard(pyarrow.parquet.ParquetWriter(path, schema, compression="none"), path))
                of_fold[-1].add(row, size, schema)
                if progress is not None:
                    progress(position + 1, len(records))
            for of_fold in shards.values():
                of_fold[-1].flush(schema)
        finally:
            for shard in (shard for of_fold in shards.values() for shard in of_fold):
                shard.writer.close()
        files = [
            shard.path.rename(f"{shard.path}-of-{len(of_fold):05d}.parquet")
            for _, of_fold in sorted(shards.items())
            for shard in of_fold
        ]
    return [output / file.name for file in files]


def _schema(dataset: str, type_names: dict[int, str]) -> pyarrow.Schema:
    """The columns, with the features as `datasets` stores them and what the reader needs in the metadata."""
    try:
        from datasets import ClassLabel, Features, Value
        from datasets import Image as ImageFeature
    except ImportError as error:
        raise ImportError(
            "writing Parquet shards needs the `datasets` package: pip install 'cfsam_hf[train]'"
        ) from error
    labels = ["background", *(type_names.get(i, f"type {i}") for i in range(1, max(type_names, default=0) + 1))]
    features = Features(
        {
            "image": ImageFeature(),
            "instance_map": ImageFeature(),
            "type_map": ImageFeature(),
            "annotated": ImageFeature(),
            "tissue": Value("string"),
            "mpp": Value("float64"),
            "id": Value("string"),
            "fold": Value("string"),
            "types": [ClassLabel(names=labels)],
            "position": Value("int64"),
            "details": Value("string"),
        }
    )
    schema = features.arrow_schema
    about = {"software": "cfsam_hf", "version": __version__, "dataset": dataset, "type_names": type_names}
    return schema.with_metadata({**schema.metadata, METADATA_KEY: json.dumps(about).encode()})


def _row(record: TileRecord, tile: Tile, position: int) -> tuple[dict[str, Any], int]:
    """A row, and the bytes of its pictures."""
    type_map = None if tile.type_map is None else tile.type_map
    pictures = {
        "image": _image_bytes(record, tile.image),
        "instance_map": _label_bytes(tile.instance_map),
        "type_map": None
        if type_map is None
        else _png(np.where(type_map == UNKNOWN_TYPE, STORED_UNKNOWN_TYPE, type_map).astype(np.uint8)),
        "annotated": None if tile.annotated is None else _png(tile.annotated),
    }
    present = [] if type_map is None else sorted(set(np.unique(type_map).tolist()) - {0, UNKNOWN_TYPE})
    details = {
        "allow_empty": record.allow_empty,
        "metadata": dict(record.metadata),
        "overlap": record.options.get("overlap"),
        "overlaps": asdict(tile.overlaps),
    }
    row = {
        **{name: None if content is None else {"bytes": content, "path": None} for name, content in pictures.items()},
        "tissue": tile.tissue,
        "mpp": tile.mpp,
        "id": tile.id,
        "fold": tile.fold,
        "types": present,
        "position": position,
        "details": json.dumps(details),
    }
    return row, sum(len(content) for content in pictures.values() if content)


def _image_bytes(record: TileRecord, image: np.ndarray) -> bytes:
    """The image's own file if every reader decodes it to the same pixels, otherwise a PNG."""
    path = record.image_path
    if record.index is None and path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        content = path.read_bytes()
        with open_picture(io.BytesIO(content)) as picture:
            turned = ORIENTATION in picture.getexif()
            plain = picture.format in ("PNG", "JPEG") and picture.mode == "RGB" and not turned
        if plain and np.array_equal(read_image(path, content), image):
            return content
    return _png(image)


def _label_bytes(label_map: np.ndarray) -> bytes:
    if label_map.max(initial=0) <= LARGEST_16_BIT:
        return _png(label_map.astype(np.uint16))
    buffer = io.BytesIO()
    Image.fromarray(label_map.astype(np.int32)).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()
