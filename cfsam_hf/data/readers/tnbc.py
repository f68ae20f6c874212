"""TNBC (Naylor et al. 2017, 2019): 50 tiles of 512 px at 40x of triple-negative breast cancer, binary masks."""

import re
from pathlib import Path

import numpy as np
from skimage.measure import label as connected_components

from ..records import Tile, TileRecord, make_tile
from .files import images_by_stem, pair_files, read_image
from .listing import check_split, finish_listing, subfolders

BRAIN_SLIDES = range(12, 15)
"""Slides that the extended `TNBC_and_Brain_dataset` adds."""

SLIDE = re.compile(r"Slide_(\d+)")


def list_tnbc(
    path: str | Path, split: str | None = None, mpp: float = 0.25, allow_empty: bool = False
) -> list[TileRecord]:
    """Lists the tiles of a TNBC download: `Slide_01/01_1.png`, ... with `GT_01/01_1.png`, ...

    There are no official splits; split by `TileRecord.metadata["patient"]`, which is the slide's number.

    Args:
        path: the folder, or one that holds it.
        split: must be None.
        mpp: micrometres per pixel.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: there are no tiles, or one file of a pair is missing.
        ValueError: a split is given.
    """
    check_split(split, (), "TNBC")
    root = Path(path)
    folder = next((folder for folder in subfolders(root) if any(folder.glob("Slide_*"))), root)
    records = []
    for slide in sorted(folder.glob("Slide_*")):
        number = SLIDE.fullmatch(slide.name)
        if number is None or not slide.is_dir():
            continue
        truth = slide.with_name(f"GT_{number[1]}")
        images, labels = images_by_stem(slide), images_by_stem(truth)
        pairs = pair_files(images, labels, "mask", slide, truth)
        records += [
            TileRecord(
                dataset="tnbc",
                id=stem,
                image_path=image,
                label_path=label,
                decode=decode_tnbc,
                tissue="Brain" if int(number[1]) in BRAIN_SLIDES else "Breast",
                mpp=mpp,
                allow_empty=allow_empty,
                metadata={"patient": number[1]},
            )
            for stem, (image, label) in pairs.items()
        ]
    return finish_listing(records, split, root, "the folders Slide_01, GT_01, ...")


def decode_tnbc(record: TileRecord) -> Tile:
    """Reads one tile; a nucleus is a 4-connected component of the mask, so nuclei that touch are one."""
    mask = read_image(record.label_path)
    if not ((mask == mask[..., :1]) & ((mask == 0) | (mask == 255))).all():
        raise ValueError(f"{record.label_path}: expected a mask of 0 and 255, found other values")
    instance_map = connected_components(mask[..., 0] > 0, connectivity=1)
    return make_tile(record, read_image(record.image_path), np.asarray(instance_map))
