"""Nuclei at the borders of regions: which region owns them, and how the rare conflict is settled.

A nucleus belongs to the region whose core holds its centroid. Two neighbours decode the same maps where they overlap,
so they agree about every nucleus whose foreground component lies inside both. A component that reaches past the halo
of a region is *open* there: it is cut, and its nuclei may be divided differently in the neighbour. Nuclei whose
centroids lie on the very border count as open too. A region's file therefore states, for each nucleus near a border,
whether it is open, and carries open nuclei that its neighbours own. When all regions are done, [`settle`] decides
between those that overlap: none is lost, halved or counted twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import pyarrow

from ..model.instances import JUMP_REACH
from ..model.result import DecodedNuclei
from ..slides.regions import Box, Region, RegionGrid
from .region_store import RegionStore

# Nuclei that are closer than twice this may belong to one component: parts of it may have been dropped.
GAP = 4
# Pixels from the border of a core within which the centroids of a nucleus may fall on different sides of it:
# resampling and the arithmetic of accelerators can round differently in two regions.
DOUBTFUL = 4.0
# Two nuclei that share more than this part of the smaller one count as one.
SHARED = 0.5
# Side in pixels of the cells that index boxes, to find those that overlap.
CELL = 256

STATE = "border"
BOX = ("model_x0", "model_y0", "model_x1", "model_y1")
PIXELS = "model_pixels"
COLUMNS = (STATE, *BOX, PIXELS)
"""What a region's file has besides the columns of the slide: the state, the box in the model's pixels of the slide,
and, near borders, the nucleus's pixels in its box, packed eight to a byte."""


class BorderState(IntEnum):
    """What a region's file states about a nucleus. Smaller values win conflicts."""

    INNER = 0
    """Owned, and out of reach of any neighbour."""
    SETTLED = 1
    """Owned, near a border, with its whole component in view."""
    OPEN = 2
    """Owned, near a border, in a component that is cut."""
    OFFERED = 3
    """Owned by a neighbour, which may have divided the component differently."""
    FOREIGN = 4
    """Not stored: a neighbour owns it and sees at least as much of it."""


def border_states(decoded: DecodedNuclei, region: Region, grid: RegionGrid) -> np.ndarray:
    """
    Determines the states of a region's nuclei.

    Args:
        decoded: the nuclei in the region's `inside` box, in pixels of that box.
        region: the region.
        grid: the grid of the slide.

    Returns:
        (N,) int8 values of `BorderState`.
    """
    inside = region.inside
    corner = np.array([inside.x0, inside.y0])
    owned = region.core.contains(decoded.centroids + corner)
    boxes = decoded.boxes + np.tile(corner, 2)
    states = np.where(owned, BorderState.INNER, BorderState.FOREIGN).astype(np.int8)
    inner = _out_of_reach(region, grid)
    is_near = (boxes[:, 0] < inner.x0) | (boxes[:, 1] < inner.y0) | (boxes[:, 2] > inner.x1) | (boxes[:, 3] > inner.y1)
    states[owned & is_near] = BorderState.SETTLED
    if not is_near.any():
        return states
    is_open = _open_nuclei(decoded.instance_map, len(decoded), _cut_sides(region, grid))
    is_open |= _is_doubtful(decoded.centroids + corner, region, grid)
    states[owned & is_near & is_open] = BorderState.OPEN
    # A nucleus that is itself cut is useless to the neighbour.
    is_whole = (
        (boxes[:, 0] > inside.x0) & (boxes[:, 1] > inside.y0) & (boxes[:, 2] < inside.x1) & (boxes[:, 3] < inside.y1)
    )
    states[~owned & is_open & is_whole] = BorderState.OFFERED
    return states


def border_columns(decoded: DecodedNuclei, states: np.ndarray, region: Region) -> dict[str, pyarrow.Array]:
    """
    The columns `COLUMNS` of a region's file.

    Args:
        decoded: the nuclei of the file, in pixels of the region's `inside` box.
        states: (N,) their states.
        region: the region.
    """
    boxes = decoded.boxes.reshape(-1, 4)
    pixels: list[bytes | None] = [None] * len(boxes)
    for index in np.flatnonzero(states != BorderState.INNER).tolist():
        x0, y0, x1, y1 = boxes[index].tolist()
        pixels[index] = np.packbits(decoded.instance_map[y0:y1, x0:x1] == index + 1).tobytes()
    shifted = boxes + np.tile([region.inside.x0, region.inside.y0], 2)
    columns = {STATE: pyarrow.array(states, pyarrow.int8())}
    for axis, name in enumerate(BOX):
        columns[name] = pyarrow.array(shifted[:, axis], pyarrow.int32())
    columns[PIXELS] = pyarrow.array(pixels, pyarrow.binary())
    return columns


