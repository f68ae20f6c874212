"""Columns of a `datasets.Dataset` that hold where a tile lies and give its pixels when a row is used.

They are features of `datasets` like its own `Image`: the columns keep their meaning through all operations on a data
set (`map`, `with_format`, `concatenate_datasets`, ...). `save_to_disk` writes the pixels themselves.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
from datasets.features.features import register_feature

from .records import Tile, TileRecord
from .registry import list_tiles

_LISTED: dict[str, dict[str, TileRecord]] = {}
"""Tiles by id, for each JSON text of reader, path and options, so that a process lists a data set only once."""

KEPT_TILES = 2
"""The columns of a row are decoded one after the other, from one tile."""


@dataclass
class TileValue:
    """A field of a tile: `image`, `instance_map`, `type_map`, `annotated` or `mpp`.

    The column stores the pointer to the tile (see [`tile_pointers`]), or the value itself as an `.npz` file: after
    `save_to_disk`, and if `map` returned a new array.

    Args:
        name: of the field.
        decode: whether rows give the value or what is stored.
    """

    name: str
    decode: bool = True
    id: str | None = field(default=None, repr=False)

    dtype: ClassVar[str] = "numpy.ndarray"
    pa_type: ClassVar[pyarrow.DataType] = pyarrow.struct({"tile": pyarrow.string(), "npz": pyarrow.binary()})
    _type: str = field(default="CfsamTileValue", init=False, repr=False)

    def __call__(self) -> pyarrow.DataType:
        return self.pa_type

    def encode_example(self, value: Any) -> dict[str, Any]:
        """What is stored of a value."""
        if isinstance(value, dict) and value.keys() <= {"tile", "npz"}:
            return {"tile": value.get("tile"), "npz": value.get("npz")}
        with io.BytesIO() as file:
            np.savez_compressed(file, value=np.asarray(value))
            return {"tile": None, "npz": file.getvalue()}

    def decode_example(self, value: Mapping[str, Any], token_per_repo_id: object = None) -> Any:
        """The value: an array of the caller's own, a number, or None.

        Raises:
            OSError, ValueError: as `TileRecord.load`.
        """
        if not self.decode:
            raise RuntimeError("this column is not decoded; use cast_column with TileValue(name, decode=True)")
        if value["npz"] is None:
            found = getattr(_tile(value["tile"]), self.name)
            return found.copy() if isinstance(found, np.ndarray) else found
        with np.load(io.BytesIO(value["npz"]), allow_pickle=False) as file:
            found = file["value"]
        return found if found.ndim else found.item()

    def cast_storage(self, storage: pyarrow.Array) -> pyarrow.Array:
        """What `map` collected in this column: stored values as they are, new arrays and numbers encoded."""
        if storage.type == self.pa_type:
            return storage
        kind = storage.type
        while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            kind = kind.value_type
        is_stored = pyarrow.types.is_struct(kind) or pyarrow.types.is_null(kind)
        dtype = None if is_stored else kind.to_pandas_dtype()
        rows = [
            row if row is None or is_stored else self.encode_example(np.array(row, dtype))
            for row in storage.to_pylist()
        ]
        return pyarrow.array(rows, type=self.pa_type)

    def embed_storage(self, storage: pyarrow.StructArray, **_options: object) -> pyarrow.StructArray:
        """Pointers replaced by values, for files that have to be complete."""
        rows = []
        for row in storage.to_pylist():
            value = None if row is None else self.decode_example(row)
            rows.append(None if value is None else self.encode_example(value))
        return pyarrow.array(rows, type=self.pa_type)


with warnings.catch_warnings():
    # `datasets` calls this function experimental, on every call.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(TileValue, "CfsamTileValue")


def tile_pointers(
    reader: str, path: str | Path, options: Mapping[str, Any], records: Sequence[TileRecord]
) -> list[dict[str, str | None]]:
    """What a column stores of tiles that a reader has listed: where they are, as JSON.

    Args:
        reader, path, options: as in `list_tiles`.
        records: the tiles. This process does not list them again.
    """
    where = {"reader": reader, "path": _absolute(path), "options": dict(options)}
    text = json.dumps(where, default=_absolute, sort_keys=True)
    _LISTED.setdefault(text, {}).update({record.id: record for record in records})
    return [{"tile": json.dumps({**json.loads(text), "tile": record.id}), "npz": None} for record in records]


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())


@lru_cache(KEPT_TILES)
def _tile(pointer: str) -> Tile:
    where = json.loads(pointer)
    tile = where.pop("tile")
    records = _records(json.dumps(where, sort_keys=True))
    if tile not in records:
        raise FileNotFoundError(f"{where['path']}: the tile {tile} no longer exists")
    return records[tile].load()


def _records(where: str) -> dict[str, TileRecord]:
    if where not in _LISTED:
        content = json.loads(where)
        options = {name: _with_numbers(value) for name, value in content["options"].items()}
        records = list_tiles(content["reader"], content["path"], **options)
        _LISTED[where] = {record.id: record for record in records}
    return _LISTED[where]


def _with_numbers(value: Any) -> Any:
    """JSON has no numbers as keys; the mappings that readers take are names by type id."""
    return {int(k) if k.isdecimal() else k: v for k, v in value.items()} if isinstance(value, dict) else value
