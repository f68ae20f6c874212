"""NuInsSeg (Mahbod et al. 2024): 665 tiles of 512 px of 31 human and mouse organs, label maps, no types."""

from pathlib import Path

from ..records import Tile, TileRecord, make_tile
from .files import images_by_stem, pair_files, read_image
from .label_maps import read_label_map
from .listing import check_split, finish_listing, subfolders

IMAGES = "tissue images"
LABELS = "label masks modify"
VAGUE = ("mask binary", "mask binary_vague")


def list_nuinsseg(
    path: str | Path,
    split: str | None = None,
    ignore_vague: bool = True,
    mpp: float = 0.25,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the tiles of a NuInsSeg download: `<organ>/tissue images/*.png`, `<organ>/label masks modify/*.tif`.

    The `label masks modify` are read (in `label masks` the pixels of overlaps hold the sum of two ids). Tiles are
    named by their stem, with the organ before it where the stem does not begin with it.

    Args:
        path: the folder, or one that holds it.
        split: must be None, there are no official splits.
        ignore_vague: mark the areas of `vague areas/mask binary`, in which the annotators could not decide, as not
            annotated.
        mpp: micrometres per pixel; the tiles are 40x, the files state no more.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: there are no tiles, or one file of a pair is missing.
        ValueError: a split is given.
    """
    check_split(split, (), "NuInsSeg")
    root = Path(path)
    records = []
    for organ in subfolders(root, depth=2):
        if not (organ / IMAGES).is_dir():
            continue
        images, labels = images_by_stem(organ / IMAGES), images_by_stem(organ / LABELS)
        pairs = pair_files(images, labels, "label map", organ / IMAGES, organ / LABELS)
        vague_folder = next((organ / "vague areas" / name for name in VAGUE if _is_folder(organ, name)), None)
        vague = images_by_stem(vague_folder) if ignore_vague and vague_folder else {}
        prefix = organ.name.replace(" ", "_")
        records += [
            TileRecord(
                dataset="nuinsseg",
                id=stem if stem.startswith(prefix) else f"{prefix}_{stem}",
                image_path=image,
                label_path=label,
                decode=decode_nuinsseg,
                tissue=organ.name,
                mpp=mpp,
                allow_empty=allow_empty,
                options={"vague_path": vague.get(stem)},
            )
            for stem, (image, label) in pairs.items()
        ]
    return finish_listing(records, split, root, f"folders of organs with '{IMAGES}' and '{LABELS}'")


def decode_nuinsseg(record: TileRecord) -> Tile:
    """Reads one tile."""
    vague_path = record.options.get("vague_path")
    annotated = None if vague_path is None else read_image(vague_path).max(axis=-1) == 0
    return make_tile(record, read_image(record.image_path), read_label_map(record.label_path), annotated=annotated)


def _is_folder(organ: Path, name: str) -> bool:
    return (organ / "vague areas" / name).is_dir()