def settle(store: RegionStore, regions: Sequence[Region]) -> dict[str, np.ndarray]:
    """
    Decides which rows of the regions' files are the slide's nuclei.

    Nuclei with a settled component come first, then open ones that their region owns, then those that a region offers
    in place of a neighbour's, each in the order of the regions. A nucleus is dropped if it shares more than half of
    its pixels, or of the other's, with an earlier nucleus of another region. Only open nuclei and those whose boxes
    meet theirs are held in memory.

    Args:
        store: the files of all these regions.
        regions: all regions of the slide, in raster order.

    Returns:
        By name of the region a mask (N,) bool of the rows to keep.
    """
    kept: dict[str, np.ndarray] = {}
    nuclei: list[_Nucleus] = []
    cells: dict[tuple[int, int], list[Box]] = defaultdict(list)
    for number, region in enumerate(regions):
        table = store.read(region, list(COLUMNS))
        found = _nuclei_in(table, number, (BorderState.OPEN, BorderState.OFFERED))
        nuclei += found
        for nucleus in found:
            for cell in _cells(nucleus.box):
                cells[cell].append(nucleus.box)
        kept[region.name] = table[STATE].to_numpy() != BorderState.OFFERED
    if not nuclei:
        return kept
    for number, region in enumerate(regions):
        nuclei += _nuclei_in(store.read(region, list(COLUMNS)), number, (BorderState.SETTLED,), cells)
    nuclei.sort(key=lambda nucleus: (nucleus.state, nucleus.region, nucleus.row))
    accepted: dict[tuple[int, int], list[_Nucleus]] = defaultdict(list)
    for nucleus in nuclei:
        near = {id(other): other for cell in _cells(nucleus.box) for other in accepted[cell]}
        is_new = not any(nucleus.is_same(other) for other in near.values() if other.region != nucleus.region)
        kept[regions[nucleus.region].name][nucleus.row] = is_new
        if is_new:
            for cell in _cells(nucleus.box):
                accepted[cell].append(nucleus)
    return kept


@dataclass(frozen=True)
class _Nucleus:
    """A nucleus near a border: its state, the number of its region, its row in the region's file, and its pixels."""

    state: int
    region: int
    row: int
    box: Box
    packed: bytes

    @property
    def mask(self) -> np.ndarray:
        """Its pixels in its box, (H, W) bool."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=self.box.width * self.box.height)
        return bits.reshape(self.box.height, self.box.width).astype(bool)

    def is_same(self, other: "_Nucleus") -> bool:
        """Whether the two share enough pixels to count as one nucleus."""
        if not _meet(self.box, other.box):
            return False
        common = self.box.meet(other.box)
        first, second = self.mask, other.mask
        shared = np.count_nonzero(_cut(first, self.box, common) & _cut(second, other.box, common))
        return bool(shared > SHARED * min(np.count_nonzero(first), np.count_nonzero(second)))


def _cut(mask: np.ndarray, box: Box, part: Box) -> np.ndarray:
    return mask[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]


def _cells(box: Box) -> Iterable[tuple[int, int]]:
    """The cells that a box meets."""
    rows = range(box.y0 // CELL, (box.y1 - 1) // CELL + 1)
    columns = range(box.x0 // CELL, (box.x1 - 1) // CELL + 1)
    return [(row, column) for row in rows for column in columns]


def _nuclei_in(
    table: pyarrow.Table,
    number: int,
    states: tuple[BorderState, ...],
    meeting: dict[tuple[int, int], list[Box]] | None = None,
) -> list[_Nucleus]:
    """The nuclei of region `number` in these states; with `meeting`, those whose boxes meet one of these."""
    found_states = table[STATE].to_numpy()
    boxes = np.stack([table[name].to_numpy() for name in BOX], axis=1)
    nuclei = []
    for row in np.flatnonzero(np.isin(found_states, states)).tolist():
        box = Box(*boxes[row].tolist())
        if meeting is not None and not any(_meet(box, other) for c in _cells(box) for other in meeting.get(c, ())):
            continue
        nuclei.append(_Nucleus(int(found_states[row]), number, row, box, table[PIXELS][row].as_py()))
    return nuclei


def _meet(first: Box, second: Box) -> bool:
    common = first.meet(second)
    return common.width > 0 and common.height > 0


def _out_of_reach(region: Region, grid: RegionGrid) -> Box:
    """The pixels of the core that no neighbour decodes."""
    columns, rows = grid.columns, grid.rows
    return Box(
        columns[region.column - 1].inside_last if region.column else 0,
        rows[region.row - 1].inside_last if region.row else 0,
        columns[region.column + 1].inside_first if region.column + 1 < len(columns) else grid.width,
        rows[region.row + 1].inside_first if region.row + 1 < len(rows) else grid.height,
    )


def _cut_sides(region: Region, grid: RegionGrid) -> tuple[bool, bool, bool, bool]:
    """Whether the slide continues to the left, above, to the right and below."""
    inside = region.inside
    return inside.x0 > 0, inside.y0 > 0, inside.x1 < grid.width, inside.y1 < grid.height


def _is_doubtful(centroids: np.ndarray, region: Region, grid: RegionGrid) -> np.ndarray:
    """Which centroids (N, 2) lie on a border of the core: (N,) bool."""
    core = region.core
    doubtful = np.zeros(len(centroids), dtype=bool)
    for axis, borders, length in ((0, (core.x0, core.x1), grid.width), (1, (core.y0, core.y1), grid.height)):
        for border in borders:
            if 0 < border < length:
                doubtful |= np.abs(centroids[:, axis] - border) < DOUBTFUL
    return doubtful


def _open_nuclei(instance_map: np.ndarray, count: int, sides: tuple[bool, bool, bool, bool]) -> np.ndarray:
    """Which nuclei are connected, by nuclei `2 * GAP` pixels apart at most, to a side that is cut: (N,) bool."""
    nuclei = (instance_map > 0).view(np.uint8)
    grown = cv2.dilate(nuclei, np.ones((2 * GAP + 1, 2 * GAP + 1), np.uint8))
    number, groups = cv2.connectedComponents(grown, connectivity=8)
    is_open = np.zeros(number, dtype=bool)
    depth = JUMP_REACH + 1
    left, top, right, bottom = sides
    for is_cut, edge in (
        (left, groups[:, :depth]),
        (top, groups[:depth]),
        (right, groups[:, -depth:]),
        (bottom, groups[-depth:]),
    ):
        if is_cut:
            is_open[np.unique(edge)] = True
    is_open[0] = False
    found = np.zeros(count + 1, dtype=bool)
    pixels = nuclei.astype(bool)
    found[instance_map[pixels]] = is_open[groups[pixels]]
    return found[1:]
