"""CoNIC (Graham et al. 2021): 4,981 patches of 256 px of colon at 20x, six types, as `.npy`."""

from pathlib import Path

import numpy as np

from ..records import Tile, TileRecord, make_tile, to_uint8
from .array_files import open_npy
from .listing import check_split, finish_listing, subfolders
from .text_files import read_csv

TYPES = {1: "neutrophil", 2: "epithelial", 3: "lymphocyte", 4: "plasma", 5: "eosinophil", 6: "connective"}
SIDE = 256
COUNTED_MARGIN = 16
"""The official counts are of the nuclei in the central 224 x 224 pixels."""


def list_conic(
    path: str | Path, split: str | None = None, mpp: float = 0.5, allow_empty: bool = True
) -> list[TileRecord]:
    """Lists the patches of a CoNIC download: `images.npy`, `labels.npy`, `patch_info.csv`, `counts.csv`.

    Patches are named as in `patch_info.csv` (`<image of Lizard>-<number>`), or by their position if that file is
    missing. `TileRecord.metadata` has the source image and the official counts by type. Patches at the edge of a
    source image overlap their neighbours, and neighbours look alike: split by `metadata["source"]`, never by patch.

    Args:
        path: the folder, or one that holds it.
        split: must be None, there are no official splits.
        mpp: micrometres per pixel.
        allow_empty: accept patches without nuclei.

    Raises:
        OSError: an array is missing or damaged.
        ValueError: the files do not fit together.
    """
    check_split(split, (), "CoNIC")
    root = Path(path)
    folder = next((folder for folder in subfolders(root) if (folder / "images.npy").is_file()), root)
    records = _list_folder(folder, mpp, allow_empty) if (folder / "images.npy").is_file() else []
    return finish_listing(records, split, root, "images.npy and labels.npy")


def decode_conic(record: TileRecord) -> Tile:
    """Reads one patch; channel 0 of the labels holds the ids, channel 1 the types."""
    labels = np.asarray(open_npy(record.label_path, (None, SIDE, SIDE, 2))[record.index])
    image = to_uint8(open_npy(record.image_path, (None, SIDE, SIDE, 3))[record.index], record.image_path)
    return make_tile(record, image, labels[..., 0], labels[..., 1])


def _list_folder(folder: Path, mpp: float, allow_empty: bool) -> list[TileRecord]:
    image_path, label_path = folder / "images.npy", folder / "labels.npy"
    number = len(open_npy(image_path, (None, SIDE, SIDE, 3)))
    labels = len(open_npy(label_path, (None, SIDE, SIDE, 2)))
    if number != labels:
        raise ValueError(f"{label_path}: {labels} label maps for the {number} images of {image_path}")
    names = [row["patch_info"] for row in _read_rows(folder / "patch_info.csv", number, ("patch_info",))]
    counts = _read_rows(folder / "counts.csv", number, tuple(TYPES.values()))
    return [
        TileRecord(
            dataset="conic",
            id=names[index] if names else f"{index:04d}",
            image_path=image_path,
            label_path=label_path,
            decode=decode_conic,
            index=index,
            tissue="Colon",
            mpp=mpp,
            type_names=TYPES,
            allow_empty=allow_empty,
            metadata=({"source": names[index].rpartition("-")[0]} if names else {})
            | ({f"count_{name}": counts[index][name] for name in TYPES.values()} if counts else {}),
        )
        for index in range(number)
    ]


def _read_rows(path: Path, number: int, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; none if it does not exist."""
    if not path.is_file():
        return []
    rows = read_csv(path)
    missing = [column for column in columns if rows and column not in rows[0]]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; found {', '.join(rows[0])}")
    if len(rows) != number:
        raise ValueError(f"{path}: {len(rows)} rows for {number} patches")
    return rows
