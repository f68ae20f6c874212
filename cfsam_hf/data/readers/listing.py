"""The last step of every reader: the tiles of a split, unique names, pixel sizes, an error if nothing was found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...model.pixel_size import read_pixel_size
from ..problems import noted, refuse
from ..records import TileRecord


def check_split(split: str | None, known: Sequence[str], dataset: str) -> None:
    """Raises ValueError unless `split` is None or one of `known`."""
    if split is not None and split not in known:
        quoted = ", ".join(repr(name) for name in known)
        raise ValueError(f"{dataset} has {f'the splits {quoted}' if quoted else 'no official splits'}, got {split!r}")


def finish_listing(records: Sequence[TileRecord], split: str | None, root: Path, layout: str) -> list[TileRecord]:
    """Returns the records of `split`, or all if it is None. A tile of unknown pixel size gets what its file states.

    Args:
        records: all tiles found.
        split: the fold to keep.
        root: the folder that was searched.
        layout: what was expected there, for the error.

    Raises:
        FileNotFoundError: there are no tiles; the message says whether `root` itself is missing.
        ValueError: two tiles have the same name, none is in `split`, or a file states pixels that are not square.
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
    return [_with_pixel_size(record) for record in chosen]


def _with_pixel_size(record: TileRecord) -> TileRecord:
    """The record with the pixel size that its image file states, if it has none of its own."""
    if record.mpp is not None or record.index is not None or not record.image_path.is_file():
        return record
    try:
        size = read_pixel_size(record.image_path)
        return record if size is None else replace(record, mpp=size.mpp)
    except ValueError as error:
        refuse(ValueError(f"{record.image_path}: {error}"))
    except OSError as error:
        refuse(error)
    return record


def subfolders(root: Path, depth: int = 1) -> list[Path]:
    """Returns `root` and its folders down to `depth`, sorted: archives often unpack into a folder of their own."""
    if not root.is_dir():
        return []
    found = [root]
    level = [root]
    for _ in range(depth):
        children = (child for folder in level for child in folder.iterdir() if child.is_dir())
        level = sorted(child for child in children if not child.name.startswith((".", "__MACOSX")))
        found += level
    return found
