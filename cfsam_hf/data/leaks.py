"""Leaks: the same tile or the same patient on both sides of a split, or in two data sets."""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

from .records import TileRecord

TCGA_PATIENT = re.compile(r"TCGA-[0-9A-Z]{2}-[0-9A-Z]{4}")

OWN_NAMES = frozenset({"coco", "instance_pairs", "qupath"})
"""Readers of anybody's images: the same tile name in two such folders says nothing."""

LIZARD_SOURCES = frozenset({"consep", "pannuke"})
"""Data sets from whose images some of Lizard's (and so of CoNIC's patches) are cut."""


def case_of(record: TileRecord) -> str | None:
    """Return the patient, or else the source image, that a tile is from, by a name that all data sets share.

    TCGA patients are found in the tile's name; other patients in `metadata["patient"]`, and are this data set's own.
    CoNIC's patches are cut from Lizard's images. None where nothing is known: CoNSeP and PanNuke, for example, publish
    no patients.
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
    return None


def find_leaks(groups: Mapping[str, Sequence[TileRecord]], cases: bool = True) -> list[str]:
    """Tell of tiles and cases that are in more than one group, without reading a pixel.

    Args:
        groups: tiles by what they are used for or where they come from, such as "train" and "validation".
        cases: whether tiles of one patient or source image count, not only the same tile.

    Returns:
        A sentence each; of a case all tiles are in one sentence, and tiles that are themselves in both groups are
        told of as such only.

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
    training: Mapping[str, Sequence[TileRecord]], validation: Mapping[str, Sequence[TileRecord]]
) -> list[str]:
    """Tell of what makes a training run's scores too good, or its mix other than written.

    Args:
        training: training tiles by the folder or data set that they come from.
        validation: validation tiles likewise.

    Returns:
        A sentence for each tile that two training sets share, and for each tile, patient or source image that trains
        and validates.
    """
    pooled = {
        name: [record for records in part.values() for record in records]
        for name, part in (("training", training), ("validation", validation))
    }
    return find_leaks(training, cases=False) + find_leaks(pooled)


def tile_key(record: TileRecord) -> tuple:
    """What two records of one tile have in common; names of other people's folders are not the same tiles."""
    if record.dataset in OWN_NAMES:
        return record.image_path.resolve(), record.index
    return record.dataset, record.id


def _by(key, records: Sequence[TileRecord]) -> dict:
    found: dict = {}
    for record in records:
        if (name := key(record)) is not None:
            found.setdefault(name, []).append(record)
    return found


def _ids(records: Sequence[TileRecord], most: int = 3) -> str:
    more = f" and {len(records) - most} more" if len(records) > most else ""
    return ", ".join(record.id for record in records[:most]) + more


def _from_sources(name: str, records: Sequence[TileRecord], other: str, others: Sequence[TileRecord]) -> list[str]:
    """Tell of Lizard's images that are cut from tiles of a data set that is in the other group."""
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
