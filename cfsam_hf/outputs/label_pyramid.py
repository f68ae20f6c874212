"""The label map of a slide as a tiled, pyramidal OME-TIFF, drawn from its polygons with flat memory.

Tiles that are being painted are in memory. All others wait, compressed, in a scratch file beside the target, from
which the levels of the pyramid are made and the file is written. The map as a whole is never in memory.
"""

import json
import math
import os
import tempfile
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow
import tifffile

from ..files.atomic import atomic_path
from ..files.own_results import SOFTWARE
from ..model.spans import expand_runs
from .polygon_runs import polygon_runs
from .wkb import decode_polygon

LABELS_ENDING = "_labels.ome.tif"
# Pixels of a tile's side, a multiple of 16 as TIFF wants it.
TILE = 512
# Tiles in memory, of 1 MiB each.
MOST_TILES = 96
# Nuclei that are drawn at once.
DRAWN_TOGETHER = 4096
# Higher levels save little on maps that are mostly equal values.
ZLIB_LEVEL = 4
MAX_LABEL = 2**32 - 1

Key = tuple[int, int]


def write_label_pyramid(
    batches: Iterable[pyarrow.RecordBatch], path: str | os.PathLike[str], record: Mapping[str, Any]
) -> None:
    """Writes the label map of a slide: uint32, 0 background, else the id of the nucleus that the pixel lies in.

    Each level of the pyramid has every second pixel of every second row of the level below. The metadata state the
    pixel size (`PhysicalSizeX`, `PhysicalSizeY`) and, as the image's description, the provenance record.

    Args:
        batches: nuclei with the columns `id` and `geometry` of `nuclei_schema`, in any order; neighbours are drawn
            fastest together. Where two nuclei overlap, the later one is on top.
        path: the file; an existing one is replaced.
        record: the provenance record of the slide, as `slide_record` makes it.

    Raises:
        ValueError: an id does not fit into 32 bits.
        OSError: the file cannot be written.
    """
    width, height = record["image_size"]
    with atomic_path(path) as working, tempfile.TemporaryFile(dir=working.parent) as scratch:
        levels = [TileStore((width, height), scratch)]
        for batch in batches:
            for first in range(0, len(batch), DRAWN_TOGETHER):
                _paint(levels[0], batch.slice(first, DRAWN_TOGETHER))
        levels[0].settle()
        while max(levels[-1].size) > TILE:
            levels.append(levels[-1].reduced())
        _write(working, levels, record)


