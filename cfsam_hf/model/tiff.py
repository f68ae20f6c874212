"""TIFF files: which of their pages is the picture, and which library decodes it.

A TIFF may hold one picture, a pyramid of it, or many (z-planes, channels, a series). A picture with smaller copies of
itself counts as one; if there are several pictures, none is chosen silently. Pillow decodes pages of up to 8 bits a
sample in the compressions that it supports; tifffile, with imagecodecs, decodes the rest.
"""

import contextlib
import json
import logging
import math
import re
import threading
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import tifffile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, little and big endian

# Values of tags; see the TIFF 6.0 specification.
MINISWHITE, MINISBLACK, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
REDUCED_IMAGE = 1
ORIENTATION = 274
# None, fax, LZW, JPEG, Deflate, PackBits, LZMA and Zstandard: what Pillow's packages are built with.
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
# Aperio's JPEG 2000 of colours in YCbCr, which the code stream does not mark as such.
APERIO_JPEG2000_YCBCR = 33003


def is_tiff(file: BinaryIO) -> bool:
    """Whether an open file begins as a TIFF does."""
    file.seek(0)
    return file.read(4) in MAGIC


@contextlib.contextmanager
def open_tiff(file: BinaryIO) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF; messages that tifffile logs about it in the meantime are dropped, since errors are raised."""
    thread = threading.get_ident()
    logger = logging.getLogger("tifffile")

    def is_of_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_of_other_thread)
    try:
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            if len(tiff.pages) == 0:
                raise ValueError("it holds no image, or is cut short; get it again")
            yield tiff
    finally:
        logger.removeFilter(is_of_other_thread)


def full_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages of a file, each with all its tags."""
    return [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]


def largest_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The page with the most pixels, the first of equals."""
    return max(full_pages(tiff), key=lambda page: page.imagewidth * page.imagelength)


def choose_page(tiff: tifffile.TiffFile, page: int | None = None) -> tifffile.TiffPage:
    """The page that is the picture.

    Args:
        tiff: an open file.
        page: its number from 1; None where there must be only one picture. Smaller copies of the largest page, as
            pyramids and thumbnails are, do not count.

    Raises:
        ValueError: there are several pictures and no `page`, or there is no such page.
    """
    pages = full_pages(tiff)
    if page is not None:
        check_page(page, len(pages))
        return pages[page - 1]
    largest = largest_page(tiff)
    pictures = [p for p in pages if p is largest or not is_reduced_copy(p, largest)]
    count = max(len(pictures), _hidden_count(pages[0]))
    if count > 1:
        note = "" if count <= len(pages) else ", only the first of which has a page of its own; save them apart"
        raise ValueError(several_pictures(count, largest.imagewidth, largest.imagelength, len(pages), note))
    return largest


def several_pictures(count: int, width: int, height: int, pages: int, note: str = "") -> str:
    """The message about a file that holds several pictures."""
    way_out = note or (
        f"; choose one with page=N, N from 1 to {pages}, save that one as a file of its own, or merge channels into "
        "one RGB picture"
    )
    return f"it holds {count} pictures of up to {width}x{height} px (z-planes, channels, a series?){way_out}"


def check_page(page: int, count: int) -> None:
    """Raises ValueError if a file of `count` pages has no such page."""
    if not 1 <= page <= count:
        raise ValueError(f"there is no page={page}: it has {count} page{'s' * (count > 1)}, counted from 1")


def check_page_data(page: tifffile.TiffPage, file_size: int, sparse: bool = False) -> None:
    """Checks the page's tags for faults that would make decoding fail or give black areas.

    Args:
        page: the page.
        file_size: bytes in the file.
        sparse: whether some parts may be left out, as slides leave out tiles that were not scanned.

    Raises:
        ValueError: parts of the picture, or tags without which it cannot be decoded, are missing or beyond the end of
            the file; it is a volume.
    """
    if page.imagewidth * page.imagelength == 0:
        raise ValueError("it holds no image")
    needed = {RGB: "BitsPerSample", YCBCR: "BitsPerSample", PALETTE: "ColorMap"}.get(page.photometric)
    if needed is not None and needed not in page.tags:
        # Pillow would take its default value, of one bit or no colours.
        raise ValueError(f"the file is damaged or cut short, get it again: its tag {needed} cannot be read")
    if page.imagedepth > 1:
        raise ValueError(f"it holds a volume of {page.imagedepth} planes; save the plane as a picture")
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    missing = sum(length == 0 for _, length in parts)
    beyond = sum(offset + length > file_size for offset, length in parts)
    if beyond:
        raise ValueError(f"the file is cut short, get it again: {beyond} of its {len(parts)} parts are not in it")
    if missing > (len(parts) - 1 if sparse else 0) or not parts:
        raise ValueError(f"the file is damaged, get it again: {missing} of its {len(parts)} parts are empty")


def largest_part(page: tifffile.TiffPage) -> int:
    """Number of pixels that decoding allocates at least: those of the page, or of one tile if that is larger."""
    tile = page.tilewidth * page.tilelength if page.is_tiled else 0
    return max(page.imagewidth * page.imagelength, tile)


def is_for_pillow(page: tifffile.TiffPage) -> bool:
    """Whether Pillow reads such pages correctly.

    Pillow opens only some layouts of colour with more than 8 bits, reads their separate planes wrongly, leaves deep
    grey in which 0 is white inverted, and takes the first of two channels without a stated meaning. It cannot read
    big-endian BigTIFF.
    """
    if page.parent.is_bigtiff and page.parent.byteorder == ">":
        return False
    if page.compression not in PILLOW_COMPRESSIONS:
        return False
    if page.samplesperpixel == 1:
        return page.bitspersample <= 8 or page.photometric == MINISBLACK
    return page.bitspersample <= 8 and page.photometric != MINISBLACK


def decode_page(page: tifffile.TiffPage, as_stored: bool = False) -> np.ndarray:
    """Decodes a page with tifffile, upright: (H, W) or (H, W, C), C 3 (RGB) or 4 (RGBA), in the file's own type.

    Args:
        page: the page.
        as_stored: whether grey in which 0 is white keeps its values; by default it is inverted.

    Raises:
        ValueError: a colour space, a number of channels or a compression that cannot be read here.
    """
    samples = page.samplesperpixel
    extra = tuple(int(kind) for kind in page.extrasamples)
    name, bits = getattr(page.photometric, "name", page.photometric), page.bitspersample
    if page.photometric not in (MINISWHITE, MINISBLACK, RGB, YCBCR):
        raise ValueError(f"its colour space {name} is not read with {bits} bits a sample; save it as RGB")
    colors = 1 if page.photometric in (MINISWHITE, MINISBLACK) and samples != 3 else 3
    has_alpha = len(extra) == samples - colors == 1 and extra[0] in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
    if samples != colors and not has_alpha and not (colors == 3 and samples == 4):
        raise ValueError(f"it has {samples} channels ({name}); save those that should be visible as grey or RGB")
    array = _decode(page)
    if array.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        array = np.moveaxis(array, 0, -1)
    if page.photometric == MINISWHITE and not as_stored:
        array = _inverted(array)
    if samples == 4 and not has_alpha:
        array = array[:, :, :3]  # a fourth channel of no stated meaning
    elif has_alpha and extra[0] == ASSOCIATED_ALPHA:
        array = _undo_premultiplication(array)
    if array.ndim == 3 and array.shape[2] == 2:
        array = array[:, :, [0, 0, 0, 1]]
    return turn_upright(array, int(page.tags.valueof(ORIENTATION, default=1)))


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (H, W, ...) upright by the value 1 to 8 of its orientation tag; other values change nothing."""
    if 5 <= orientation <= 8:
        array = array.swapaxes(0, 1)
    # Steps along rows and columns: -1 reverses them.
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return array[::rows, ::columns]


