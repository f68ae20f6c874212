"""Images that their orientation tag turns: do outlines belong to the stored pixels or to the upright picture?

QuPath and ImageJ ignore the tag and outline the stored pixels; LabelMe and `cfsam segment` outline the upright
picture. A GeoJSON file as such does not say which, and an error of 180 degrees shows in no size.
"""

import contextlib
from pathlib import Path

import numpy as np
import PIL.Image
import tifffile

from .geojson_files import OutlineFile, turned_features

STORED, UPRIGHT = "stored", "upright"
TAG = 274


def check_orientation(orientation: str | None) -> None:
    """Raise ValueError where `orientation` is neither None, "stored" nor "upright"."""
    if orientation not in (None, STORED, UPRIGHT):
        raise ValueError(f"orientation must be {STORED!r} or {UPRIGHT!r}, got {orientation!r}")


def orientation_of(path: Path) -> int:
    """The orientation tag of an image, 1 to 8; 1 if it has none or cannot be read."""
    value = None
    with contextlib.suppress(Exception), PIL.Image.open(path) as image:
        value = image.getexif().get(TAG)
    if value is None and path.suffix.lower() in (".tif", ".tiff"):
        with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:
            value = file.pages.first.tags.valueof(TAG)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_points(points: np.ndarray, orientation: int, height: int, width: int) -> np.ndarray:
    """Points `(K, 2)` xy of the stored pixels in the upright picture of `height` x `width` pixels.

    >>> turn_points(np.array([[1.0, 2.0]]), 6, height=40, width=30)
    array([[28.,  1.]])
    """
    x, y = points.T
    if orientation >= 5:
        x, y = y, x
    # As in `model.tiff.turn_upright`: the sides that are reversed once rows and columns are in place.
    if orientation in (2, 3, 6, 7):
        x = width - x
    if orientation in (3, 4, 7, 8):
        y = height - y
    return np.stack([x, y], axis=1)


def turn_outlines(
    content: OutlineFile, image: Path, path: Path, size: tuple[int, int], orientation: str | None = None
) -> None:
    """Turn the outlines of an image upright if they belong to its stored pixels.

    Args:
        content: the outlines, changed in place.
        image: the image.
        path: the file of the outlines.
        size: (height, width) of the upright picture.
        orientation: "stored" or "upright", where the file does not say what its outlines belong to.

    Raises:
        ValueError: neither the file nor `orientation` says it, and the image has an orientation tag.
    """
    tag = orientation_of(image)
    if tag == 1 or content.upright:
        return
    if orientation is None:
        raise ValueError(
            f"{path}: the image {image} is turned by its EXIF orientation ({tag}), and the file does not say whether "
            "its outlines belong to the stored pixels, as those of QuPath and ImageJ do (orientation=stored), or to "
            "the upright picture (orientation=upright); or save the image upright and outline that"
        )
    if orientation == STORED:
        content.features = turned_features(content.features, lambda ring: turn_points(ring, tag, *size))
        content.notes.append(f"outlines turned upright with the image (EXIF orientation {tag})")
