"""Reads a whole data set and reports every problem with its file, not only the first one."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..model.configuration_cfsam import MAX_NAME_LENGTH, is_type_name
from .label_checks import label_map_fault
from .leaks import tile_key
from .polygons import Overlaps
from .problems import collecting_problems
from .records import Tile, TileRecord
from .registry import check_options, list_tiles
from .size_checks import size_notes
from .survey import TileFacts
from .true_nuclei import annotated_nuclei

RULES = {"later": "the later one keeps them", "smaller": "the smaller one keeps them"}


@dataclass
class Audit:
    """What reading a data set has found.

    Attributes:
        name: what the data set is called in messages.
        records: the tiles that were listed.
        problems: what must be corrected, one line each.
        notes: what a user should know, one line each: what readers left out, overlaps, empty tiles if these are
            accepted, implausible sizes of nuclei, classes that differ only in spelling, and nuclei without a type in a
            data set with types.
        tiles: number of tiles that could be read.
        nuclei: number of their nuclei.
        typed_tiles: number of tiles with types.
        untyped: number of nuclei without a type, by tile, for the tiles that have such nuclei.
        empty: number of tiles without nuclei.
        overlapping_tiles: number of tiles in which outlines overlap or draw nothing.
        overlaps: the sum over the tiles.
        facts: sizes and types of the nuclei of each tile that could be read.
        digests: the tiles that show each image, by the hash of its pixels.
    """

    name: str
    records: list[TileRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tiles: int = 0
    nuclei: int = 0
    typed_tiles: int = 0
    untyped: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    overlapping_tiles: int = 0
    overlaps: Overlaps = field(default_factory=Overlaps)
    facts: list[TileFacts] = field(default_factory=list)
    digests: dict[str, list[TileRecord]] = field(default_factory=dict)


def audit_dataset(name: str, path: str | Path, progress: Callable[[int, int], None] | None = None, **options) -> Audit:
    """Reads every tile of a data set.

    Args:
        name, path, options: as in `list_tiles`.
        progress: called with the number of tiles read so far and the number of all tiles.

    Returns:
        The findings. A file that cannot be read or used is a problem, and so is an image that two tiles share.

    Raises:
        ValueError: the data set or an option is unknown, or the folder holds nothing to read.
    """
    check_options(name, options)
    audit = Audit(f"{name} {path}")
    with collecting_problems() as problems:
        try:
            audit.records = list_tiles(name, path, **options)
        except (ImportError, OSError, ValueError) as error:
            problems.append(str(error))
    if len(problems) == 1 and not audit.records:
        raise ValueError(problems[0])
    audit.problems += problems
    for number, record in enumerate(audit.records, start=1):
        _read(record, audit)
        if progress is not None:
            progress(number, len(audit.records))
    if audit.tiles > 1 and audit.empty == audit.tiles:
        audit.problems.append(f"{audit.name}: none of its {audit.tiles:,} tiles has a nucleus")
    if any(record.points for record in audit.records):
        sizes = ["nuclei have points and no outlines; their diameters are those of discs around the points"]
    else:
        sizes = size_notes((facts.mpp, facts.areas) for facts in audit.facts)
    audit.notes += [f"{audit.name}: {note}" for note in (*sizes, *_spellings(audit.records))]
    audit.problems += [
        f"{audit.name}: the class {name!r:.150} cannot be a type of a model: a name has 1 to {MAX_NAME_LENGTH} "
        "characters, none of them a control character"
        for name in sorted({name for record in audit.records for name in record.type_names.values()})
        if not is_type_name(name)
    ]
    # A missing type is worth a note only in a data set with types.
    if audit.typed_tiles and audit.untyped:
        count, first = sum(audit.untyped.values()), next(iter(audit.untyped))
        nuclei = "nucleus" if count == 1 else "nuclei"
        tiles = f"tile {first}" if len(audit.untyped) == 1 else f"{len(audit.untyped):,} tiles, {first} the first"
        audit.notes.append(
            f"{audit.name}: {count:,} {nuclei} without a type, in {tiles}; scores of types leave them out"
        )
    audit.problems += [f"{_files(tiles)}: the same image" for tiles in audit.digests.values() if len(tiles) > 1]
    return audit


def _spellings(records: Sequence[TileRecord]) -> list[str]:
    """Notes about classes that are probably the same class."""
    names = {name for record in records for name in record.type_names.values()}
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        alike["".join(character for character in name.lower() if character.isalnum())].append(name)
    return [
        f"the classes {', '.join(map(repr, group))} differ only in their spelling"
        for group in alike.values()
        if len(group) > 1
    ]


def shared_images(audit: Audit, other: Audit) -> list[str]:
    """Returns a line for each image that is in both data sets under different names, compared by its pixels."""
    return [
        f"{_files(tiles)} and {_files(other.digests[digest])}: the same image in {audit.name} and {other.name}"
        for digest, tiles in audit.digests.items()
        if digest in other.digests and not {*map(tile_key, tiles)} & {*map(tile_key, other.digests[digest])}
    ]


def image_digest(image: np.ndarray) -> str | None:
    """Hashes an image `(H, W, 3)` uint8 by size and pixels; None if it has a single colour, as blank tiles do."""
    if image.size == 0 or (image == image[:1, :1]).all():
        return None
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _read(record: TileRecord, audit: Audit) -> None:
    try:
        tile = replace(record, allow_empty=True).load()
    except (ImportError, OSError, ValueError) as error:
        text = str(error)
        # If a file holds many tiles, its message does not name the tile.
        audit.problems.append(text if record.index is None else f"{text} (tile {record.id})")
        return
    audit.tiles += 1
    nuclei = annotated_nuclei(tile)
    audit.facts.append(TileFacts.of(tile))
    audit.nuclei += len(nuclei)
    audit.typed_tiles += tile.type_map is not None
    if untyped := int((nuclei.types == 0).sum()):
        audit.untyped[record.id] = untyped
    if not tile.instance_map.any():
        audit.empty += 1
        line = f"{record.label_path}: no nuclei in tile {record.id}"
        if record.allow_empty:
            audit.notes.append(line)
        else:
            audit.problems.append(f"{line}; if that is right, read it with allow_empty=true")
    audit.notes += [f"{record.label_path}: {note}" for note in tile.notes]
    if record.options.get("check_ids") is None and (fault := label_map_fault(tile.instance_map)):
        audit.notes.append(f"{record.label_path}: tile {record.id}: {fault}")
    if tile.overlaps:
        audit.overlapping_tiles += 1
        total = audit.overlaps
        audit.overlaps = Overlaps(
            *(getattr(total, name) + getattr(tile.overlaps, name) for name in Overlaps.__dataclass_fields__)
        )
        audit.notes.append(f"{record.label_path}: tile {record.id}: {_overlap_text(record, tile)}")
    if (digest := image_digest(tile.image)) is not None:
        audit.digests.setdefault(digest, []).append(record)


def _overlap_text(record: TileRecord, tile: Tile) -> str:
    overlaps, parts = tile.overlaps, []
    if overlaps.pixels:
        rule = RULES.get(str(record.options.get("overlap")), RULES["later"])
        parts.append(f"{overlaps.nuclei} nuclei overlap on {overlaps.pixels} pixels ({rule})")
    if overlaps.hidden:
        parts.append(f"{overlaps.hidden} of them completely hidden")
    if overlaps.undrawn:
        parts.append(f"{overlaps.undrawn} outline{'s' * (overlaps.undrawn != 1)} without a pixel")
    return ", ".join(parts)


def _files(records: Sequence[TileRecord]) -> str:
    names = (
        f"{record.image_path}" if record.index is None else f"{record.image_path} (tile {record.id})"
        for record in records
    )
    return " and ".join(names)
