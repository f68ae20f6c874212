"""CoNSeP (Graham et al. 2019): `{Train,Test}/{Images,Labels}`, 1000 px tiles of colorectal H&E at 40x, with types."""

from pathlib import Path
from typing import Literal

import numpy as np

from ..problems import is_collecting
from ..records import Tile, TileRecord, make_tile, whole_numbers
from .array_files import read_mat
from .files import images_by_stem, natural_key, pair_files, read_image
from .listing import check_split, finish_listing

RAW_TYPES = {
    1: "other",
    2: "inflammatory",
    3: "healthy epithelial",
    4: "malignant/dysplastic epithelial",
    5: "fibroblast",
    6: "muscle",
    7: "endothelial",
}
MERGED_TYPES = {1: "miscellaneous", 2: "inflammatory", 3: "epithelial", 4: "spindle-shaped"}
RAW_TO_MERGED = np.array([0, 1, 2, 3, 3, 4, 4, 4])
"""The paper's merge: both epithelia to 3; fibroblast, muscle and endothelium to 4."""

LEAST_FILES_TO_TELL = 3
LAYOUT = "the layout {Train,Test}/{Images,Labels} with .mat files in Labels"


def list_consep(
    path: str | Path,
    split: str | None = None,
    types: Literal["merged", "raw"] = "merged",
    stored_types: str = "auto",
    mpp: float = 0.25,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the tiles of a CoNSeP folder.

    Images are found by the stem of the `.mat` file, in any format.

    Official files hold seven raw types, copies in circulation hold the paper's four merged ones, and nothing in a file
    says which. `stored_types="auto"` reads the types of all nuclei of the listed tiles: an id above 4 means raw files.
    If no file has such an id, the files count as merged, provided that at least three have nuclei: 25 of the 27
    training tiles hold spindle-shaped nuclei (raw 5 to 7), so three raw files without any would be unusual. With fewer
    files the reader refuses to guess.

    Args:
        path: folder that holds `Train` and/or `Test`, or one of these itself.
        split: "train" or "test"; both if None.
        types: "merged" (four types, the published protocol) or "raw" (seven).
        stored_types: what the files hold: "auto", "merged" or "raw".
        mpp: micrometres per pixel. The files do not state it; 40x is usually read as 0.25.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: a folder or one file of a pair is missing, or a label file is damaged.
        ValueError: an option is unknown, or raw types are requested from merged files.
    """
    for name, value, known in (
        ("types", types, ("merged", "raw")),
        ("stored_types", stored_types, ("auto", "merged", "raw")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    root = Path(path)
    pairs: list[tuple[str | None, str, Path, Path]] = []
    for fold, folder in _split_folders(root, split):
        labels = {
            file.stem: file for file in sorted((folder / "Labels").glob("*.mat"), key=lambda p: natural_key(p.stem))
        }
        images = images_by_stem(folder / "Images")
        found = pair_files(images, labels, ".mat file", folder / "Images", folder / "Labels")
        pairs += [(fold, stem, *found[stem]) for stem in labels if stem in found]
    if not pairs:
        return finish_listing([], None, root, LAYOUT)
    if stored_types == "auto":
        stored_types = _detect_stored_types([label for _, _, _, label in pairs])
    if types == "raw" and stored_types == "merged":
        raise ValueError(f"{root}: these files hold the four merged types; the seven raw ones cannot be recovered")
    records = [
        TileRecord(
            dataset="consep",
            id=stem,
            image_path=image,
            label_path=label,
            decode=decode_consep,
            tissue="Colon",
            mpp=mpp,
            fold=fold,
            type_names=RAW_TYPES if types == "raw" else MERGED_TYPES,
            allow_empty=allow_empty,
            options={"merge": types == "merged" and stored_types == "raw"},
        )
        for fold, stem, image, label in pairs
    ]
    return finish_listing(records, None, root, LAYOUT)


def decode_consep(record: TileRecord) -> Tile:
    """Reads one tile: `inst_map` and `type_map` of the `.mat` file and the image of the same stem."""
    content = read_mat(record.label_path, ("inst_map", "type_map"))
    type_map = content["type_map"]
    if record.options.get("merge"):
        type_map = whole_numbers(type_map, record.label_path, "type map")
        if type_map.min(initial=0) < 0 or type_map.max(initial=0) >= len(RAW_TO_MERGED):
            raise ValueError(
                f"{record.label_path}: unknown type ids in {np.unique(type_map).tolist()}, expected 0 to 7"
            )
        type_map = RAW_TO_MERGED[type_map]
    return make_tile(record, read_image(record.image_path), content["inst_map"], type_map)


def _split_folders(root: Path, split: str | None) -> list[tuple[str | None, Path]]:
    """Returns (fold, folder) of the splits asked for."""
    check_split(split, ("train", "test"), "CoNSeP")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if (root / "Labels").is_dir():
        fold = root.name.lower() if root.name.lower() in ("train", "test") else None
        if split is not None and split != fold:
            raise ValueError(
                f"{root}: this folder is a single split and does not hold {split!r}; give its parent folder"
            )
        return [(fold, root)]
    folders = [(name, root / name.capitalize()) for name in ("train", "test") if split in (None, name)]
    found: list[tuple[str | None, Path]] = [(name, folder) for name, folder in folders if (folder / "Labels").is_dir()]
    if not found and split and (root / "Train" / "Labels").is_dir() | (root / "Test" / "Labels").is_dir():
        raise FileNotFoundError(f"{root}: no folder {split.capitalize()}/Labels; expected {LAYOUT}")
    return found


def _detect_stored_types(label_files: list[Path]) -> str:
    with_nuclei = 0
    for label_file in label_files:
        try:
            types = read_mat(label_file, ("inst_type",))["inst_type"]
        except (OSError, ValueError):
            if is_collecting():  # reported when the tile is read
                continue
            raise
        if types.size == 0:
            continue
        if types.max() > max(MERGED_TYPES):
            return "raw"
        with_nuclei += 1
    if with_nuclei < LEAST_FILES_TO_TELL:
        raise ValueError(
            f"{label_files[0].parent}: too few files ({with_nuclei} with nuclei, no type id above 4) to distinguish "
            "the four merged types from the seven raw ones; pass stored_types='merged' or stored_types='raw'"
        )
    return "merged"
