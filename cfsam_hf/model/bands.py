"""Decoding of large images in bands of rows: the nuclei of the whole, with the maps of a few rows in memory.

Nothing in decoding reaches farther than a foreground component and `JUMP_REACH` pixels around it. So a component is
decoded as soon as the rows below it have come, and only the rows of components that are still open are kept. A nucleus
that crosses bands has one identity, because it is decoded once, when it is complete.

A component may be as high as the image in the worst case (a network that sees nuclei everywhere). So that memory stays
bounded, one that is open over more than `OPEN_ROWS` rows is divided before its end has come: the nuclei that end
`SETTLED_ROWS` rows above the last known row are taken, the others wait. What lies so far below has no say in a nucleus
but through a chain of pixels that long. Only a single nucleus higher than `OPEN_ROWS - SETTLED_ROWS` rows is cut.
"""

import numpy as np

from .decoding import (
    DecodedNuclei,
    DecodingParameters,
    large_instances,
    measure_instances,
    require_finite,
)
from .instances import JUMP_REACH, Foreground, boundary_evidence, find_foreground, instance_runs
from .maps import NucleiMaps, as_float32
from .spans import expand_runs, find_runs

# Rows that a component may be open for before it is divided: 256 um at 40x, many times the height of a nucleus.
OPEN_ROWS = 1024
# Rows below a nucleus that are known when it is taken from a component that is still open.
SETTLED_ROWS = 256
# Rows of the label map that are renumbered at once.
RENUMBERED_ROWS = 256


