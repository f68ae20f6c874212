"""Split files: which tiles train and which validate, as JSON that is committed beside the recipes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .readers.files import some_of
from .records import TileRecord


@dataclass(frozen=True)
class Split:
    """Tile ids of a data set by their use.

    Attributes:
        dataset: name of the reader.
        train, validation: tile ids.
    """

    dataset: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


def read_split(path: str | Path) -> Split:
    """Read a split file: a JSON object with `dataset` and lists of tile ids `train` and `validation`.

    Other keys (notes, counts) are for people and are not read.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such an object, or a tile is named twice.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        for part in ("train", "validation"):
            if not isinstance(content[part], list) or not all(isinstance(name, str) for name in content[part]):
                raise TypeError(f"{part!r} is not a list of names")
        split = Split(str(content["dataset"]), tuple(content["train"]), tuple(content["validation"]))
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a split file with 'dataset', 'train' and 'validation' ({error})") from error
    seen: set[str] = set()
    for name in split.train + split.validation:
        if name in seen:
            raise ValueError(f"{path}: tile {name!r} is named twice")
        seen.add(name)
    return split


def select_tiles(records: Sequence[TileRecord], ids: Iterable[str]) -> list[TileRecord]:
    """Return the records of `ids`, in that order.

    Raises:
        ValueError: if a tile is not there, naming up to five.
    """
    by_id = {record.id: record for record in records}
    ids = list(ids)
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise ValueError(f"{some_of(missing)} of the split are not among the {len(records)} tiles found")
    return [by_id[name] for name in ids]
