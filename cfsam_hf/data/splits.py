"""Split files: which tiles train, tune and validate, as JSON that is committed beside the recipes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .readers.files import some_of
from .records import TileRecord

SPLIT_PARTS = ("train", "tuning", "validation")
"""Parts of a split file: tiles that train the weights, tiles on which thresholds and the calibration of scores are
chosen (never trained on), and tiles whose scores are reported (nothing is chosen on them)."""


@dataclass(frozen=True)
class Split:
    """Tile ids of a data set by their use.

    Attributes:
        dataset: name of the data set, usually that of its reader.
        train, validation: tile ids.
        tuning: tile ids; empty in a split of two parts.
    """

    dataset: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    tuning: tuple[str, ...] = ()

    def parts(self) -> dict[str, tuple[str, ...]]:
        """The tile ids by part; parts without tiles are left out."""
        named = {"train": self.train, "tuning": self.tuning, "validation": self.validation}
        return {part: ids for part, ids in named.items() if ids}


def read_split(path: str | Path) -> Split:
    """Reads a split file: a JSON object with `dataset` and tile ids in `train`, `validation` and optionally `tuning`.

    Other keys (notes, counts) are for people and are ignored.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such an object, or names a tile twice.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not Unicode text ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not a split file (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a split file, which is JSON ({error})") from error
    form = "an object with 'dataset' and lists of tile names 'train', 'validation' and optionally 'tuning'"
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a split file: {form} is expected, not {type(content).__name__}")
    if not isinstance(content.get("dataset"), str) or not content["dataset"]:
        raise ValueError(f"{path}: not a split file: 'dataset' must be a name, got {content.get('dataset')!r}")
    parts = {part: _names(path, part, content) for part in SPLIT_PARTS}
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name in seen:
                where = f"in {part!r}" if seen[name] == part else f"in {seen[name]!r} and in {part!r}"
                raise ValueError(f"{path}: tile {name!r} is named twice, {where}")
            seen[name] = part
    return Split(content["dataset"], **parts)


def _names(path: str | Path, part: str, content: dict[str, object]) -> tuple[str, ...]:
    if part not in content and part != "tuning":
        raise ValueError(f"{path}: not a split file: it has no list {part!r}")
    value = content.get(part, [])
    if not isinstance(value, list):
        raise ValueError(f"{path}: not a split file: {part!r} must be a list of tile names, got {value!s:.80}")
    for place, name in enumerate(value):
        if not isinstance(name, str):
            raise ValueError(f"{path}: not a split file: entry {place} of {part!r} is not a tile name: {name!s:.80}")
    return tuple(value)


def select_tiles(records: Sequence[TileRecord], ids: Iterable[str]) -> list[TileRecord]:
    """Returns the records of `ids`, in that order.

    Raises:
        ValueError: a tile is missing; up to five are named.
    """
    by_id = {record.id: record for record in records}
    ids = list(ids)
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise ValueError(f"{some_of(missing)} of the split are not among the {len(records)} tiles found")
    return [by_id[name] for name in ids]
