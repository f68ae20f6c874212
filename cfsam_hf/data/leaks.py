"""Finds leaks: the same tile, patient or slide in two parts of a split, or in two data sets."""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

from .records import TileRecord

_Key = TypeVar("_Key", bound=Hashable)

TCGA_PATIENT = re.compile(r"TCGA-[0-9A-Z]{2}-[0-9A-Z]{4}")

OWN_NAMES = frozenset({"coco", "instance_pairs", "mask_folders", "qupath"})
"""Readers of users' own images: two such folders may use the same name for different tiles."""

LIZARD_SOURCES = frozenset({"consep", "pannuke"})
"""Data sets from which Lizard took some of its images, and so CoNIC some of its patches."""


def case_of(record: TileRecord) -> str | None:
    """Returns the patient, or else the image or organ, that a tile comes from, by a name that all data sets share.

    TCGA patients are found in the tile's name; other patients in `metadata["patient"]`, and belong to this data set.
    CoNIC's patches are cut from Lizard's images. Many of NuInsSeg's tiles of an organ come from one slide. None if
    nothing is known: CoNSeP and PanNuke, for example, do not publish patients.
    """
    patient = record.metadata.get("patient") or ""
    if found := TCGA_PATIENT.search(record.id) or TCGA_PATIENT.search(patient):
        return f"patient {found[0]}"
    if patient:
        return f"patient {patient} of {record.dataset}"
    if record.dataset == "lizard":
        return f"Lizard's image {record.id}"
    if record.dataset == "conic" and record.metadata.get("source"):
        return f"Lizard's image {record.metadata['source']}"
    if record.dataset == "nuinsseg" and record.tissue:
        return f"NuInsSeg's {record.tissue}"
    return None


def find_leaks(groups: Mapping[str, Sequence[TileRecord]], cases: bool = True) -> list[str]:
    """Finds tiles and cases that are in more than one group, without reading a pixel.

    Args:
        groups: tiles by what they are used for or where they come from, such as "train" and "validation".
        cases: whether tiles of one patient, source image or organ count too, and not only the same tile.

    Returns:
        A sentence for each tile in two groups, and one for each case whose other tiles are in two groups.

    Example: two tiles of one patient.

    ```python
    >>> train, test = list_tiles("monuseg", "MoNuSeg"), list_tiles("monusac", "MoNuSAC")  # doctest: +SKIP
    >>> find_leaks({"MoNuSeg": train, "MoNuSAC": test})  # doctest: +SKIP
    ['patient TCGA-G9-6356 is in MoNuSeg (TCGA-G9-6356-01Z-00-DX1) and in MoNuSAC (test_TCGA-G9-6356-01Z-00-DX1_1)']
    ```
    """
    leaks: list[str] = []
    for (left, left_records), (right, right_records) in combinations(groups.items(), 2):
        shared_tiles = _by(tile_key, left_records).keys() & _by(tile_key, right_records).keys()
        left_rest, right_rest = (
            [record for record in records if tile_key(record) not in shared_tiles]
            for records in (left_records, right_records)
        )
        leaks += [
            f"tile {record.id} is in {left} and in {right}"
            for record in left_records
            if tile_key(record) in shared_tiles
        ]
        if not cases:
            continue
        left_cases, right_cases = _by(case_of, left_rest), _by(case_of, right_rest)
        leaks += [
            f"{case} is in {left} ({_ids(records)}) and in {right} ({_ids(right_cases[case])})"
            for case, records in left_cases.items()
            if case in right_cases
        ]
        leaks += _from_sources(left, left_rest, right, right_rest) + _from_sources(right, right_rest, left, left_rest)
    return leaks


def training_leaks(
    training: Mapping[str, Sequence[TileRecord]],
    tuning: Mapping[str, Sequence[TileRecord]],
    validation: Mapping[str, Sequence[TileRecord]],
) -> list[str]:
    """Finds leaks that inflate the scores of a training run, or make its mix differ from the recipe.

    Args:
        training: training tiles by the folder or data set that they come from.
        tuning, validation: tuning and validation tiles likewise.

    Returns:
        A sentence for each tile that two training sets share, and for each tile, patient, source image or organ that
        is in two of the parts.
    """
    parts = {"training": training, "tuning": tuning, "validation": validation}
    pooled = {name: [record for records in part.values() for record in records] for name, part in parts.items()}
    return find_leaks(training, cases=False) + find_leaks(pooled)


def tile_key(record: TileRecord) -> tuple[object, ...]:
    """What identifies a tile: two records with the same key are of the same tile."""
    if record.dataset in OWN_NAMES:
        return record.image_path.resolve(), record.index
    return record.dataset, record.id


def _by(key: Callable[[TileRecord], _Key | None], records: Sequence[TileRecord]) -> dict[_Key, list[TileRecord]]:
    found: dict[_Key, list[TileRecord]] = {}
    for record in records:
        if (name := key(record)) is not None:
            found.setdefault(name, []).append(record)
    return found


def _ids(records: Sequence[TileRecord], most: int = 3) -> str:
    more = f" and {len(records) - most} more" if len(records) > most else ""
    return ", ".join(record.id for record in records[:most]) + more


def _from_sources(name: str, records: Sequence[TileRecord], other: str, others: Sequence[TileRecord]) -> list[str]:
    """Finds Lizard's images that are cut from tiles of a data set in the other group."""
    sources = _by(_lizard_source, records)
    present = {record.dataset for record in others}
    return [
        f"{len(found)} tiles of {name} ({_ids(found)}) are cut from images of {source}, which is in {other}"
        for source, found in sources.items()
        if source in present
    ]


def _lizard_source(record: TileRecord) -> str | None:
    source = record.metadata.get("source", "").partition("_")[0]
    return source if record.dataset in ("lizard", "conic") and source in LIZARD_SOURCES else None