class TileStore:
    """The tiles of one level: those in use in memory, the others compressed in a file.

    Args:
        size: (width, height) of the level in pixels.
        file: where compressed tiles are appended; several levels may share it.
    """

    def __init__(self, size: tuple[int, int], file: IO[bytes]) -> None:
        self.size = size
        self.grid = math.ceil(size[0] / TILE), math.ceil(size[1] / TILE)
        """(columns, rows) of tiles."""
        self._file = file
        self._places: dict[Key, tuple[int, int]] = {}
        self._open: OrderedDict[Key, np.ndarray] = OrderedDict()

    def open(self, key: Key) -> np.ndarray:
        """The tile (row, column) to be painted, (TILE, TILE) uint32; another may be put away for it."""
        tile = self._open.pop(key, None)
        if tile is None:
            while len(self._open) >= MOST_TILES:
                self._put(*self._open.popitem(last=False))
            tile = self.read(key)
        self._open[key] = tile
        return tile

    def settle(self) -> None:
        """Puts all tiles away; the level is complete."""
        while self._open:
            self._put(*self._open.popitem(last=False))

    def read(self, key: Key) -> np.ndarray:
        """A tile that has been put away; zeros if it was never painted."""
        packed = self.packed(key)
        if packed is None:
            return np.zeros((TILE, TILE), dtype=np.uint32)
        return np.frombuffer(zlib.decompress(packed), dtype=np.uint32).reshape(TILE, TILE).copy()

    def packed(self, key: Key) -> bytes | None:
        """A tile that has been put away, as it is in the TIFF; None if it was never painted."""
        if key not in self._places:
            return None
        offset, length = self._places[key]
        self._file.seek(offset)
        return self._file.read(length)

    def reduced(self) -> "TileStore":
        """The next level, from every second pixel of every second row."""
        half = TILE // 2
        smaller = TileStore((math.ceil(self.size[0] / 2), math.ceil(self.size[1] / 2)), self._file)
        for row, column in sorted({(row // 2, column // 2) for row, column in self._places}):
            tile = np.zeros((TILE, TILE), dtype=np.uint32)
            for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
                key = 2 * row + down, 2 * column + across
                if key in self._places:
                    part = slice(down * half, (down + 1) * half), slice(across * half, (across + 1) * half)
                    tile[part] = self.read(key)[::2, ::2]
            smaller._put((row, column), tile)
        return smaller

    def encoded(self) -> Iterator[bytes]:
        """All tiles row by row, as they are in the TIFF."""
        empty = zlib.compress(bytes(4 * TILE * TILE), ZLIB_LEVEL)
        columns, rows = self.grid
        for row in range(rows):
            for column in range(columns):
                yield self.packed((row, column)) or empty

    def _put(self, key: Key, tile: np.ndarray) -> None:
        packed = zlib.compress(tile.tobytes(), ZLIB_LEVEL)
        self._places[key] = self._file.seek(0, os.SEEK_END), len(packed)
        self._file.write(packed)


def _paint(level: TileStore, batch: pyarrow.RecordBatch) -> None:
    """Draws nuclei on the tiles that they touch."""
    ids = batch.column("id").to_numpy()
    if len(ids) and not 0 < ids.min() <= ids.max() <= MAX_LABEL:
        raise ValueError(f"ids of nuclei from {ids.min()} to {ids.max()} do not fit a label map of 1 to {MAX_LABEL}")
    runs = polygon_runs([decode_polygon(wkb) for wkb in batch.column("geometry").to_pylist()])
    width, height = level.size
    starts, ends = runs.starts.clip(0, width), runs.ends.clip(0, width)
    kept = np.flatnonzero((ends > starts) & (runs.rows >= 0) & (runs.rows < height))
    if len(kept) == 0:
        return
    rows, starts, ends, labels = runs.rows[kept], starts[kept], ends[kept], ids[runs.owners[kept]]
    # A run is cut where a column of tiles ends.
    first = starts // TILE
    pieces = (ends - 1) // TILE - first + 1
    which, columns = np.repeat(np.arange(len(rows)), pieces), expand_runs(first, pieces)
    rows, labels = rows[which], labels[which].astype(np.uint32)
    starts = np.maximum(starts[which], columns * TILE) - columns * TILE
    lengths = np.minimum(ends[which], (columns + 1) * TILE) - columns * TILE - starts
    tiles = rows // TILE * level.grid[0] + columns
    positions = rows % TILE * TILE + starts
    order = np.argsort(tiles, kind="stable")
    keys, begins = np.unique(tiles[order], return_index=True)
    for key, part in zip(keys.tolist(), np.split(order, begins[1:]), strict=True):
        tile = level.open(divmod(key, level.grid[0]))
        tile.reshape(-1)[expand_runs(positions[part], lengths[part])] = np.repeat(labels[part], lengths[part])


def _write(path: str | os.PathLike[str], levels: list[TileStore], record: Mapping[str, Any]) -> None:
    mpp = record.get("mpp_x") or record["mpp"], record.get("mpp_y") or record["mpp"]
    known = mpp[0] is not None and mpp[1] is not None
    description = json.dumps(dict(record))
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": f"nuclei of {record['image']}",
        "Description": description,
        "Creator": f"{SOFTWARE} {record['version']}",
        # Not a random one, so that equal results give equal files.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, description)),
    }
    if known:
        metadata |= {"PhysicalSizeX": mpp[0], "PhysicalSizeXUnit": "µm"}
        metadata |= {"PhysicalSizeY": mpp[1], "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(levels):
            scale = 2**number
            tiff.write(
                level.encoded(),
                shape=level.size[::-1],
                dtype=np.uint32,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="zlib",
                resolution=(1e4 / mpp[0] / scale, 1e4 / mpp[1] / scale) if known else None,
                resolutionunit="CENTIMETER" if known else None,
                software=f"{SOFTWARE} {record['version']}",
                subifds=len(levels) - 1 if number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                metadata=metadata if number == 0 else None,
            )
