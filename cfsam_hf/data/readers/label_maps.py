"""Reads label maps: one channel of whole numbers, in any number type."""

from pathlib import Path

import numpy as np

from ...model.pictures import read_stored
from ..records import whole_numbers
from .array_files import open_npy
from .files import picture_of

LARGEST_ID = 2**31 - 1

_JPEG = b"\xff\xd8\xff"


def read_label_map(path: Path, content: bytes | None = None) -> np.ndarray:
    """Reads a label image as `(H, W)` int32.

    Accepts integers of 1 to 64 bits, floats that hold whole numbers (as numpy, Fiji and MorphoLibJ save them), and
    `.npy` arrays.

    Args:
        path: the image file.
        content: the encoded image itself if it lies within the file `path`, which then only names it in errors.

    Raises:
        OSError: the file is missing, truncated, not an image, or holds several pages.
        ValueError: it has several channels, whose meaning is unknown; holds fractions or ids outside 0 to
            2,147,483,647; has too many pixels; or is a JPEG, which does not preserve ids.
    """
    if content is None and path.suffix.lower() == ".npy":
        return _whole_ids(open_npy(path, (None, None)), path)
    picture = picture_of(path, content)
    with picture.open() as file:
        if file.read(len(_JPEG)) == _JPEG:
            raise ValueError(f"{path}: JPEG compression changes ids; save the label map as PNG or TIFF")
    label_map = read_stored(picture, indices=True)
    if label_map.ndim != 2:
        raise ValueError(f"{path}: a label map has one channel of whole numbers, found {label_map.shape[2]} channels")
    return _whole_ids(label_map, path)


def _whole_ids(label_map: np.ndarray, path: Path) -> np.ndarray:
    label_map = whole_numbers(label_map, path, "label map")
    for extreme in (label_map.min(initial=0), label_map.max(initial=0)):
        if not 0 <= extreme <= LARGEST_ID:
            raise ValueError(f"{path}: ids must lie in 0 to {LARGEST_ID:,}, found {extreme}")
    return label_map.astype(np.int32)
