"""The last step of every reader: the tiles of a split, names that are unique, an error if nothing was found."""

from collections.abc import Sequence
from pathlib import Path

from ..problems import noted, refuse
from ..records import TileRecord


def check_split(split: str | None, known: Sequence[str], dataset: str) -> None:
    """Raise ValueError if `split` is neither None nor one of `known`."""
    if split is not None and split not in known:
        quoted = ", ".join(repr(name) for name in known)
        raise ValueError(f"{dataset} has {f'the splits {quoted}' if quoted else 'no official splits'}, got {split!r}")


def finish_listing(records: Sequence[TileRecord], split: str | None, root: Path, layout: str) -> list[TileRecord]:
    """Return the records of `split`, or all if it is None.

    Args:
        records: all tiles found.
        split: the fold to keep.
        root: the folder that was searched.
        layout: what was expected there, for the error.

    Raises:
        FileNotFoundError: if there are no tiles, saying whether `root` itself is missing.
        ValueError: if two tiles have one name, or none is in `split`.
    """
    if not records:
        if not noted():  # otherwise there are files, and their problems are reported
            refuse(FileNotFoundError(f"{root}: {f'expected {layout}' if root.exists() else 'no such folder'}"))
        return []
    seen: dict[str, TileRecord] = {}
    for record in records:
        first = seen.setdefault(record.id, record)
        if first is not record:
            refuse(ValueError(f"tile {record.id} occurs twice: {first.image_path} and {record.image_path}"))
    chosen = [record for record in seen.values() if split in (None, record.fold)]
    if not chosen:
        raise ValueError(f"{root}: none of its {len(records)} tiles belongs to the split {split!r}")
    return chosen


def subfolders(root: Path, depth: int = 1) -> list[Path]:
    """Return `root` and its folders down to `depth`, sorted: archives often unpack into a folder of their own."""
    if not root.is_dir():
        return []
    found = [root]
    level = [root]
    for _ in range(depth):
        children = (child for folder in level for child in folder.iterdir() if child.is_dir())
        level = sorted(child for child in children if not child.name.startswith((".", "__MACOSX")))
        found += level
    return found
