"""TIFF slides that OpenSlide does not read completely: OME-TIFF, QPTIFF, BigTIFF, generic pyramids, JPEG 2000."""

import re
import threading
from contextlib import ExitStack

import numpy as np
import tifffile

from ..model.pictures import read_rgb
from ..model.pixel_size import read_pixel_size
from ..model.tiff import (
    APERIO_JPEG2000_YCBCR,
    MINISBLACK,
    RGB,
    YCBCR,
    check_page_data,
    full_pages,
    largest_page,
    open_tiff,
    rgb_of_ycbcr,
)
from .slide import SHARE_ADVICE, WHITE, Level, Slide

# In the descriptions of Aperio, OME and PerkinElmer.
_OBJECTIVE = re.compile(
    r'AppMag\s*=\s*([\d.]+)|NominalMagnification="([\d.]+)"|<Objective(?:Name)?>\s*([\d.]+)\s*[xX]'
)
# What descriptions call the pictures beside the tissue.
NAMES = re.compile(r"\b(label|macro|thumbnail|overview)\b", re.IGNORECASE)


class TiffSlide(Slide):
    """A tiled TIFF with 8 bits per channel, grey or RGB; only the tiles of a region are read and decoded."""

    def __init__(self, path: str):
        """
        Args:
            path: the file.

        Raises:
            OSError: it cannot be read, or is not a tiled brightfield image; the message names it.
        """
        self._lock = threading.Lock()
        with ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            try:
                tiff = stack.enter_context(open_tiff(file))
                largest = largest_page(tiff)
                pages = full_pages(tiff)
                number = next((i for i, page in enumerate(pages, 1) if page.offset == largest.offset), None)
                self._pages = _levels_of(largest, pages)
                for page in self._pages:
                    check_page_data(page, file.seek(0, 2), sparse=True)
                    _check_tiles(page)
                _check_kind(largest, sum(_same_size(page, largest) for page in pages))
            except Exception as error:  # tifffile raises anything from struct.error to IndexError for damaged files
                raise OSError(f"cannot read {path!r} as a slide: {error}") from error
            used = {page.offset for page in self._pages}
            self._associated = _named([page for page in pages if page.offset not in used])
            self._close = stack.pop_all()
        text = " ".join(page.description or "" for page in (largest, tiff.pages.first))
        power = _OBJECTIVE.search(text)
        super().__init__(
            path,
            _vendor(tiff, text),
            [Level(p.imagewidth, p.imagelength, largest.imagewidth / p.imagewidth) for p in self._pages],
            read_pixel_size(path, number),
            float(next(filter(None, power.groups()))) if power else None,
            {name: (page.imagewidth, page.imagelength) for name, page in self._associated.items()},
            "InterColorProfile" in largest.tags,
        )

    def _read_inside(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        pixels = np.full((height, width, 3), WHITE, dtype=np.uint8)
        page = self._pages[level]
        tile_width, tile_height = page.tilewidth, page.tilelength
        per_row = -(-page.imagewidth // tile_width)
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                tile = self._read_tile(page, row * per_row + column)
                if tile is None:
                    continue
                left, top = column * tile_width, row * tile_height
                ax, ay = max(x, left), max(y, top)
                bx, by = min(x + width, left + tile.shape[1]), min(y + height, top + tile.shape[0])
                pixels[ay - y : by - y, ax - x : bx - x] = tile[ay - top : by - top, ax - left : bx - left]
        return pixels

    def _read_tile(self, page: tifffile.TiffPage, index: int) -> np.ndarray | None:
        """(tile height, tile width, 3) uint8, smaller at the edges; None for a tile that was not scanned."""
        offset, length = page.dataoffsets[index], page.databytecounts[index]
        if length == 0:
            return None
        try:
            with self._lock:
                page.parent.filehandle.seek(offset)
                data = page.parent.filehandle.read(length)
        except OSError as error:
            raise OSError(f"cannot read {self.path!r}: {error.strerror or error}; {SHARE_ADVICE}") from error
        if len(data) < length:
            raise OSError(f"{self.path!r} became shorter while it was read; {SHARE_ADVICE}")
        try:
            segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
            if segment is None:
                return None
            tile = segment[0, : shape[1], : shape[2]]
            if page.compression == APERIO_JPEG2000_YCBCR:
                tile = rgb_of_ycbcr(tile)
            return read_rgb(tile, None, "channels_last")
        except Exception as error:  # decoders raise all kinds of errors
            raise OSError(
                f"cannot read {self.path!r}: tile {index} is damaged ({error}); get the file again"
            ) from error

    def read_associated(self, name: str) -> np.ndarray:
        page = self._associated[name]
        try:
            with self._lock:
                return read_rgb(page.asarray(), None)
        except Exception as error:  # decoders raise all kinds of errors
            raise OSError(f"cannot read the {name} image of {self.path!r}: {error}") from error

    def close(self) -> None:
        self._close.close()


def _same_size(page: tifffile.TiffPage, other: tifffile.TiffPage) -> bool:
    return (page.imagewidth, page.imagelength) == (other.imagewidth, other.imagelength)


def _levels_of(largest: tifffile.TiffPage, pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """The largest page and its smaller copies, below it (`SubIFDs`) or beside it, from the largest to the smallest."""
    below = [page for page in largest.pages or () if isinstance(page, tifffile.TiffPage)]
    levels: dict[int, tifffile.TiffPage] = {}
    for page in (largest, *below, *pages):
        factor = largest.imagewidth / max(page.imagewidth, 1)
        is_copy = page is largest or (factor > 1.05 and abs(largest.imagelength / factor - page.imagelength) < 2)
        if is_copy and page.is_tiled and page.samplesperpixel == largest.samplesperpixel:
            levels.setdefault(page.imagewidth, page)
    return [levels[width] for width in sorted(levels, reverse=True)]


def _check_tiles(page: tifffile.TiffPage) -> None:
    """Raises ValueError where a page lists fewer tiles than its size needs."""
    needed = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise ValueError(f"the file is damaged, get it again: it lists {len(page.dataoffsets)} of {needed} tiles")


def _check_kind(page: tifffile.TiffPage, count: int) -> None:
    if not page.is_tiled:
        raise ValueError("it is not tiled, so no part of it can be read on its own")
    if count > 1:
        raise ValueError(f"it holds {count} pictures of {page.imagewidth}x{page.imagelength} px (channels, z-planes?)")
    if page.photometric not in (RGB, YCBCR, MINISBLACK) or page.samplesperpixel not in (1, 3, 4):
        raise ValueError(f"it has {page.samplesperpixel} channels; a brightfield slide has RGB or grey")
    if page.bitspersample != 8 or page.planarconfig != tifffile.PLANARCONFIG.CONTIG:
        raise ValueError(f"it has {page.bitspersample} bits per channel or separate planes; save it as 8-bit RGB")


def _vendor(tiff: tifffile.TiffFile, text: str) -> str:
    if tiff.is_qpi:
        return "perkinelmer"
    if tiff.is_ome:
        return "ome-tiff"
    return "aperio" if text.lstrip().startswith("Aperio") else "generic-tiff"


def _named(pages: list[tifffile.TiffPage]) -> dict[str, tifffile.TiffPage]:
    """Pages that are neither levels nor tiles, by what their description calls them."""
    named: dict[str, tifffile.TiffPage] = {}
    for number, page in enumerate(pages, start=1):
        found = NAMES.search(page.description or "")
        named.setdefault(found[1].lower() if found else f"image {number}", page)
    return named
