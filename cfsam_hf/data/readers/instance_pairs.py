"""Your own images with label maps: `<stem>_instances.png` beside each image, or the folders `images` and `labels`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.pixel_size import check_mpp
from ..label_checks import label_map_fault
from ..problems import refuse
from ..records import UNKNOWN_TYPE, Tile, TileRecord, make_tile
from .files import images_by_stem, pair_files, read_image
from .label_maps import read_label_map
from .label_names import (
    INSTANCES,
    TYPES,
    image_files,
    label_files,
    part_pictures,
    refuse_pickles,
    refuse_unknown_names,
)
from .listing import finish_listing
from .text_files import read_csv

IMAGE_FOLDER, TYPE_FOLDER = "images", "types"
LABEL_FOLDERS = ("labels", "masks", "instances")
LAYOUT = (
    f"<stem>.<image> with a label map <stem>{INSTANCES}.png, or the folders {IMAGE_FOLDER} and {LABEL_FOLDERS[0]} "
    "with files of the same stems"
)
ID_COLUMNS = ("id", "name")
FOLD_COLUMNS = ("fold", "split")


def list_instance_pairs(
    path: str | Path,
    split: str | None = None,
    mpp: float | None = None,
    tissue: str | None = None,
    type_names: Mapping[int, str] | None = None,
    allow_empty: bool = False,
    dataset: str = "instance_pairs",
    annotations: str | Path | None = None,
    annotated_only: bool = False,
    check_ids: bool = True,
) -> list[TileRecord]:
    """Lists the pairs of a folder.

    Either `<stem>.<image>` and `<stem>_instances.png` lie side by side, with optional `<stem>_types.png`, or they lie
    in the folders `images`, `labels` (or `masks`, `instances`) and optionally `types`, where label and type maps may
    have the plain stem. Label maps may also have the names that Cellpose (`<stem>_cp_masks.png`, `<stem>_masks.tif`),
    StarDist (`<stem>_labels.tif`), QuPath and others give them; `label_names.LABEL_ENDINGS` lists them all.

    The label map has one channel of whole numbers, 0 for background and one id per nucleus: a PNG or TIFF of any
    number type, or a `.npy` array. The type map holds 1..T at nuclei; 0 there means that the type is unknown.
    `index.csv`, if present, has a row per tile: the column `id` (or `name`) is the stem, `tissue`, `mpp` and `fold`
    (or `split`) fill the schema and take precedence over the arguments, and all columns are kept in
    `TileRecord.metadata`.

    Args:
        path: the folder.
        split: keep only the tiles of this fold; None keeps all.
        mpp: micrometres per pixel of tiles for which the index has none; None if unknown.
        tissue: tissue of tiles for which the index has none.
        type_names: names of the type ids 1..T; needed if there are `_types.png` files.
        allow_empty: accept tiles without nuclei.
        dataset: name for `TileRecord.dataset`.
        annotations: folder of the label and type maps, if it is not that of the images. If label maps there end in
            `_instances`, other pictures in it are ignored.
        annotated_only: leave out images without a label map, which are an error otherwise.
        check_ids: refuse label maps whose ids lie in many separate pieces, as in masks, class maps and resampled label
            maps.

    Raises:
        OSError: the folder or one file of a pair is missing.
        ValueError: types lack names, the index names a tile twice or has an invalid mpp, or no tile is in `split`.
    """
    folder = Path(path)
    pairs, types = _find_files(folder, None if annotations is None else Path(str(annotations)), annotated_only)
    if types and not type_names:
        raise ValueError(
            f"{folder}: there are type maps ({next(iter(types.values())).name}, ...) but no names for "
            "their ids; pass type_names={1: ..., 2: ...}"
        )
    index = _read_index(folder / "index.csv")
    records = []
    for stem, (image, label) in pairs.items():
        row = index.get(stem, {})
        fold = next((row[column] for column in FOLD_COLUMNS if row.get(column)), None)
        records.append(
            TileRecord(
                dataset=dataset,
                id=stem,
                image_path=image,
                label_path=label,
                decode=decode_instance_pair,
                tissue=row.get("tissue") or tissue,
                mpp=_mpp(row["mpp"], folder / "index.csv", stem) if row.get("mpp") else mpp,
                fold=fold,
                type_names=dict(type_names or {}),
                allow_empty=allow_empty,
                metadata=row,
                options={"type_path": types.get(stem), "check_ids": check_ids},
            )
        )
    if records and split is not None and split not in {record.fold for record in records}:
        folds = sorted({record.fold for record in records if record.fold})
        raise ValueError(f"{folder}: no tile of split {split!r}; index.csv has {folds or 'no fold or split column'}")
    return finish_listing(records, split, folder, LAYOUT)


def _find_files(
    folder: Path, annotations: Path | None, annotated_only: bool
) -> tuple[dict[str, tuple[Path, Path]], dict[str, Path]]:
    """Returns (image, label map) and type maps by the stem of the image."""
    what = "label map"
    named_folder = next((folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()), None)
    if annotations is not None and annotations.resolve() != folder.resolve():
        image_folder, label_folder, type_folder = folder, annotations, annotations
        images = image_files(folder)
        labels, types = label_files(annotations, images, prefer_named=True)
    elif (folder / IMAGE_FOLDER).is_dir() and named_folder is not None:
        image_folder, label_folder, type_folder = folder / IMAGE_FOLDER, named_folder, folder / TYPE_FOLDER
        images = image_files(image_folder)
        labels, _ = label_files(label_folder, images)
        types = images_by_stem(type_folder) if type_folder.is_dir() else {}
        types = {stem.removesuffix(TYPES): file for stem, file in types.items()}
    else:
        image_folder = label_folder = type_folder = folder
        images, labels, types = part_pictures(folder)
        what = f"label map <stem>{INSTANCES}.png"
    refuse_pickles(label_folder, (stem for stem in images if stem not in labels))
    if not annotated_only:
        refuse_unknown_names(images, labels)
    else:
        images = {stem: image for stem, image in images.items() if stem in labels}
    pairs = pair_files(images, labels, what, image_folder, label_folder)
    typed = {stem: image for stem, image in images.items() if stem in types}
    pair_files(typed, types, "type map", image_folder, type_folder)
    return pairs, types


def decode_instance_pair(record: TileRecord) -> Tile:
    """Reads one pair."""
    instance_map = read_label_map(record.label_path)
    if record.options.get("check_ids", True) and (fault := label_map_fault(instance_map)):
        raise ValueError(f"{record.label_path}: {fault}; if the ids are right, read them with check_ids=false")
    type_path = record.options.get("type_path")
    type_map = None
    if type_path is not None:
        type_map = read_label_map(type_path).astype(np.int32)
        if type_map.shape == instance_map.shape:
            type_map[(type_map == 0) & (instance_map > 0)] = UNKNOWN_TYPE
    return make_tile(record, read_image(record.image_path), instance_map, type_map)


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    rows = read_csv(path)
    if not rows:
        return {}
    column = next((name for name in ID_COLUMNS if name in rows[0]), None)
    if column is None:
        raise ValueError(
            f"{path}: no column {' or '.join(ID_COLUMNS)} that names the tile; found {', '.join(rows[0])}"
        )
    index: dict[str, dict[str, str]] = {}
    for row in rows:
        if row[column] in index:
            refuse(ValueError(f"{path}: tile {row[column]!r} has two rows"))
        index[row[column]] = row
    return index


def _mpp(text: str, path: Path, stem: str) -> float | None:
    what = f"mpp of tile {stem!r}"
    try:
        mpp = float(text)
    except ValueError:
        refuse(ValueError(f"{path}: {what} must be a number of micrometres per pixel, got {text!r}"))
        return None
    try:
        return check_mpp(mpp, what)
    except ValueError as error:
        refuse(ValueError(f"{path}: {error}"))
        return None
