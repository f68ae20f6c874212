"""Folders of tiles as they are written on a command line, and the tiles that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data import TileRecord, list_tiles, read_split, select_tiles


@dataclass(frozen=True)
class DataItem:
    """One folder of tiles.

    Args:
        reader: name of the reader (`cfsam_hf.data.READERS`).
        path: the folder.
        split: split file; only the tiles that it names are used. Without one all tiles are for training.
        weight: share of the training crops, relative to the other folders.
    """

    reader: str
    path: str
    split: str | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "DataItem":
        """From `reader=NAME,path=FOLDER[,split=FILE][,weight=NUMBER]`.

        >>> DataItem.parse("reader=consep,path=CoNSeP,weight=0.5")
        DataItem(reader='consep', path='CoNSeP', split=None, weight=0.5)

        Raises:
            ValueError: it is not of that form.
        """
        pairs = dict(part.partition("=")[::2] for part in text.split(","))
        unknown = sorted(set(pairs) - {"reader", "path", "split", "weight"})
        try:
            weight = float(pairs.get("weight", 1))
        except ValueError:
            weight = 0.0
        if unknown or not pairs.get("reader") or not pairs.get("path") or not weight > 0:
            raise ValueError(
                f"cannot read the data item {text!r}: write reader=NAME,path=FOLDER[,split=FILE][,weight=NUMBER], the "
                "weight a positive number"
            )
        return cls(**{**pairs, "weight": weight})

    def records(self, part: str) -> list[TileRecord]:
        """The tiles of a part, `"train"` or `"validation"`."""
        records = list_tiles(self.reader, self.path)
        if self.split is None:
            return records if part == "train" else []
        ids = set(getattr(read_split(self.split), part))
        return [record for record in records if record.id in ids]

    @property
    def dataset(self) -> str:
        """Name of the data set: the split file's (one data set may lie in several folders), else the reader's."""
        return self.reader if self.split is None else read_split(self.split).dataset


def records_by_dataset(items: Sequence[DataItem], part: str) -> dict[str, list[TileRecord]]:
    """The tiles of a part of all folders by data set; data sets that have none are left out.

    Raises:
        ValueError: only some of the tiles that a split file names are there, so that scores would be of other tiles.
    """
    found: dict[str, list[TileRecord]] = {}
    named: dict[str, set[str]] = {}
    for item in items:
        if records := item.records(part):
            found.setdefault(item.dataset, []).extend(records)
            if item.split is not None:
                named.setdefault(item.dataset, set()).update(getattr(read_split(item.split), part))
    for dataset, ids in named.items():
        select_tiles(found[dataset], sorted(ids))
    return found
