"""PanNuke (Gamper et al. 2019, 2020): three folds of 256 px patches at 40x of 19 tissues, five types, as `.npy`."""

from pathlib import Path

import numpy as np

from ..polygons import Overlaps
from ..problems import refuse
from ..records import Tile, TileRecord, make_tile, to_uint8, whole_numbers
from .array_files import open_npy
from .listing import check_split, finish_listing, subfolders

TYPES = {1: "neoplastic", 2: "inflammatory", 3: "connective", 4: "dead", 5: "epithelial"}
"""Type id = mask channel + 1; the sixth channel is the background."""

TISSUES = (
    *("Adrenal_gland", "Bile-duct", "Bladder", "Breast", "Cervix", "Colon", "Esophagus", "HeadNeck", "Kidney"),
    *("Liver", "Lung", "Ovarian", "Pancreatic", "Prostate", "Skin", "Stomach", "Testis", "Thyroid", "Uterus"),
)
"""The 19 tissues in the spelling of `types.npy`."""

FOLDS = ("1", "2", "3")
SIDE = 256


def list_pannuke(
    path: str | Path, split: str | None = None, mpp: float = 0.25, allow_empty: bool = True
) -> list[TileRecord]:
    """Lists the patches of a PanNuke download: `Fold n/images/foldn/{images,types}.npy`, `Fold n/masks/foldn/...`.

    The folds may lie in `path` or one folder deeper, and `path` may be a single fold. The large files are
    memory-mapped, so a patch costs only its own bytes. Patches are named `fold1_0000`, ...

    Args:
        path: the folder.
        split: "1", "2" or "3"; all folds if None. The published protocol trains, validates and tests on the folds
            1/2/3, 2/1/3 and 3/2/1 and averages the three results.
        mpp: micrometres per pixel.
        allow_empty: accept patches without nuclei; 343 of the 7,901 have none.

    Raises:
        OSError: there is no fold or one of its three files is missing or damaged.
        ValueError: the split is unknown, or files do not fit together.
    """
    check_split(split, FOLDS, "PanNuke")
    root = Path(path)
    records: list[TileRecord] = []
    for fold in FOLDS:
        for folder in subfolders(root, depth=2):
            images = folder / "images" / f"fold{fold}" / "images.npy"
            if images.is_file():
                records += _list_fold(folder, fold, mpp, allow_empty)
    return finish_listing(records, split, root, "'Fold n/images/foldn/images.npy' with n = 1, 2, 3")


def decode_pannuke(record: TileRecord) -> Tile:
    """Reads one patch.

    Every id of every channel is one nucleus. If channels overlap, the last one wins, as in CellViT's preparation;
    ids are made 1..N, by type.
    """
    image = to_uint8(open_npy(record.image_path, (None, SIDE, SIDE, 3))[record.index], record.image_path)
    channels = open_npy(record.label_path, (None, SIDE, SIDE, 6))[record.index, ..., : len(TYPES)]
    channels = whole_numbers(channels, record.label_path, f"masks of patch {record.index}")
    if channels.min() < 0:
        raise ValueError(f"{record.label_path}: patch {record.index} has negative ids, found {channels.min()}")
    if channels.max() >= 2**31:
        raise ValueError(f"{record.label_path}: patch {record.index} has ids beyond 31 bits, found {channels.max()}")
    last = len(TYPES) - 1 - np.argmax(channels[..., ::-1] > 0, axis=-1)  # (256, 256)
    ids = np.take_along_axis(channels, last[..., None], axis=-1)[..., 0]
    nuclei = ids > 0
    instance_map = np.zeros(ids.shape, dtype=np.int64)
    keys = last[nuclei] * (channels.max() + 1) + ids[nuclei]
    instance_map[nuclei] = np.unique(keys, return_inverse=True)[1] + 1
    return make_tile(record, image, instance_map, last + 1, overlaps=_overlaps(channels, instance_map))


def _overlaps(channels: np.ndarray, instance_map: np.ndarray) -> Overlaps:
    """Counts what several channels claim; `channels` is (H, W, types) of ids."""
    shared = (channels > 0).sum(axis=-1) > 1
    ids = [channels[..., position] for position in range(channels.shape[-1])]
    annotated = sum(len(np.unique(channel[channel > 0])) for channel in ids)
    return Overlaps(
        nuclei=sum(len(np.unique(channel[shared & (channel > 0)])) for channel in ids),
        pixels=int(shared.sum()),
        hidden=annotated - int(instance_map.max()),
    )


def _list_fold(folder: Path, fold: str, mpp: float, allow_empty: bool) -> list[TileRecord]:
    image_path = folder / "images" / f"fold{fold}" / "images.npy"
    tissue_path = image_path.with_name("types.npy")
    label_path = folder / "masks" / f"fold{fold}" / "masks.npy"
    images = open_npy(image_path, (None, SIDE, SIDE, 3))
    masks = open_npy(label_path, (None, SIDE, SIDE, 6))
    tissues = open_npy(tissue_path, (None,))
    if not len(images) == len(masks) == len(tissues):
        refuse(
            ValueError(
                f"{folder}: {len(images)} images, {len(masks)} masks and {len(tissues)} tissue names; are all three "
                f"files of fold {fold}?"
            )
        )
        return []
    unknown = sorted(set(tissues.tolist()) - set(TISSUES))
    if unknown:
        refuse(ValueError(f"{tissue_path}: unknown tissues {unknown}; known: {', '.join(TISSUES)}"))
    return [
        TileRecord(
            dataset="pannuke",
            id=f"fold{fold}_{index:04d}",
            image_path=image_path,
            label_path=label_path,
            decode=decode_pannuke,
            index=index,
            tissue=tissue,
            mpp=mpp,
            fold=fold,
            type_names=TYPES,
            allow_empty=allow_empty,
        )
        for index, tissue in enumerate(tissues.tolist())
    ]