def is_reduced_copy(page: tifffile.TiffPage, largest: tifffile.TiffPage) -> bool:
    """Whether a page is marked as a reduced copy, or is smaller than the largest page and has its proportions."""
    if int(page.subfiletype) & REDUCED_IMAGE:
        return True
    factor = largest.imagewidth / max(page.imagewidth, 1)
    return factor > 1.05 and abs(largest.imagelength / factor - page.imagelength) < 1


def _hidden_count(page: tifffile.TiffPage) -> int:
    """Number of pictures in a file that has one page for many, as ImageJ and tifffile store large stacks; else 1."""
    text = page.description or ""
    if text.startswith("ImageJ="):
        found = re.search(r"^images=(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 1
    if text.startswith("{") and '"truncated"' in text:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(text)
            return math.prod(record["shape"]) // max(math.prod(page.shape), 1) if record["truncated"] else 1
    return 1


def _decode(page: tifffile.TiffPage) -> np.ndarray:
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError as error:
        how = getattr(page.compression, "name", str(page.compression))
        raise ValueError(f"its compression {how} is not read here; save it uncompressed or as Deflate") from error
    array = page.asarray()
    if page.compression == APERIO_JPEG2000_YCBCR and page.bitspersample == 8:
        return rgb_of_ycbcr(array)
    return array


def rgb_of_ycbcr(array: np.ndarray) -> np.ndarray:
    """RGB of (H, W, 3) uint8 in the YCbCr of JPEG (full range, ITU-R BT.601)."""
    luma, blue, red = (array[..., channel].astype(np.float32) for channel in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _inverted(array: np.ndarray) -> np.ndarray:
    """Inverts grey in which 0 is white."""
    if np.issubdtype(array.dtype, np.unsignedinteger):
        return np.iinfo(array.dtype).max - array
    raise ValueError(f"white as 0 with values of type {array.dtype} is not read; save it with black as 0")


def _undo_premultiplication(array: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by the last channel, divided by it again; unsigned integers only."""
    if not np.issubdtype(array.dtype, np.unsignedinteger):
        raise ValueError(f"premultiplied alpha with values of type {array.dtype} is not read; save it as RGB")
    highest = np.iinfo(array.dtype).max
    alpha = array[..., -1:].astype(np.float64)
    colors = np.minimum(np.rint(array[..., :-1].astype(np.float64) * highest / np.maximum(alpha, 1)), highest)
    return np.concatenate([colors, alpha], axis=-1).astype(array.dtype)
