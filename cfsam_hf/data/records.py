"""The schema that every reader returns: `TileRecord` (where a tile is) and `Tile` (its pixels and labels)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.nucleus_types import UNKNOWN_TYPE  # also the ignore index of the type labels
from ..model.pixel_size import check_mpp
from .polygons import Overlaps


@dataclass
class Tile:
    """One decoded tile.

    Attributes:
        image: `(H, W, 3)` uint8, RGB.
        instance_map: `(H, W)` int32, 0 background; ids are positive and may have gaps.
        type_map: `(H, W)` int16 with 0 background, 1..T the type of a nucleus, and `UNKNOWN_TYPE` at nuclei without an
            annotated type; None if the data set has no types.
        id: name of the tile, unique in its data set.
        tissue: organ or tissue name, None if unknown.
        mpp: micrometres per pixel, None if unknown.
        fold: official split or fold that the tile belongs to ("train", "test", "1", ...), None if there is none.
        type_names: names of the type ids 1..T, empty for a data set without types.
        annotated: `(H, W)` bool, False where nuclei were not annotated; None: the whole tile is annotated.
        overlaps: what was lost because a label map gives each pixel to one nucleus; nothing if the data set itself has
            label maps.
        notes: what the reader left out of the annotation file or read in an unusual way, one sentence each.
        points: whether nuclei were annotated by points: `instance_map` then holds discs around them, not outlines,
            so the tile trains only types and cannot be scored.
    """

    image: np.ndarray
    instance_map: np.ndarray
    type_map: np.ndarray | None
    id: str
    tissue: str | None = None
    mpp: float | None = None
    fold: str | None = None
    type_names: Mapping[int, str] = field(default_factory=dict)
    annotated: np.ndarray | None = None
    overlaps: Overlaps = field(default_factory=Overlaps)
    notes: tuple[str, ...] = ()
    points: bool = False


@dataclass(frozen=True)
class TileRecord:
    """Where a tile is, and what is known about it before any pixel is read.

    Attributes:
        dataset: name of the reader.
        id: name of the tile, unique in its data set.
        image_path: file that holds the image (it may hold other tiles too, see `index`).
        label_path: file that holds the annotation.
        decode: function that reads this record into a `Tile`.
        index: position of the tile in files that hold many, else None.
        tissue, mpp, fold, type_names: as in `Tile`.
        allow_empty: whether a tile without nuclei is valid.
        metadata: other columns of the data set's index, as text.
        options: settings of the reader that `decode` needs.
        points: as in `Tile`.

    Raises:
        ValueError: `mpp` is not that of a microscope; the message names the tile.
    """

    dataset: str
    id: str
    image_path: Path
    label_path: Path
    decode: Callable[["TileRecord"], Tile] = field(repr=False, compare=False)
    index: int | None = None
    tissue: str | None = None
    mpp: float | None = None
    fold: str | None = None
    type_names: Mapping[int, str] = field(default_factory=dict)
    allow_empty: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    points: bool = False

    def __post_init__(self) -> None:
        _check_mpp(self.mpp, self)

    def load(self) -> Tile:
        """Reads and validates the tile.

        Raises:
            OSError: a file is missing or cannot be decoded.
            ValueError: image and labels do not fit together, a type id is unknown, or there are no nuclei.
        """
        return self.decode(self)


def make_tile(
    record: TileRecord,
    image: np.ndarray,
    instance_map: np.ndarray,
    type_map: np.ndarray | None = None,
    annotated: np.ndarray | None = None,
    mpp: float | None = None,
    overlaps: Overlaps | None = None,
    notes: Sequence[str] = (),
) -> Tile:
    """Checks what a reader has decoded and makes a tile from it.

    Args:
        record: the record that was read; its paths appear in the errors.
        image: `(H, W, 3)` uint8.
        instance_map: `(H, W)` of any integer (or integral float) dtype, 0 background.
        type_map: `(H, W)` type ids, or None. Background pixels are set to 0.
        annotated: `(H, W)` bool or None.
        mpp: micrometres per pixel found while decoding; None uses the record's.
        overlaps: what drawing outlines has lost.
        notes: what the reader left out.

    Raises:
        ValueError: shapes differ, an id is negative or fractional, a type is unknown, `mpp` is not that of a
            microscope, or a tile has no nuclei although every tile of the data set has some; the message names the
            file.
    """
    _check_mpp(mpp, record)
    height, width = image.shape[:2]
    for name, array in (("instance map", instance_map), ("type map", type_map), ("annotated area", annotated)):
        if array is not None and array.shape != (height, width):
            raise ValueError(
                f"{record.label_path}: the {name} is {_size(array.shape)} but the image {record.image_path} is "
                f"{height} x {width} (rows x columns); the two must be the same tile at the same magnification"
            )
    instance_map = whole_numbers(instance_map, record.label_path, "instance map")
    for extreme in (instance_map.min(initial=0), instance_map.max(initial=0)):
        if not 0 <= extreme < 2**31:
            raise ValueError(f"{record.label_path}: instance ids must lie in 0..2147483647, found {extreme}")
    instance_map = instance_map.astype(np.int32)
    nuclei = instance_map > 0
    if not record.allow_empty and not nuclei.any():
        raise ValueError(
            f"{record.label_path}: no nuclei in this tile; if that is right, read the data set with allow_empty=True"
        )
    if type_map is not None:
        type_map = np.where(nuclei, whole_numbers(type_map, record.label_path, "type map"), 0).astype(np.int16)
        unknown = sorted(set(np.unique(type_map[nuclei]).tolist()) - set(record.type_names) - {UNKNOWN_TYPE})
        if unknown:
            raise ValueError(
                f"{record.label_path}: unknown type ids {unknown} at nuclei; expected {sorted(record.type_names)} "
                f"({', '.join(record.type_names.values())})"
            )
    return Tile(
        image=np.ascontiguousarray(image),
        instance_map=instance_map,
        type_map=type_map,
        id=record.id,
        tissue=record.tissue,
        mpp=record.mpp if mpp is None else mpp,
        fold=record.fold,
        type_names=dict(record.type_names),
        annotated=None if annotated is None else annotated.astype(bool),
        overlaps=overlaps or Overlaps(),
        notes=tuple(notes),
        points=record.points,
    )


def _check_mpp(mpp: float | None, record: TileRecord) -> None:
    if mpp is not None:
        try:
            check_mpp(mpp)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{record.label_path}: tile {record.id}: {error}") from error


def whole_numbers(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Returns `array` as int64; some data sets store ids as floats.

    Raises:
        ValueError: the array holds fractions, NaN, infinities, or no numbers; the message names `path` and the array.
    """
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array.astype(np.int64)
    # NaN comes first: some of its forms raise warnings when they are rounded or cast.
    real = np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all())
    if not real or not (np.abs(array.astype(np.float64)) < 2**63).all() or not np.array_equal(array, np.rint(array)):
        raise ValueError(f"{path}: the {name} (dtype {array.dtype}) must hold whole numbers")
    return array.astype(np.int64)


def to_uint8(image: np.ndarray, path: Path) -> np.ndarray:
    """Returns an image with whole numbers in 0..255, of any dtype, as uint8.

    Raises:
        ValueError: there are other values; the message names `path`.
    """
    values = whole_numbers(image, path, "image")
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise ValueError(f"{path}: image values must lie in 0..255, found {values.min()} to {values.max()}")
    return values.astype(np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
