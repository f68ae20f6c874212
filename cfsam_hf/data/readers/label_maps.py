"""Reading label maps: one channel of whole numbers, in whatever number type the tool at hand saved them."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ...model.pictures import DEFAULT_MAX_PIXELS
from ...model.tiff import check_page_data, choose_page, decode_page, is_for_pillow, is_tiff, largest_part, open_tiff
from ..records import whole_numbers

PILLOW_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes of one channel of integers; the index of a palette is the id."""

LARGEST_ID = 2**31 - 1


class _UnfitError(Exception):
    """A sound image that is not a label map."""


def read_label_map(path: Path, content: bytes | None = None) -> np.ndarray:
    """Read a label image as `(H, W)` int32.

    Integers of 1 to 64 bits are read, and floats that hold whole numbers, as numpy, Fiji and MorphoLibJ save them.

    Args:
        path: the image file.
        content: the encoded image itself if it lies within the file `path`, which then only names it in errors.

    Raises:
        OSError: if the file is missing, truncated or not an image.
        ValueError: if it has several channels or pages, whose meaning would be a guess; holds fractions or ids outside
            0 to 2,147,483,647; or is a JPEG, which does not keep ids.
    """
    if content is None and not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with _naming(path):
        label_map = _read_deep_tiff(path) if content is None and is_tiff(path) else None
        if label_map is None:
            label_map = _read_with_pillow(path, content)
    label_map = whole_numbers(label_map, path, "label map")
    for extreme in (label_map.min(initial=0), label_map.max(initial=0)):
        if not 0 <= extreme <= LARGEST_ID:
            raise ValueError(f"{path}: ids must lie in 0 to {LARGEST_ID:,}, found {extreme}")
    return label_map.astype(np.int32)


def _read_deep_tiff(path: Path) -> np.ndarray | None:
    """Read a TIFF of more bits than Pillow knows; None where Pillow reads it."""
    with open_tiff(path) as tiff:
        try:
            page = choose_page(tiff)
        except ValueError as error:
            raise _UnfitError(f"a label map has one page, this file has {len(tiff.pages)} or a stack") from error
        if page.samplesperpixel != 1:
            raise _UnfitError(f"a label map has one channel of whole numbers, found {page.samplesperpixel} channels")
        _check_size(largest_part(page))
        check_page_data(page, path.stat().st_size)
        unsigned = page.sampleformat == tifffile.SAMPLEFORMAT.UINT
        if unsigned and page.bitspersample <= 16 and is_for_pillow(page):
            return None
        return decode_page(page, path)


def _read_with_pillow(path: Path, content: bytes | None) -> np.ndarray:
    with warnings.catch_warnings():
        # The limit of pixels is checked below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(path if content is None else io.BytesIO(content))
    with picture as image:
        if image.format == "JPEG":
            raise _UnfitError("a JPEG changes the ids that it stores; save the label map as PNG or TIFF")
        if image.mode not in PILLOW_MODES:
            raise _UnfitError(f"a label map has one channel of whole numbers, found Pillow mode {image.mode!r}")
        _check_size(image.width * image.height)
        return np.asarray(image)


def _check_size(pixels: int) -> None:
    if pixels > DEFAULT_MAX_PIXELS:
        raise _UnfitError(f"it has {pixels:,} pixels; at most {DEFAULT_MAX_PIXELS:,} are read")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what the decoders raise into errors that name the file."""
    try:
        yield
    except (_UnfitError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise OSError(f"{path}: not an image that can be read, or truncated ({error})") from error
