"""Lizard (Graham et al. 2021): 238 images of colon at 20x from five sources, six types, in three folds."""

from pathlib import Path

import numpy as np

from ..problems import refuse
from ..records import Tile, TileRecord, make_tile, whole_numbers
from .array_files import read_mat
from .conic import TYPES
from .files import images_by_stem, natural_key, pair_files, read_image, some_of
from .listing import check_split, finish_listing, subfolders
from .text_files import read_csv

FOLDS = ("1", "2", "3")


def list_lizard(
    path: str | Path, split: str | None = None, mpp: float = 0.5, allow_empty: bool = False
) -> list[TileRecord]:
    """Lists the images of a Lizard download: `Lizard_Images1/`, `Lizard_Images2/`, `Lizard_Labels/{Labels,info.csv}`.

    The folders may lie in `path` or one folder deeper. `TileRecord.metadata` has the source (dpath, crag, glas,
    pannuke, consep): the images from CoNSeP are cut from its training and test tiles, those from PanNuke from its
    patches, so a model trained here has seen them.

    Args:
        path: the folder.
        split: fold "1", "2" or "3"; all if None.
        mpp: micrometres per pixel.
        allow_empty: accept images without nuclei.

    Raises:
        OSError: a folder, a file of a pair or `info.csv` is missing.
        ValueError: the split is unknown, or `info.csv` does not name an image.
    """
    check_split(split, FOLDS, "Lizard")
    root = Path(path)
    folders = subfolders(root)
    labels_folder = next((f / "Lizard_Labels" for f in folders if (f / "Lizard_Labels" / "Labels").is_dir()), None)
    image_folders = [f / name for f in folders for name in ("Lizard_Images1", "Lizard_Images2")]
    image_folders = [folder for folder in image_folders if folder.is_dir()]
    if labels_folder is None or not image_folders:
        return finish_listing([], split, root, "Lizard_Images1, Lizard_Images2 and Lizard_Labels/Labels")
    images: dict[str, Path] = {}
    for folder in image_folders:
        for stem, file in images_by_stem(folder).items():
            if images.setdefault(stem, file) != file:
                refuse(ValueError(f"image {stem} occurs twice: {images[stem]} and {file}"))
    labels = {file.stem: file for file in (labels_folder / "Labels").glob("*.mat") if not file.name.startswith(".")}
    pairs = pair_files(images, labels, ".mat file", root, labels_folder / "Labels")
    info = _read_info(labels_folder / "info.csv")
    unnamed = sorted(set(images) - set(info), key=natural_key)
    if unnamed:
        refuse(ValueError(f"{labels_folder / 'info.csv'}: no row for {some_of(unnamed)}"))
    records = [
        TileRecord(
            dataset="lizard",
            id=stem,
            image_path=pairs[stem][0],
            label_path=pairs[stem][1],
            decode=decode_lizard,
            tissue="Colon",
            mpp=mpp,
            fold=info[stem]["Split"],
            type_names=TYPES,
            allow_empty=allow_empty,
            metadata={"source": info[stem]["Source"]},
        )
        for stem in sorted(pairs, key=natural_key)
        if stem in info
    ]
    return finish_listing(records, split, root, "images")


def decode_lizard(record: TileRecord) -> Tile:
    """Reads one image; the type of a nucleus is in the row of `class` whose `id` is its id, not in row number id."""
    content = read_mat(record.label_path, ("inst_map", "id", "class"))
    ids, types, instance_map = (
        whole_numbers(content[name], record.label_path, name) for name in ("id", "class", "inst_map")
    )
    ids, types = ids.ravel(), types.ravel()
    if len(ids) != len(types):
        raise ValueError(f"{record.label_path}: {len(ids)} ids but {len(types)} classes")
    present, positions = np.unique(instance_map, return_inverse=True)
    untyped = sorted(set(present[present > 0].tolist()) - set(ids.tolist()))
    if untyped:
        raise ValueError(f"{record.label_path}: nuclei {untyped[:5]} of inst_map are not in the variable id")
    type_by_id = dict(zip(ids.tolist(), types.tolist(), strict=True)) | {0: 0}
    types_present = np.array([type_by_id.get(label, 0) for label in present.tolist()])
    type_map = types_present[positions].reshape(instance_map.shape)
    return make_tile(record, read_image(record.image_path), instance_map, type_map)


def _read_info(path: Path) -> dict[str, dict[str, str]]:
    """Returns the rows of `info.csv` by the stem of the image."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it gives the folds")
    rows = read_csv(path)
    info: dict[str, dict[str, str]] = {}
    for row in rows:
        if not all(row.get(column) for column in ("Filename", "Source", "Split")):
            raise ValueError(f"{path}: every row needs Filename, Source and Split, found {row}")
        if row["Split"] not in FOLDS:
            raise ValueError(f"{path}: the splits are 1, 2 and 3, found {row['Split']!r} for {row['Filename']}")
        info[row["Filename"].removesuffix(".png").removesuffix(".mat")] = row
    return info
