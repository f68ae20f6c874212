"""Data items: folders of tiles as named on a command line or in a recipe, and the tiles they select."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .records import TileRecord
from .registry import check_options, list_tiles, option_choices
from .splits import SPLIT_PARTS, read_split, select_tiles
from .vocabulary import NO_TYPES, read_type_map, rename_types

PARTS = (*SPLIT_PARTS, "test", "all")
FOLD_PARTS = (*SPLIT_PARTS, "test")


@dataclass(frozen=True)
class DataItem:
    """One folder of tiles.

    Args:
        reader: name of the reader (`cfsam_hf.data.READERS`).
        path: the folder.
        split: split file; only the tiles that it names are used. Without one, all tiles are for training.
        weight: share of the training crops, relative to the other folders.
        name: name of the data set, instead of the split file's or the reader's.
        types: file that maps the types to the joint vocabulary (see `vocabulary`); `none` leaves them out. If the
            reader itself has a setting `types`, the values that it knows go to the reader, such as `types=raw` for
            `consep`.
        train, tuning, validation, test: instead of a split file, folds of the data set (`TileRecord.fold`), joined
            by `+`.
        style: name of the model's style that these tiles train; without one they train the neutral style.
        scale_jitter: largest factor (or its inverse) of a further random scale of the crops, for a folder whose pixel
            size is an estimate.
        incomplete: whether some nuclei have no outline. Where the model is confident of a nucleus and none is
            annotated nearby, it is then not trained.
        taught: whether a teacher, if the recipe names one, is asked about these tiles.
        options: settings of the reader, such as `mpp`.
    """

    reader: str
    path: str
    split: str | None = None
    weight: float = 1.0
    name: str | None = None
    types: str | None = None
    train: str | None = None
    tuning: str | None = None
    validation: str | None = None
    test: str | None = None
    style: str | None = None
    scale_jitter: float = 1.0
    incomplete: bool = False
    taught: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "DataItem":
        """Reads `reader=NAME,path=FOLDER`, followed by any of the other fields as `,name=value`.

        Any other name is a setting of the reader; its value is read as JSON if it is JSON, else as text.

        >>> item = DataItem.parse("reader=pannuke,path=PanNuke,train=1+2,validation=3,weight=0.5")
        >>> item.path, item.train, item.validation, item.weight
        ('PanNuke', '1+2', '3', 0.5)
        >>> DataItem.parse("reader=instance_pairs,path=mine,mpp=0.5").options
        {'mpp': 0.5}
        >>> item = DataItem.parse("reader=consep,path=CoNSeP,types=raw,types=joint.json")
        >>> item.options, item.types
        ({'types': 'raw'}, 'joint.json')

        Raises:
            ValueError: the text does not have this form, or the reader has no such setting.
        """
        # A comma within braces belongs to a setting such as type_names={"1": "round", "2": "long"}.
        given = [part.partition("=")[::2] for part in re.split(r",(?![^{]*\})", text)]
        own_types = [value for key, value in given if key == "types" and value in _own_types(dict(given))]
        pairs = dict(pair for pair in given if pair[0] != "types" or pair[1] not in own_types)
        options = {key: _value(pairs.pop(key)) for key in sorted(set(pairs) - {one.name for one in fields(cls)})}
        weight, jitter = (_number(pairs.get(name, "1")) for name in ("weight", "scale_jitter"))
        flags = {one: _flag(pairs.get(one, default)) for one, default in (("incomplete", "false"), ("taught", "true"))}
        missing = "options" in pairs or not pairs.get("reader") or not pairs.get("path")
        if missing or not weight > 0 or not 1 <= jitter < 2 or None in flags.values():
            raise ValueError(
                f"cannot read the data item {text!r}: write reader=NAME,path=FOLDER[,split=FILE][,weight=NUMBER]"
                "[,name=NAME][,types=FILE or none][,train=FOLDS][,tuning=FOLDS][,validation=FOLDS]"
                "[,test=FOLDS][,style=NAME][,scale_jitter=NUMBER][,incomplete=true][,taught=false]"
                "[,SETTING OF THE READER=VALUE]; the weight is a positive number, scale_jitter lies in 1..2, and "
                "incomplete and taught are true or false"
            )
        if own_types:
            options["types"] = own_types[-1]
        if options:
            try:
                check_options(pairs["reader"], options)
            except ValueError as error:
                own = ", ".join(one.name for one in fields(cls) if one.name != "options")
                raise ValueError(f"cannot read the data item {text!r}: {error}; every data item has {own}") from error
        item = cls(**{**pairs, "weight": weight, "scale_jitter": jitter, **flags, "options": options})
        if item.split is not None and item._folds():
            raise ValueError(f"the data item {text!r} names folds and a split file; remove one of the two")
        return item

    def _folds(self) -> dict[str, list[str]]:
        """The folds by part; parts without folds are left out."""
        named = {part: getattr(self, part) for part in FOLD_PARTS}
        return {part: folds.split("+") for part, folds in named.items() if folds}

    def records(self, part: str) -> list[TileRecord]:
        """The tiles of a part.

        Args:
            part: `"train"`, `"tuning"` or `"validation"`, as the split file or the folds name them (with neither, all
                tiles are for training); `"test"`, by the folds, or else the data set's official split of that name; or
                `"all"`.

        Raises:
            ValueError: an unknown part or fold, or `"test"` of a data set that has no such split.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
        folds = self._folds()
        official = "test" if part == "test" and not folds else None
        records = list_tiles(self.reader, self.path, split=official, **self.options)
        if self.types is not None:
            type_map = None if self.types == NO_TYPES else self._type_map()
            records = [rename_types(record, type_map) for record in records]
        if folds and part != "all":
            there = {str(record.fold) for record in records}
            if missing := sorted(set(folds.get(part, ())) - there):
                raise ValueError(f"{self.path} has the folds {', '.join(sorted(there))}, not {', '.join(missing)}")
            return [record for record in records if str(record.fold) in folds.get(part, ())]
        if part in ("test", "all"):
            return records
        if self.split is None:
            return records if part == "train" else []
        ids = set(read_split(self.split).parts().get(part, ()))
        return [record for record in records if record.id in ids]

    def _type_map(self) -> dict[str, str | None]:
        try:
            return read_type_map(str(self.types))
        except FileNotFoundError as error:
            choices = ", ".join([*option_choices(self.reader, "types"), NO_TYPES])
            raise FileNotFoundError(f"types={self.types}: no such file, and not one of {choices}") from error

    @property
    def dataset(self) -> str:
        """Name of the data set: the given one, that of the split file (which several folders may share), or the
        reader's."""
        return self.name or (self.reader if self.split is None else read_split(self.split).dataset)


