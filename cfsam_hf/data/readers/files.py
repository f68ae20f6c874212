"""Finds and reads single image and label files; every error names the file.

Images are read by the reader that inference uses (`model.pictures`): turned upright by EXIF, alpha on white, 16 bits
scaled. A label map is turned by its own orientation tag, if it has one, and by nothing else: a map without the tag
belongs to the upright image, which is how `cfsam segment` and most annotation tools write it. `orientation` says
what holds for outlines.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...model.inputs import EncodedPicture
from ...model.pictures import IMAGE_SUFFIXES, read_rgb
from ..problems import is_collecting, refuse


def read_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """Reads an image as `(H, W, 3)` uint8 RGB, exactly as inference reads it.

    Args:
        path: the image file.
        content: the encoded image itself if it lies within the file `path`, which then only names it in errors.

    Raises:
        OSError: the file is missing, truncated, no image, or holds several pictures.
        ValueError: its values are out of range, or it has too many pixels.
    """
    return read_rgb(picture_of(path, content))


def picture_of(path: Path, content: bytes | None = None) -> EncodedPicture:
    """The encoded picture in a file; with `content`, the bytes of one within the file `path`.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    if content is None and not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return EncodedPicture(repr(str(path)), None if content is not None else path, content, path.name)


OME = ".ome"
"""The first part of the ending `.ome.tif`."""


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Returns the images directly in `folder` by stem, in natural order (`train_2` before `train_10`).

    If several images have the same stem, the one whose extension comes first in `IMAGE_SUFFIXES` is used.

    Raises:
        OSError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in folder.iterdir():
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        known = found.get(path.stem)
        if known is None or IMAGE_SUFFIXES.index(suffix) < IMAGE_SUFFIXES.index(known.suffix.lower()):
            found[path.stem] = path
    return {stem: found[stem] for stem in sorted(found, key=natural_key)}


def natural_key(name: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """Sort key under which digits count as numbers: `natural_key("a2") < natural_key("a10")`."""
    parts = tuple((0, int(run)) if digits else (1, run) for digits, run in _runs(name))
    # The name itself distinguishes "a1" from "a01", whose order would otherwise depend on the file system.
    return parts, name


def pair_files(
    images: dict[str, Path], labels: dict[str, Path], what: str, image_folder: Path, label_folder: Path
) -> dict[str, tuple[Path, Path]]:
    """Pairs images and annotations of the same stem.

    Args:
        images: images by stem.
        labels: annotations by stem.
        what: the word for an annotation file in the error, such as ".mat file".
        image_folder, label_folder: the folders that were searched.

    Returns:
        (image, annotation) by stem, in the order of `images`.

    Raises:
        FileNotFoundError: an image or an annotation lacks the other; up to five are named.
    """
    without_label = [images[stem].name for stem in images if stem not in labels]
    without_image = [labels[stem].name for stem in sorted(labels, key=natural_key) if stem not in images]
    for names in _groups(without_label):
        refuse(FileNotFoundError(f"{label_folder}: no {what} for {some_of(names)} of {image_folder}"))
    for names in _groups(without_image):
        refuse(FileNotFoundError(f"{image_folder}: no image for {some_of(names)} of {label_folder}"))
    return {stem: (images[stem], labels[stem]) for stem in images if stem in labels}


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The names for an error, and how many more there are: `some_of(["a", "b", "c"], most=2)` is "a, b and 1 more"."""
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _groups(names: list[str]) -> list[list[str]]:
    """The names that share a message: all of them, or one each while problems are being collected."""
    if is_collecting():
        return [[name] for name in names]
    return [names] if names else []


def _runs(name: str) -> list[tuple[bool, str]]:
    """Splits `name` into runs of digits and of other characters."""
    runs: list[tuple[bool, str]] = []
    for character in name:
        digit = character.isdecimal() and character.isascii()
        if runs and runs[-1][0] == digit:
            runs[-1] = (digit, runs[-1][1] + character)
        else:
            runs.append((digit, character))
    return runs
