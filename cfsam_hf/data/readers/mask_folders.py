"""Your own images in the layout of the 2018 Data Science Bowl: a folder per image, and a mask per nucleus in it."""

from pathlib import Path

import numpy as np

from ...model.pictures import IMAGE_SUFFIXES, read_stored
from ..label_checks import BACKGROUND_SHARE, MOST_PIECES, SMALLEST_TILE, count_pieces
from ..polygons import check_overlap_rule, paint_pixels
from ..problems import refuse
from ..records import Tile, TileRecord, make_tile
from .files import images_by_stem, natural_key, picture_of, read_image
from .label_maps import read_label_map
from .label_names import ARRAY
from .listing import check_split, finish_listing

IMAGES, MASKS = "images", "masks"
LAYOUT = f"folders <name> with {IMAGES}/<image> and {MASKS}/<one picture per nucleus>"


def list_mask_folders(
    path: str | Path,
    split: str | None = None,
    overlap: str = "later",
    mpp: float | None = None,
    tissue: str | None = None,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the images `<name>/images/<image>` of a folder, with the masks `<name>/masks/*.png`, one per nucleus.

    Masks may be pictures of any lossless format and `.npy` arrays. The tile is named by the folder. Every pixel of a
    mask that is not 0 and not transparent belongs to its nucleus. There are no types.

    Args:
        path: the folder that holds the folders of the images.
        split: must be None.
        overlap: which mask keeps a pixel that several cover: the "later" one by name, or the "smaller" one.
        mpp: micrometres per pixel, None if unknown.
        tissue: tissue of all images.
        allow_empty: accept images without masks.

    Raises:
        OSError: there are no images, or a folder has no image or several.
        ValueError: a split is given, or the rule is unknown.
    """
    check_split(split, (), "A folder of masks")
    check_overlap_rule(overlap)
    root = Path(path)
    folders = [folder for folder in root.iterdir() if (folder / IMAGES).is_dir()] if root.is_dir() else []
    records = []
    for folder in sorted(folders, key=lambda entry: natural_key(entry.name)):
        images = list(images_by_stem(folder / IMAGES).values())
        if len(images) != 1:
            refuse(FileNotFoundError(f"{folder / IMAGES}: holds {len(images)} images; it must hold one"))
            continue
        records.append(
            TileRecord(
                dataset="mask_folders",
                id=folder.name,
                image_path=images[0],
                label_path=folder / MASKS,
                decode=decode_mask_folder,
                tissue=tissue,
                mpp=mpp,
                allow_empty=allow_empty,
                options={"overlap": overlap},
            )
        )
    return finish_listing(records, split, root, LAYOUT)


def decode_mask_folder(record: TileRecord) -> Tile:
    """Reads one image and joins its masks; ids are 1..N in the order of their names."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    pixels = []
    for file in _masks(record.label_path):
        mask = _read_mask(file)
        if mask.shape != (height, width):
            raise ValueError(
                f"{file}: the mask is {mask.shape[0]} x {mask.shape[1]} but the image {record.image_path} is {height} "
                f"x {width} (rows x columns)"
            )
        if (pieces := count_pieces(mask)) > MOST_PIECES:
            raise ValueError(f"{file}: the mask has {pieces} separate pieces; it must hold a single nucleus")
        if mask.size >= SMALLEST_TILE and mask.mean() > BACKGROUND_SHARE:
            raise ValueError(f"{file}: the mask covers {mask.mean():.0%} of the tile: is its background white?")
        pixels.append(np.flatnonzero(mask))
    instance_map, _, overlaps = paint_pixels(pixels, height, width, overlap=str(record.options["overlap"]))
    return make_tile(record, image, instance_map, overlaps=overlaps)


def _masks(folder: Path) -> list[Path]:
    """The masks in a folder, in natural order."""
    files = folder.iterdir() if folder.is_dir() else ()
    masks = [f for f in files if f.suffix.lower() in (*IMAGE_SUFFIXES, ARRAY) and not f.name.startswith(".")]
    return sorted(masks, key=lambda file: natural_key(file.name))


def _read_mask(path: Path) -> np.ndarray:
    """A mask `(H, W)` bool: a label map's pixels, or those of a grey picture saved with several equal channels."""
    stored = None if path.suffix.lower() == ARRAY else read_stored(picture_of(path), indices=True)
    if stored is None or stored.ndim == 2:
        return read_label_map(path) != 0
    if (stored[..., :3] != stored[..., :1]).any():
        raise ValueError(f"{path}: a mask has one colour on black; this picture has several")
    return np.asarray((stored[..., [0, -1]] != 0).all(axis=2))