def records_by_dataset(items: Sequence[DataItem], part: str) -> dict[str, list[TileRecord]]:
    """The tiles of a part in all folders by data set; data sets without any are left out.

    Raises:
        ValueError: some of the tiles that a split file names are missing, so scores would be of other tiles; or tiles
            have points instead of outlines, which cannot be scored.
    """
    found: dict[str, list[TileRecord]] = {}
    named: dict[str, set[str]] = {}
    for item in items:
        if records := item.records(part):
            if records[0].points:
                raise ValueError(f"{item.path} has points instead of outlines, so no {part} tile of it can be scored")
            found.setdefault(item.dataset, []).extend(records)
            if item.split is not None and part in SPLIT_PARTS:
                named.setdefault(item.dataset, set()).update(read_split(item.split).parts().get(part, ()))
    for dataset, ids in named.items():
        select_tiles(found[dataset], sorted(ids))
    return found


def _own_types(pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the reader's own setting `types`, a name that data items have too."""
    return option_choices(pairs.get("reader", ""), "types")


def _number(text: str) -> float:
    """The number that a text holds; 0, which is outside every range, if it holds none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _flag(text: str) -> bool | None:
    """Whether a text says true; `None` if it says neither true nor false."""
    return {"true": True, "false": False}.get(text.lower())


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    # The only mappings that readers take are names by type id, and JSON has no numbers as keys.
    return {int(k) if k.isdecimal() else k: v for k, v in value.items()} if isinstance(value, dict) else value
