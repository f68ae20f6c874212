"""Types of several data sets in one joint vocabulary, by name.

A type map translates a data set's names into the joint vocabulary: `{"lymphocyte": "inflammatory", "other": null}`.

- Two names for the same thing, or fine types that the joint vocabulary does not distinguish: map both to one name.
- A coarse type that the joint vocabulary splits ("inflammatory" beside another data set's "lymphocyte" and "plasma
  cell"): map it to null. Its nuclei train detection and outlines; their type is ignored (-100), since no single label
  of the joint vocabulary is right for all of them. To use these labels, merge the fine types instead.
- A remainder ("other", "miscellaneous") that may include types which another data set names: map it to null, too.
- A data set whose types are useless: give `none` instead of a map, which drops its types.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .records import UNKNOWN_TYPE, Tile, TileRecord

NO_TYPES = "none"
"""Given instead of a type map's file to ignore the types of a data set."""


def read_type_map(path: str | Path) -> dict[str, str | None]:
    """Reads a type map from a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object whose values are names or null.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(value is None or _is_name(value) for value in content.values()):
        raise ValueError(f"{path} must hold an object of type names with joint names or null, got {content!r}")
    return content


def rename_types(record: TileRecord, type_map: Mapping[str, str | None] | None) -> TileRecord:
    """Returns a record whose tile loads with the types of the joint vocabulary.

    Args:
        record: the tile.
        type_map: from the data set's names to joint names, or to None for nuclei of unknown type. Without a map (None)
            the tile is loaded without types.

    Raises:
        ValueError: the record has types that the map lacks, or the map names types that the record lacks.
    """
    if type_map is None:
        names: list[str] = []
        ids: dict[int, int] = {}
    else:
        missing = sorted(set(record.type_names.values()) - set(type_map))
        unknown = sorted(set(type_map) - set(record.type_names.values()))
        if missing or unknown:
            raise ValueError(
                f"the type map does not fit {record.dataset}: "
                + "; ".join(
                    f"{text} {', '.join(map(repr, those))}"
                    for text, those in (("it lacks", missing), ("there is no type", unknown))
                    if those
                )
                + " (map a type to null to ignore it)"
            )
        names = list(dict.fromkeys(name for name in map(type_map.get, record.type_names.values()) if name is not None))
        ids = {
            old: UNKNOWN_TYPE if (joint := type_map[name]) is None else names.index(joint) + 1
            for old, name in record.type_names.items()
        }
    return replace(
        record, type_names=dict(enumerate(names, start=1)), decode=_Renamed(record, None if type_map is None else ids)
    )


def joint_type_names(vocabularies: Sequence[Mapping[int, str]]) -> dict[int, str]:
    """The union of several data sets' type names, numbered from 1 in order of appearance.

    >>> joint_type_names([{1: "epithelial", 2: "other"}, {}, {1: "inflammatory", 2: "epithelial"}])
    {1: 'epithelial', 2: 'other', 3: 'inflammatory'}
    """
    return dict(enumerate(dict.fromkeys(name for names in vocabularies for name in names.values()), start=1))


def match_types(type_names: Mapping[int, str], model_type_names: Mapping[int, str]) -> dict[int, int] | None:
    """Maps a data set's type ids to a model's by name; None for a data set without types.

    >>> match_types({1: "b", 2: "a"}, {1: "a", 2: "b", 3: "c"})
    {1: 2, 2: 1}

    Raises:
        ValueError: the model lacks one of the types.
    """
    ids = {name: type_id for type_id, name in model_type_names.items()}
    if unknown := [name for name in type_names.values() if name not in ids]:
        raise ValueError(
            f"the model has no type {', '.join(map(repr, unknown))} (it has {', '.join(map(repr, ids)) or 'none'}); "
            "give the data item a type map: types=MAP.json"
        )
    return {type_id: ids[name] for type_id, name in type_names.items()} or None


class _Renamed:
    """A record's `decode` that renames types; a class, so that records can be pickled for worker processes."""

    def __init__(self, record: TileRecord, ids: Mapping[int, int] | None):
        self.record = record
        self.ids = ids

    def __call__(self, record: TileRecord) -> Tile:
        tile = replace(self.record.load(), id=record.id, fold=record.fold)
        if self.ids is None or tile.type_map is None:
            return replace(tile, type_map=None, type_names={})
        type_map = np.zeros_like(tile.type_map)
        for old, new in {**self.ids, UNKNOWN_TYPE: UNKNOWN_TYPE}.items():
            type_map[tile.type_map == old] = new
        return replace(tile, type_map=type_map, type_names=record.type_names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
