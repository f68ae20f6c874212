"""CPM-15 (Vu et al. 2019): 15 tiles at 20x and 40x, as published (text) or as HoVer-Net's authors do (`.mat`)."""

import re
from pathlib import Path

import numpy as np

from ...files.regular_file import check_regular
from ..records import Tile, TileRecord, make_tile
from .files import images_by_stem, natural_key, pair_files, read_image
from .hovernet_folders import list_mat_folder
from .listing import check_split, finish_listing

MASK = "_mask"
TILE = re.compile(r"image(\d+)")
LAYOUT = f"the folders Images and Labels, or image01.png, image01{MASK}.txt, ..."
LAST_AT_20X = 7
"""Of the published files 01 to 07 are 20x, 08 to 15 are 40x."""


def list_cpm15(
    path: str | Path, split: str | None = None, mpp: float | None = None, allow_empty: bool = False
) -> list[TileRecord]:
    """Lists the CPM-15 tiles; there are no official splits.

    The published layout is `image01.png`, `image01_mask.txt`, ... in one folder (the `image01_poly.png` are pictures
    of the annotation and are left out); HoVer-Net's is `Images/image_00.png`, ... and `Labels/*.mat`.

    Args:
        path: the folder.
        split: must be None.
        mpp: micrometres per pixel. If None, 0.5 or 0.25 by the number of a published file; HoVer-Net's files have
            other numbers, so their pixel size is unknown.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: nothing is there or one file of a pair is missing.
        ValueError: a split is given.
    """
    check_split(split, (), "CPM-15")
    root = Path(path)
    if (root / "Labels").is_dir():
        records = list_mat_folder("cpm15", root, None, mpp, allow_empty)
    elif any(root.glob(f"image*{MASK}.txt")):
        records = _list_text(root, mpp, allow_empty)
    else:
        records = []
    return finish_listing(records, split, root, LAYOUT)


def decode_cpm15_text(record: TileRecord) -> Tile:
    """Reads one tile; its text file holds "width height" and then one id per pixel, row by row."""
    check_regular(record.label_path)
    try:
        values = np.array(record.label_path.read_text(encoding="ascii").split(), dtype=np.int64)
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{record.label_path}: not a text file of whole numbers ({error})") from error
    width, height = values[:2].tolist() if len(values) >= 2 else (0, 0)
    if width < 1 or height < 1 or len(values) != 2 + width * height:
        raise ValueError(
            f"{record.label_path}: says {width} x {height} pixels (width x height) and holds "
            f"{max(0, len(values) - 2)} ids; is it complete?"
        )
    return make_tile(record, read_image(record.image_path), values[2:].reshape(height, width))


def _list_text(root: Path, mpp: float | None, allow_empty: bool) -> list[TileRecord]:
    images = {stem: file for stem, file in images_by_stem(root).items() if TILE.fullmatch(stem)}
    labels = {file.stem.removesuffix(MASK): file for file in root.glob(f"image*{MASK}.txt")}
    pairs = pair_files(images, labels, f"{MASK}.txt file", root, root)
    return [
        TileRecord(
            dataset="cpm15",
            id=stem,
            image_path=image,
            label_path=label,
            decode=decode_cpm15_text,
            mpp=mpp or (0.5 if int(stem.removeprefix("image")) <= LAST_AT_20X else 0.25),
            allow_empty=allow_empty,
        )
        for stem, (image, label) in sorted(pairs.items(), key=lambda pair: natural_key(pair[0]))
    ]
