"""Parquet shards that `write_shards` wrote: one row per tile, images and maps as encoded pictures."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ...files.regular_file import check_regular
from ..polygons import Overlaps
from ..problems import refuse
from ..records import UNKNOWN_TYPE, Tile, TileRecord, make_tile
from .files import natural_key, read_image
from .label_maps import read_label_map
from .listing import finish_listing

METADATA_KEY = b"cfsam_hf"
PICTURES = ("image", "instance_map", "type_map", "annotated")
PLAIN = ("position", "id", "tissue", "mpp", "fold", "details")
STORED_UNKNOWN_TYPE = 255
"""Value of a type map's picture at nuclei without an annotated type: pictures hold no negative numbers."""

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def list_parquet(path: str | Path, split: str | None = None) -> list[TileRecord]:
    """Lists the tiles of a folder of shards, or of one shard; only the plain columns are read.

    Tiles are returned as by the data set's own reader: in its order, under its name (`TileRecord.dataset`), with its
    type names.

    Args:
        path: the folder, or a `.parquet` file.
        split: keep the tiles of this fold; all if None.

    Raises:
        OSError: there are no shards, one of a numbered set is missing, or one is damaged.
        ValueError: a file was not written by `write_shards`, shards do not belong together, or no tile is in
            `split`.
    """
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.glob("*.parquet"), key=lambda file: natural_key(file.name))
    if root.is_dir():
        _check_complete(root, files)
    found: list[tuple[int, TileRecord]] = []
    first: dict | None = None
    for file in files:
        try:
            about, rows = _read_shard(file)
            first = first or about
            if (about["dataset"], about["type_names"]) != (first["dataset"], first["type_names"]):
                raise ValueError(
                    f"{file}: holds {about['dataset']} with the types {about['type_names']}, but {files[0]} "
                    f"{first['dataset']} with {first['type_names']}; keep data sets in folders of their own"
                )
        except (OSError, ValueError) as error:
            refuse(error)
            continue
        found += rows
    found.sort(key=lambda entry: entry[0])
    return finish_listing([record for _, record in found], split, root, ".parquet files of `cfsam data convert`")


def decode_parquet(record: TileRecord) -> Tile:
    """Reads one row."""
    path, group, row = record.image_path, record.options["group"], record.options["row"]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            values = file.read_row_group(group, columns=list(PICTURES)).slice(row, 1).to_pylist()[0]
        content = {name: value and value["bytes"] for name, value in values.items()}
    except (OSError, LookupError, TypeError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise OSError(f"{path}: row {record.index} cannot be read ({_one_line(error)})") from error
    type_map = content["type_map"] and read_label_map(path, content["type_map"])
    if type_map is not None:
        type_map = np.where(type_map == STORED_UNKNOWN_TYPE, UNKNOWN_TYPE, type_map)
    return make_tile(
        record,
        read_image(path, content["image"]),
        read_label_map(path, content["instance_map"]),
        type_map,
        content["annotated"] and read_label_map(path, content["annotated"]) > 0,
        overlaps=record.options["overlaps"],
    )


def _read_shard(path: Path) -> tuple[dict[str, Any], list[tuple[int, TileRecord]]]:
    """Returns the metadata, and the records with their positions in the data set."""
    check_regular(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata or {}
            missing = [name for name in (*PICTURES, *PLAIN) if name not in file.schema_arrow.names]
            if METADATA_KEY not in metadata or missing:
                raise ValueError(f"{path}: not a shard of `cfsam data convert`; convert the original data set again")
            lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            rows = file.read(columns=list(PLAIN)).to_pylist()
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise OSError(f"{path}: not a Parquet file that can be read, or truncated ({_one_line(error)})") from error
    try:
        return _records(path, json.loads(metadata[METADATA_KEY]), rows, lengths)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata cannot be used ({_one_line(error)})") from error


def _records(
    path: Path, about: dict[str, Any], rows: list[dict[str, Any]], lengths: list[int]
) -> tuple[dict[str, Any], list[tuple[int, TileRecord]]]:
    """The metadata and the records of a shard with row groups of these lengths."""
    type_names = {int(type_id): str(name) for type_id, name in about["type_names"].items()}
    places = [(group, row) for group, length in enumerate(lengths) for row in range(length)]
    records = []
    for index, (values, (group, row)) in enumerate(zip(rows, places, strict=True)):
        details = json.loads(values["details"])
        record = TileRecord(
            dataset=str(about["dataset"]),
            id=values["id"],
            image_path=path,
            label_path=path,
            decode=decode_parquet,
            index=index,
            tissue=values["tissue"],
            mpp=values["mpp"],
            fold=values["fold"],
            type_names=type_names,
            allow_empty=details["allow_empty"],
            metadata=details["metadata"],
            options={
                "group": group,
                "row": row,
                "overlap": details["overlap"],
                "overlaps": Overlaps(**details["overlaps"]),
            },
        )
        records.append((values["position"], record))
    return about, records


def _check_complete(root: Path, files: list[Path]) -> None:
    """Raises FileNotFoundError if a shard of a numbered set (`train-00000-of-00003.parquet`) is missing."""
    names = {file.stem for file in files}
    for file in files:
        if (match := SHARD.fullmatch(file.stem)) is None or match[2] != "00000":
            continue
        for number in range(int(match[3])):
            if (name := f"{match[1]}-{number:05d}-of-{match[3]}") not in names:
                refuse(FileNotFoundError(f"{root / name}.parquet: missing from a set of {int(match[3])} shards"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
