"""Reads label maps of other systems, one file per tile, in the formats that published code writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet

from ..data import Tile
from ..data.readers.array_files import open_npy, read_mat
from ..data.readers.instance_pairs import INSTANCES, TYPES
from ..data.readers.label_maps import read_label_map
from ..data.records import whole_numbers
from ..outputs.table import METADATA_KEY
from .predictions import Prediction

IMAGE_SUFFIXES = (".png", ".tif", ".tiff")
SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".mat")


class LabelMapFolder:
    """Predictions for tiles from a folder of files.

    A tile's file is `<tile id>` or `<tile id>_instances` with one of these endings:

    - `.png`, `.tif`: one channel, 0 for background, one id per nucleus; types in `<tile id>_types` with the same
      endings, a type id at each pixel of a nucleus.
    - `.npy`: `(H, W)` ids, or `(H, W, 2)` ids and types as in CoNIC.
    - `.mat`: `inst_map`, and `inst_type` as HoVer-Net writes it (a type per nucleus: of the ids in `inst_uid`, or of
      all ids in ascending order), or `type_map`.

    Next to a label map of `cfsam segment`, the table `<tile id>.parquet` gives types, their names and scores.

    Args:
        folder: holds the files; sub-folders are not searched.
        type_names: names of the type ids 1..T; by default those of the data set.

    Raises:
        OSError: there is no such folder, or it holds no label map.
        ValueError: two files belong to the same tile.
    """

    def __init__(self, folder: str | Path, type_names: Sequence[str] | None = None):
        self.folder = Path(folder)
        self.type_names = None if type_names is None else dict(enumerate(type_names, start=1))
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        self.files: dict[str, Path] = {}
        self.type_files: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            found = self.type_files if path.stem.endswith(TYPES) else self.files
            name = path.stem.removesuffix(TYPES).removesuffix(INSTANCES)
            if name in found:
                raise ValueError(f"{path} and {found[name].name} are both for tile {name}; remove one of them")
            found[name] = path
        if not self.files:
            raise FileNotFoundError(f"{folder}: no label maps here; expected files <tile id>{'|'.join(SUFFIXES)}")

    def check(self, ids: Sequence[str]) -> None:
        """Raises FileNotFoundError if tiles have no label map; the message names up to five."""
        missing = [name for name in ids if name not in self.files]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise FileNotFoundError(
                f"{self.folder}: no label map for {', '.join(missing[:5])}{more} (expected {missing[0]}"
                f"{{{','.join(SUFFIXES)}}} or {missing[0]}{INSTANCES}...); files are named by the data set's tile ids"
            )

    def __call__(self, tile: Tile) -> Prediction:
        """Returns the nuclei of a tile.

        Raises:
            OSError: its file is missing or damaged.
            ValueError: the file does not hold a label map.
        """
        self.check([tile.id])
        path = self.files[tile.id]
        scores = None
        if path.suffix.lower() == ".mat":
            instance_map, types = _read_mat(path)
        elif path.suffix.lower() == ".npy":
            instance_map, types = _read_npy(path)
        else:
            instance_map, types = read_label_map(path), None
        names = self.type_names or dict(tile.type_names)
        if tile.id in self.type_files:
            types = _read_type_map(self.type_files[tile.id], instance_map.shape)
        table = self.folder / f"{tile.id}.parquet"
        if types is None and table.is_file():
            types, own_names, scores = _read_table(table)
            names = self.type_names or own_names
        return Prediction(instance_map, types, names if types is not None else {}, scores)


def _read_mat(path: Path) -> tuple[np.ndarray, dict[int, int] | np.ndarray | None]:
    content = read_mat(path, ("inst_map",), optional=("inst_type", "inst_uid", "type_map"))
    instance_map = whole_numbers(content["inst_map"], path, "inst_map")
    if "inst_type" not in content:
        types = content.get("type_map")
        return instance_map, None if types is None else whole_numbers(types, path, "type_map")
    types = whole_numbers(content["inst_type"].ravel(), path, "inst_type").tolist()
    present = np.unique(instance_map[instance_map > 0])
    ids = whole_numbers(content["inst_uid"].ravel(), path, "inst_uid") if "inst_uid" in content else present
    if len(ids) != len(types):
        raise ValueError(f"{path}: inst_type has {len(types)} rows for {len(ids)} nuclei; it needs one per nucleus")
    return instance_map, dict(zip(ids.tolist(), types, strict=True))


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    array = whole_numbers(np.asarray(open_npy(path, None)), path, "array")
    if array.ndim == 2:
        return array, None
    if array.ndim == 3 and array.shape[2] == 2:
        return array[..., 0], array[..., 1]
    raise ValueError(f"{path}: expected (H, W) ids or (H, W, 2) ids and types, found {array.shape}")


def _read_type_map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix.lower() == ".mat":
        types = whole_numbers(read_mat(path, ("type_map",))["type_map"], path, "type_map")
    elif path.suffix.lower() == ".npy":
        types = whole_numbers(np.asarray(open_npy(path, None)), path, "type map")
    else:
        types = read_label_map(path)
    if types.shape != shape:
        raise ValueError(f"{path}: the type map is {types.shape} but the label map {shape}")
    return types


def _read_table(path: Path) -> tuple[dict[int, int] | None, dict[int, str], dict[int, float]]:
    """Types by id (None for a model without types), names of the types, and scores by id."""
    record = (pyarrow.parquet.read_schema(path).metadata or {}).get(METADATA_KEY)
    if record is None:
        raise ValueError(f"{path}: not a table of cfsam segment; move it or the label maps to another folder")
    names = {style["id"]: style["name"] for style in json.loads(record)["types"] if style["id"] > 0}
    table = pd.read_parquet(path, columns=["id", "type", "score"])
    types, scores = (dict(zip(table["id"].tolist(), table[c].tolist(), strict=True)) for c in ("type", "score"))
    return types if names else None, names, scores
