"""A laboratory's own annotated images: listed, summarised, split into training and held-out tiles, and copied.

The tiles that a run trains on are copied into its folder, so that it resumes from the same pixels even if the
originals change.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Tile, TileRecord, list_tiles
from ..data.audit import image_digest
from ..data.parquet_writer import write_shards
from ..data.readers.files import some_of
from ..data.readers.label_names import image_files
from ..data.readers.outline_files import is_outline_file, outline_files
from ..data.records import UNKNOWN_TYPE
from ..data.size_checks import size_notes
from ..data.vocabulary import rename_types
from ..model.result import UNTYPED_NAME
from .tile_digests import TileDigest, tile_digest

TRAIN, HELD_OUT = "train", "held_out"
"""Folds of the copied tiles."""

LEAST_SIDE = 32
"""Smallest side in pixels of a part of a tile: a smaller part hardly holds a whole nucleus."""


@dataclass(frozen=True)
class TileSummary:
    """Facts about a tile, without its pixels.

    Attributes:
        id: name of the tile.
        size: (width, height) in pixels.
        mpp: micrometres per pixel, None if unknown.
        nuclei: number of nuclei by type name; the key None counts those without a type.
        annotated_share: share of its pixels that is annotated.
        digest: see [`tile_digest`].
        areas: pixels of each nucleus.
        notes: what the reader left out.
        image_digest: of the pixels only; None if all of them have the same colour.
    """

    id: str
    size: tuple[int, int]
    mpp: float | None
    nuclei: Mapping[str | None, int]
    annotated_share: float
    digest: TileDigest
    areas: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False, compare=False)
    notes: tuple[str, ...] = ()
    image_digest: str | None = None

    @property
    def count(self) -> int:
        """Number of its nuclei."""
        return sum(self.nuclei.values())

    @property
    def types(self) -> set[str]:
        """Names of the types of its nuclei."""
        return {name for name in self.nuclei if name is not None}


def list_own_tiles(
    images: str | Path,
    annotations: str | Path,
    *,
    mpp: float | None = None,
    type_names: Sequence[str] | None = None,
    annotated_only: bool = False,
) -> list[TileRecord]:
    """Lists the images of a folder with their annotations: files of outlines if there are any, else label maps.

    A single class `nucleus`, which this package writes for nuclei without types, counts as no types.

    Args:
        images: the folder.
        annotations: folder with `<stem>.geojson` or label maps (see `list_instance_pairs`), which may be the folder of
            the images; or one GeoJSON file.
        mpp: micrometres per pixel of the images.
        type_names: the types, in order; by default GeoJSON's classes in alphabetical order. Needed for type maps.
        annotated_only: skip images without an annotation, which are an error otherwise.

    Raises:
        OSError: there are no images, or an image or an annotation has no counterpart.
        ValueError: a class is unknown, or the reader refuses the input for another reason.
    """
    images, annotations = Path(images), Path(annotations)
    if not images.is_dir():
        raise OSError(f"{images}: {'is a file; give its folder' if images.exists() else 'no such folder'}")
    if not annotations.exists():
        raise FileNotFoundError(f"{annotations}: no such folder or file")
    has_outlines = annotations.is_file() or bool(outline_files(annotations, image_files(images)))
    if annotations.is_file() and not is_outline_file(annotations):
        raise ValueError(f"{annotations}: no GeoJSON or other file of outlines; give one, or their folder")
    options: dict[str, Any] = {"allow_empty": True, "annotated_only": annotated_only, "annotations": annotations}
    if type_names is not None:
        options["type_names"] = dict(enumerate(type_names, start=1))
    records = list_tiles("qupath" if has_outlines else "instance_pairs", images, mpp=mpp, **options)
    other = {record.mpp for record in records} - {mpp}
    if mpp is not None and other:
        raise ValueError(
            f"{images / 'index.csv'} has tiles of mpp {', '.join(sorted(map(str, other)))}, but {mpp:g} was given; "
            "leave --mpp out, or correct the file"
        )
    if records and list(records[0].type_names.values()) == [UNTYPED_NAME]:
        # The name that `cfsam segment` gives to all nuclei of a model without types.
        records = [rename_types(record, None) for record in records]
    # An index may have its own folds, which mean something else.
    return [replace(record, fold=None) for record in records]


def summarize_own_tiles(
    records: Sequence[TileRecord], progress: Callable[[int, int], None] | None = None
) -> list[TileSummary]:
    """Reads every tile once, so that every problem is reported before the training starts.

    Raises:
        OSError, ValueError: a tile cannot be read, or no tile has a nucleus.
    """
    found = []
    for number, record in enumerate(records, start=1):
        found.append(_summary(record.load()))
        if progress is not None:
            progress(number, len(records))
    first: dict[str, str] = {}
    for tile in found:
        if tile.image_digest and (other := first.setdefault(tile.image_digest, tile.id)) != tile.id:
            raise ValueError(f"the images {other} and {tile.id} are identical; remove one of them")
    if not any(tile.count for tile in found):
        raise ValueError(f"there are no nuclei in the annotations of {some_of([tile.id for tile in found])}")
    return found


def unusual(tiles: Sequence[TileSummary], mpp: float) -> list[str]:
    """What `cfsam data check` notes about tiles that can train: what readers left out, and sizes.

    Args:
        tiles: the tiles.
        mpp: micrometres per pixel of the tiles that do not state them.
    """
    sizes = size_notes((mpp if tile.mpp is None else tile.mpp, tile.areas) for tile in tiles)
    return [*(f"{tile.id}: {note}" for tile in tiles for note in tile.notes), *sizes]


def _summary(tile: Tile) -> TileSummary:
    ids, first, areas = np.unique(tile.instance_map, return_index=True, return_counts=True)
    first, areas = first[ids > 0], areas[ids > 0]
    if tile.type_map is None:
        nuclei: Counter[str | None] = Counter({None: len(first)} if len(first) else {})
    else:
        types = tile.type_map.ravel()[first].tolist()
        nuclei = Counter(None if i == UNKNOWN_TYPE else tile.type_names[i] for i in types)
    return TileSummary(
        id=tile.id,
        size=tile.image.shape[1::-1],
        mpp=tile.mpp,
        nuclei=dict(nuclei),
        annotated_share=1.0 if tile.annotated is None else float(tile.annotated.mean()),
        digest=tile_digest(tile.id, tile),
        areas=areas,
        notes=tile.notes,
        image_digest=image_digest(tile.image),
    )


def choose_held_out(tiles: Sequence[TileSummary], share: float, seed: int) -> list[str]:
    """Draws tiles to hold out.

    A tile is drawn only if it has nuclei, and if each of its types also occurs in a tile that trains. Tiles in which
    every nucleus has a type come first, since types are scored on such tiles only.

    Args:
        tiles: at least two.
        share: of the tiles; at least one is held out and at least one trains.
        seed: of the draw.

    Returns:
        Their ids, in the order of the tiles. If the rules allow no tile, the first one drawn that has nuclei.

    Raises:
        ValueError: no tile can be held out.
    """
    wanted = min(max(1, round(share * len(tiles))), len(tiles) - 1)
    order = [tiles[i] for i in np.random.default_rng(seed).permutation(len(tiles))]
    order = [tile for tile in order if tile.count]
    if wanted < 1 or len(order) < 2:
        raise ValueError(
            "nothing can be held out: fewer than two of the tiles have nuclei; annotate another, or train without "
            "scores (--no-held-out)"
        )
    typed = any(tile.types for tile in tiles)
    order.sort(key=lambda tile: typed and None in tile.nuclei)
    left = Counter(name for tile in tiles for name in tile.types)
    chosen: list[str] = []
    for tile in order:
        remaining = len(order) - len(chosen) - 1
        if len(chosen) < wanted and remaining and all(left[name] > 1 for name in tile.types):
            chosen.append(tile.id)
            left.subtract(tile.types)
    chosen = chosen or [order[0].id]
    return [tile.id for tile in tiles if tile.id in chosen]


def part_records(records: Sequence[TileRecord], held_out: Sequence[str]) -> list[TileRecord]:
    """Gives the records their fold.

    Raises:
        ValueError: a tile to hold out does not exist, or no tile is left to train on.
    """
    ids = {record.id for record in records}
    if missing := [name for name in held_out if name not in ids]:
        raise ValueError(
            f"there is no annotated image {some_of(missing)} to hold out; choose from {some_of(sorted(ids))}"
        )
    if not ids - set(held_out):
        raise ValueError("all tiles are held out; leave some for training")
    chosen = set(held_out)
    return [replace(record, fold=HELD_OUT if record.id in chosen else TRAIN) for record in records]


def cut_record(record: TileRecord, share: float, seed: int) -> list[TileRecord]:
    """Cuts a single tile in two: one end of its longer side, with about a share of its nuclei, is held out.

    A nucleus on the cut is in both parts, each part with its own pixels.

    Raises:
        ValueError: one of the parts would be too small or without nuclei.
    """
    tile = record.load()
    height, width = tile.instance_map.shape
    axis = 1 if width >= height else 0
    length = max(width, height)
    ids, first = np.unique(tile.instance_map, return_index=True)
    # The first pixel of each nucleus stands for it.
    places = np.unravel_index(first[ids > 0], tile.instance_map.shape)[axis]
    at_end = bool(np.random.default_rng(seed).integers(2))
    cut = round(float(np.quantile(places, 1 - share if at_end else share))) if len(places) else 0
    cut = min(max(cut, LEAST_SIDE), length - LEAST_SIDE)
    ranges = {TRAIN: (0, cut), HELD_OUT: (cut, length)} if at_end else {HELD_OUT: (0, cut), TRAIN: (cut, length)}
    parts = []
    for fold, (start, stop) in ranges.items():
        if stop - start < LEAST_SIDE or not ((places >= start) & (places < stop)).any():
            raise ValueError(
                f"there is only one tile, {record.id}, too small or with too few nuclei to hold a part of it out; "
                "annotate another image, or train without scores (--no-held-out)"
            )
        parts.append(replace(record, id=f"{record.id}_{fold}", fold=fold, decode=_Cut(record, axis, start, stop)))
    return sorted(parts, key=lambda part: part.fold != TRAIN)


class _Cut:
    """A record's `decode` for a part of its tile; a class, so that records can be pickled for worker processes."""

    def __init__(self, record: TileRecord, axis: int, start: int, stop: int):
        self.record = record
        self.part = (slice(None),) * axis + (slice(start, stop),)

    def __call__(self, record: TileRecord) -> Tile:
        tile = self.record.load()
        maps = {name: getattr(tile, name) for name in ("image", "instance_map", "type_map", "annotated")}
        cut: dict[str, Any] = {
            name: None if array is None else np.ascontiguousarray(array[self.part]) for name, array in maps.items()
        }
        return replace(tile, **cut, id=record.id, fold=record.fold)


def keep_tiles(
    records: Sequence[TileRecord], folder: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, str]:
    """Writes tiles as shards (see `write_shards`), unless they exist already.

    Returns:
        The data item of a recipe that reads them, without its path.

    Raises:
        OSError: they cannot be written; none are left behind.
    """
    if not any(folder.glob("*.parquet")):
        write_shards(records, folder, progress=progress)
    folds = {record.fold for record in records}
    return {"reader": "parquet", "train": TRAIN} | ({"validation": HELD_OUT} if HELD_OUT in folds else {})