class BandDecoder:
    """
    Takes the maps of an image from the top in bands of rows of any height and finds the nuclei that `decode_nuclei`
    finds in the whole: the same pixels, ids, types, scores and measures, to the last bit, unless a component is higher
    than `open_rows` (see above).

    Besides the label map (4 bytes a pixel) it holds the rows of components that are open, at most `open_rows` and one
    band: 8 bytes a pixel, and 2 for each type map and the background where the maps come in float16.

    Args:
        height, width (`int`): size of the image in pixels.
        parameters (`DecodingParameters`): thresholds.
        open_rows, settled_rows (`int`): see the top of this module.
    """

    def __init__(
        self,
        height: int,
        width: int,
        parameters: DecodingParameters,
        open_rows: int = OPEN_ROWS,
        settled_rows: int = SETTLED_ROWS,
    ):
        if not 0 < settled_rows < open_rows:
            raise ValueError(f"settled_rows must lie in 1..{open_rows - 1}, got {settled_rows}")
        if height < 1 or width < 1:
            raise ValueError(f"an image needs at least one pixel, got {width}x{height}")
        self.parameters = parameters
        self.open_rows, self.settled_rows = open_rows, settled_rows
        self._map = np.zeros((height, width), dtype=np.int32)
        self._parts: list[DecodedNuclei] = []
        self._first_pixels: list[np.ndarray] = []
        self._received = 0
        # Rows whose maps have come but whose evidence needs the rows below, with those above that it needs too.
        self._edge: NucleiMaps | None = None
        # Of the rows from `_top` on: energy, evidence of what is not decoded yet, and what is (both with a border of
        # zeros), and the maps that are summed.
        self._top = 0
        self._known = 0
        self._energy = self._evidence = self._decoded = None
        self._nuclei = self._types = None

    @property
    def held_rows(self) -> int:
        """Rows whose maps are held at present."""
        return self._received - self._top

    def add(self, maps: NucleiMaps) -> None:
        """
        Take the next rows.

        Args:
            maps (`NucleiMaps`): of these rows, as wide as the image, in float16 or float32.

        Raises:
            ValueError: more rows than the image has, another width, a map that other bands lacked, or a value that is
                not finite.
        """
        rows, width = maps.nuclei.shape
        height = len(self._map)
        if width != self._map.shape[1] or not 0 < rows <= height - self._received:
            raise ValueError(
                f"rows {self._received} to {self._received + rows} of {width} px do not fit an image of "
                f"{self._map.shape[1]}x{height} px"
            )
        if self._received and (maps.types is None) != (self._types is None):
            raise ValueError("either all bands have type maps or none")
        if maps.types is not None:
            require_finite(as_float32(maps.types[0]), "type_probabilities")
        self._nuclei = _append(self._nuclei, maps.nuclei)
        self._types = None if maps.types is None else _append(self._types, maps.types)
        self._received += rows
        self._find_evidence(maps)
        self._decode()

    def result(self) -> DecodedNuclei:
        """
        The nuclei, after the last row.

        Raises:
            ValueError: rows are missing.
        """
        if self._received < len(self._map):
            raise ValueError(f"only {self._received} of {len(self._map)} rows have come")
        # As in a whole image, ids follow the nuclei's first pixels.
        order = np.argsort(np.concatenate(self._first_pixels))
        numbers = np.zeros(len(order) + 1, dtype=np.int32)
        numbers[1 + order] = np.arange(1, len(order) + 1)
        for top in range(0, len(self._map), RENUMBERED_ROWS):
            band = self._map[top : top + RENUMBERED_ROWS]
            band[:] = numbers[band]
        names = ("type_ids", "type_probabilities", "scores", "boxes", "centroids", "areas", "measures")
        columns = {name: np.concatenate([getattr(part, name) for part in self._parts])[order] for name in names}
        return DecodedNuclei(instance_map=self._map, **columns)

    def _find_evidence(self, maps: NucleiMaps) -> None:
        """Adds the energy and evidence of the rows that have come to be known."""
        maps = NucleiMaps(
            nuclei=as_float32(maps.nuclei),
            hv=as_float32(maps.hv),
            boundary=None if maps.boundary is None else as_float32(maps.boundary),
        )
        require_finite(maps.nuclei, "nuclei_probability")
        require_finite(maps.hv, "hv_maps")
        if maps.boundary is not None:
            require_finite(maps.boundary, "boundary_probability")
        if self._edge is not None:
            if (maps.boundary is None) != (self._edge.boundary is None):
                raise ValueError("either all bands have a boundary map or none")
            maps = NucleiMaps(
                nuclei=_append(self._edge.nuclei, maps.nuclei),
                hv=_append(self._edge.hv, maps.hv),
                boundary=None if maps.boundary is None else _append(self._edge.boundary, maps.boundary),
            )
        first = self._received - len(maps.nuclei)
        known = self._received if self._received == len(self._map) else self._received - JUMP_REACH
        if known > self._known:
            energy, evidence = boundary_evidence(maps.nuclei, maps.hv, maps.boundary, self.parameters)
            rows = slice(self._known - first, known - first + 2)
            energy, evidence = energy[rows], evidence[rows]
            evidence[0] = evidence[-1] = 0
            self._energy = _append(self._energy, energy, border=1)
            self._evidence = _append(self._evidence, evidence, border=1)
            if self._decoded is not None:
                self._decoded = _append(self._decoded, np.zeros(evidence.shape, dtype=bool), border=1)
            self._known = known
        edge = max(0, self._known - JUMP_REACH - first)
        self._edge = NucleiMaps(
            nuclei=maps.nuclei[edge:].copy(),
            hv=maps.hv[:, edge:].copy(),
            boundary=None if maps.boundary is None else maps.boundary[edge:].copy(),
        )

    def _decode(self) -> None:
        """Decodes the components that are complete, and lets go of the rows that are needed no more."""
        if self._energy is None or len(self._energy) == 2:
            return
        last = self._known == len(self._map)
        foreground = find_foreground(self._evidence)
        is_open = np.zeros(foreground.count, dtype=bool)
        if not last:
            is_open[foreground.components[foreground.starts >= (len(self._evidence) - 2) * foreground.width]] = True
        occupied = None
        if self._decoded is not None:
            [occupied] = find_runs(((self._evidence > 0) | self._decoded).view(np.uint8).reshape(-1))
        elif is_open.any():
            occupied = foreground.starts, foreground.ends
        complete = foreground.select(~is_open) if is_open.any() else foreground
        self._keep(*instance_runs(self._energy, complete, self.parameters, occupied))
        if last:
            return
        self._forget(complete.starts, complete.ends)
        if is_open.any():
            first_row = np.zeros(foreground.count, dtype=np.int64)
            first_row[foreground.components[::-1]] = foreground.starts[::-1] // foreground.width - 1
            too_high = is_open & (first_row < len(self._evidence) - 2 - self.open_rows)
            if too_high.any():
                self._settle(foreground.select(too_high), occupied)
        alive = np.flatnonzero(self._evidence.any(axis=1))
        self._drop_rows(int(alive[0]) - 1 if len(alive) else len(self._evidence) - 2)

    def _settle(self, foreground: Foreground, occupied) -> None:
        """Takes from components that have been open for too long the nuclei that lie far above the last known row."""
        starts, ends, labels = instance_runs(self._energy, foreground, self.parameters, occupied)
        rows = starts // foreground.width - 1
        count = labels.max() + 1
        last_row = np.zeros(count, dtype=np.int64)
        last_row[labels] = rows
        first_row = np.zeros(count, dtype=np.int64)
        first_row[labels[::-1]] = rows[::-1]
        height = len(self._evidence) - 2
        settled = (last_row < height - self.settled_rows) | (first_row < height - self.open_rows)
        kept = np.flatnonzero(settled[labels])
        self._keep(starts[kept], ends[kept], labels[kept])
        self._forget(starts[kept], ends[kept])

    def _keep(self, starts, ends, labels) -> None:
        """Paints and measures instances."""
        rows = slice(self._top, self._known)
        types = None
        if self._types is not None:
            types = [as_float32(values[: self._known - self._top]) for values in self._types]
        nuclei = as_float32(self._nuclei[: self._known - self._top])
        starts, ends, ids, count = large_instances(starts, ends, labels, self.parameters.minimum_area)
        decoded, first_pixels = measure_instances(
            *(starts, ends, ids, count),
            *(self._map[rows], self._energy, nuclei, types, self.parameters),
            top=self._top,
            first_id=sum(len(part) for part in self._parts) + 1,
        )
        self._parts.append(decoded)
        self._first_pixels.append(first_pixels + self._top * self._evidence.shape[1])

    def _forget(self, starts, ends) -> None:
        """Marks runs as decoded: no longer foreground, but no background to be filled either."""
        pixels = expand_runs(starts, ends - starts)
        self._evidence.reshape(-1)[pixels] = 0
        if self._decoded is None:
            self._decoded = np.zeros(self._evidence.shape, dtype=bool)
        self._decoded.reshape(-1)[pixels] = True

    def _drop_rows(self, count: int) -> None:
        """Lets go of the first `count` known rows."""
        if count == 0:
            return
        self._top += count
        # Copies, so that the memory of the dropped rows is freed.
        self._nuclei = self._nuclei[count:].copy()
        if self._types is not None:
            self._types = self._types[:, count:].copy()
        self._energy, self._evidence, self._decoded = (
            array[count:].copy() for array in (self._energy, self._evidence, self._decoded)
        )
        for array in (self._energy, self._evidence, self._decoded):
            array[0] = 0


def _append(rows: np.ndarray | None, further: np.ndarray, border: int = 0) -> np.ndarray:
    """Rows (..., n, W) and further rows beneath them, both with `border` rows around them that are zero."""
    if rows is None:
        return further
    axis = rows.ndim - 2
    upper = rows[..., : rows.shape[axis] - border, :]
    return np.concatenate([upper, further[..., border:, :]], axis=axis)
