"""From the model's maps to nuclei, without rescaling anything by the content of a tile.

Every threshold is absolute and every clean-up has a bounded reach, so a nucleus decodes the same beside any
neighbours: nothing reaches farther than a foreground component and `JUMP_REACH` pixels around it. `instances.py`
explains how maps become instances, and `scores.py` how nuclei get scores and types.

Maps arrive in bands of rows; a whole image is one band. A component is decoded as soon as the rows below it have
arrived, and only the rows of components that are still open are kept. A nucleus that crosses bands has one identity,
because it is decoded once, when it is complete.

In the worst case (a network that sees nuclei everywhere) a component is as high as the image. To bound memory, one
that is open over more than `OPEN_ROWS` rows is divided before its end arrives: the nuclei that end `SETTLED_ROWS` rows
above the last known row are taken, the others wait. Rows so far below affect a nucleus only through a chain of pixels
that long. Only a single nucleus higher than `OPEN_ROWS - SETTLED_ROWS` rows is cut.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

import numpy as np

from .instances import (
    JUMP_REACH,
    EvidenceThresholds,
    Foreground,
    boundary_evidence,
    find_foreground,
    find_instances,
)
from .maps import NucleiMaps, as_float32, join_rows
from .result import DecodedNuclei
from .scores import MAX_WEIGHT, ScoreWeights, elect_types, score_measures
from .spans import LabelledRuns, Runs, expand_runs, find_runs, large_instances

# Far beyond any use; larger numbers would overflow in sums.
MAX_AREA = 2**31

# Rows that a component may be open for before it is divided: 256 um at 40x, many times the height of a nucleus.
OPEN_ROWS = 1024
# Rows below a nucleus that are known when it is taken from a component that is still open.
SETTLED_ROWS = 256
# Rows of the label map that are renumbered at once.
RENUMBERED_ROWS = 256


@dataclass(frozen=True)
class DecodingParameters:
    """Thresholds of decoding, all absolute: none depends on what else the tile shows.

    Args:
        nuclei_threshold: a pixel is foreground where the nuclei probability reaches this; in [0, 1].
        marker_threshold: a foreground pixel belongs to a marker where its nuclei probability exceeds the boundary
            energy (`boundary_weight * boundary + jump_weight * jump`) by this; in (0, 1).
        core_threshold: a marker that contains several cores at this higher threshold is replaced by them, so that
            nuclei with a faint boundary between them come apart while small or faint ones keep their marker; at least
            `marker_threshold` and below 1.
        boundary_weight: weight of the boundary probability in the boundary energy; at least 0.
        jump_weight: weight of the distance maps' jump (0 inside a nucleus, 1 for the full fall from 1 to -1 between
            two touching nuclei) in the boundary energy; at least 0.
        lone_jump_weight: the same for maps without a boundary map; at least 0.
        minimum_marker_area: markers of fewer pixels are ignored.
        minimum_core_area: cores of fewer pixels are ignored.
        minimum_area: nuclei of fewer pixels are dropped.
        minimum_score: nuclei with a lower score are dropped; at least 0 and below 1.
        maximum_hole_area: holes of a nucleus of at most so many pixels are filled unless something lies inside them;
            larger ones are kept, and so are gaps between several nuclei.
        score_weights: how the score is computed; by default it is the mean nuclei probability. Weights are valid only
            for the other parameters that they were fitted with.
    """

    nuclei_threshold: float = 0.5
    marker_threshold: float = 0.5
    core_threshold: float = 0.8
    boundary_weight: float = 1.0
    jump_weight: float = 1.0
    lone_jump_weight: float = 3.0
    minimum_marker_area: int = 5
    minimum_core_area: int = 40
    minimum_area: int = 20
    minimum_score: float = 0.0
    maximum_hole_area: int = 100
    score_weights: ScoreWeights = field(default_factory=ScoreWeights)

    def __post_init__(self) -> None:
        if not isinstance(self.score_weights, ScoreWeights):
            raise ValueError(
                f"score_weights are {self.score_weights!r}: they must be ScoreWeights; DecodingParameters.from_dict "
                "accepts them as a dictionary"
            )
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if parameter.type is float and (isinstance(value, bool) or not isinstance(value, Real)):
                raise ValueError(f"{parameter.name} is {value!r}: it must be a number")
        if not 0 <= self.nuclei_threshold <= 1:
            raise ValueError(f"nuclei_threshold is {self.nuclei_threshold}: it must lie between 0 and 1")
        for name in ("marker_threshold", "core_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie strictly between 0 and 1")
        if not 0 <= self.minimum_score < 1:
            raise ValueError(f"minimum_score is {self.minimum_score}: it must be at least 0 and below 1")
        if self.core_threshold < self.marker_threshold:
            raise ValueError(
                f"core_threshold is {self.core_threshold}: it must be at least the marker_threshold, "
                f"{self.marker_threshold}"
            )
        for name in ("boundary_weight", "jump_weight", "lone_jump_weight"):
            if not 0 <= getattr(self, name) <= MAX_WEIGHT:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie between 0 and {MAX_WEIGHT:g}")
        for name in ("minimum_marker_area", "minimum_core_area", "minimum_area", "maximum_hole_area"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} is {value!r}: it must be a whole number of pixels")
            if not 0 <= value <= MAX_AREA:
                raise ValueError(f"{name} is {value}: it must lie in 0..{MAX_AREA} pixels")

    @property
    def halo(self) -> int:
        """Pixels around a foreground component on which its decoding may depend.

        A crop that holds the component and so many pixels on each side of it (or ends with the image) decodes it as
        the whole image does, up to the id.
        """
        return JUMP_REACH

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for a processor's configuration; `from_dict` restores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DecodingParameters":
        """The inverse of `to_dict`; a name that is not a parameter raises ValueError."""
        known = [parameter.name for parameter in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            hint = ""
            if "minimum_probability" in unknown:
                hint = "; minimum_probability is minimum_score now, a threshold of the scores that score_weights give"
            raise ValueError(f"unknown decoding parameters {unknown}: the known ones are {known}{hint}")
        if "score_weights" in values:
            values = {**values, "score_weights": ScoreWeights.from_dict(values["score_weights"])}
        return cls(**values)


def decode_nuclei(
    nuclei_probability: np.ndarray,
    hv_maps: np.ndarray,
    type_probabilities: np.ndarray | None = None,
    boundary_probability: np.ndarray | None = None,
    parameters: DecodingParameters = DecodingParameters(),
) -> DecodedNuclei:
    """Nuclei of one image from its maps.

    Args:
        nuclei_probability: (H, W), probability that a pixel lies in a nucleus.
        hv_maps: (2, H, W), horizontal (x) then vertical (y) offset from the nucleus's centroid, each side scaled
            to [-1, 1]; values outside the nuclei matter little.
        type_probabilities: (T + 1, H, W) with the background in channel 0, or None.
        boundary_probability: (H, W), probability that a pixel touches another label, or None.
        parameters: thresholds.

    Raises:
        ValueError: a map has the wrong shape, or holds a value that is not finite.
    """
    nuclei = _shaped(nuclei_probability, "nuclei_probability", None)
    height, width = nuclei.shape
    types = None
    if type_probabilities is not None:
        channels = len(type_probabilities) if np.ndim(type_probabilities) == 3 else 2
        types = _shaped(type_probabilities, "type_probabilities", (max(channels, 2), height, width))
    boundary = boundary_probability
    if boundary is not None:
        boundary = _shaped(boundary, "boundary_probability", (height, width))
    decoder = BandDecoder(height, width, parameters)
    decoder.add(NucleiMaps(nuclei, _shaped(hv_maps, "hv_maps", (2, height, width)), boundary, types))
    return decoder.result()


def _shaped(values: np.ndarray, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """The map as contiguous float32, of the given shape or of any two-dimensional one."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 2 if shape is None else values.shape != shape:
        wanted = "(H, W)" if shape is None else f"{shape}, to fit nuclei_probability"
        raise ValueError(f"{name} has shape {values.shape}: it must be {wanted}")
    return values


class BandDecoder:
    """Takes the maps of an image in bands of rows of any height, from the top, and finds its nuclei.

    They are the same to the last bit for bands of any heights, unless a component is higher than `open_rows`
    (see the top of this module).

    Besides the label map (4 bytes a pixel) it holds the rows of components that are open, at most `open_rows` and one
    band: 8 bytes a pixel, and 2 for each type map and the background if the maps come in float16.

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
    ) -> None:
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
        # Rows whose evidence needs the rows below, and the rows above that it needs too, without their types.
        self._edge: NucleiMaps | None = None
        # The rows from `_top` on: the maps that are summed, and, with a border of zeros, the energy of those known,
        # the evidence of what is not decoded yet, and what is decoded (None: nothing).
        self._top = 0
        self._known = 0
        self._nuclei = np.zeros((0, width), dtype=np.float32)
        self._types: np.ndarray | None = None
        self._energy = np.zeros((2, width + 2), dtype=np.float32)
        self._evidence = np.zeros((2, width + 2), dtype=np.uint8)
        self._decoded: np.ndarray | None = None

    @property
    def held_rows(self) -> int:
        """Rows whose maps are held at present."""
        return self._received - self._top

    def add(self, maps: NucleiMaps) -> None:
        """Takes the next rows.

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
        if self._edge is not None:
            if (maps.types is None) != (self._types is None):
                raise ValueError("either all bands have type maps or none")
            if (maps.boundary is None) != (self._edge.boundary is None):
                raise ValueError("either all bands have a boundary map or none")
        self._nuclei = _append(self._nuclei, maps.nuclei)
        if maps.types is not None:
            # The other types are checked when they are summed, so that they are read from memory once.
            _require_finite(as_float32(maps.types[0]), "type_probabilities")
            self._types = maps.types if self._types is None else _append(self._types, maps.types)
        self._received += rows
        self._find_evidence(NucleiMaps(maps.nuclei, maps.hv, maps.boundary).each(as_float32))
        self._decode()

    def result(self) -> DecodedNuclei:
        """The nuclei, after the last row.

        Raises:
            ValueError: rows are missing.
        """
        if self._received < len(self._map):
            raise ValueError(f"only {self._received} of {len(self._map)} rows have been added")
        # Ids follow the nuclei's first pixels, as in an image that was added as one band.
        if len(self._parts) == 1:
            return self._parts[0]
        order = np.argsort(np.concatenate(self._first_pixels))
        numbers = np.zeros(len(order) + 1, dtype=np.int32)
        numbers[1 + order] = np.arange(1, len(order) + 1)
        for top in range(0, len(self._map), RENUMBERED_ROWS):
            band = self._map[top : top + RENUMBERED_ROWS]
            band[:] = numbers[band]
        names = ["type_ids", "type_probabilities", "scores", "boxes", "centroids", "areas", "measures"]
        if self._types is not None:
            names.append("probabilities")
        columns = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in names}
        return DecodedNuclei(self._map, **columns).take(order, self._map)

    def _find_evidence(self, maps: NucleiMaps) -> None:
        """Adds the energy and evidence of the rows whose surroundings have arrived."""
        _require_finite(maps.nuclei, "nuclei_probability")
        _require_finite(maps.hv, "hv_maps")
        if maps.boundary is not None:
            _require_finite(maps.boundary, "boundary_probability")
        if self._edge is not None:
            maps = join_rows([self._edge, maps])
        first = self._received - len(maps.nuclei)
        known = self._received if self._received == len(self._map) else self._received - JUMP_REACH
        if known > self._known:
            parameters = self.parameters
            energy, evidence = boundary_evidence(
                maps.nuclei,
                maps.hv,
                maps.boundary,
                EvidenceThresholds(
                    parameters.nuclei_threshold, parameters.marker_threshold, parameters.core_threshold
                ),
                parameters.boundary_weight,
                parameters.lone_jump_weight if maps.boundary is None else parameters.jump_weight,
            )
            rows = slice(self._known - first, known - first + 2)
            energy, evidence = energy[rows], evidence[rows]
            energy[0] = energy[-1] = evidence[0] = evidence[-1] = 0
            self._energy = _append(self._energy, energy, border=1)
            self._evidence = _append(self._evidence, evidence, border=1)
            if self._decoded is not None:
                self._decoded = _append(self._decoded, np.zeros(evidence.shape, dtype=bool), border=1)
            self._known = known
        edge = max(0, self._known - JUMP_REACH - first)
        self._edge = maps.each(lambda values: values[..., edge:, :].copy())

    def _decode(self) -> None:
        """Decodes the components that are complete and releases the rows that are no longer needed."""
        height, last = self._known - self._top, self._known == len(self._map)
        if height == 0:
            return
        foreground = find_foreground(self._evidence)
        is_open = np.zeros(foreground.count, dtype=bool)
        if not last:
            is_open[foreground.components[foreground.starts >= height * foreground.width]] = True
        occupied = None
        if self._decoded is not None:
            [occupied] = find_runs(((self._evidence > 0) | self._decoded).view(np.uint8).reshape(-1))
        elif is_open.any():
            occupied = foreground.runs
        complete = foreground.select(~is_open) if is_open.any() else foreground
        self._keep(self._instances(complete, occupied))
        if last:
            return
        self._forget(complete.runs)
        if is_open.any():
            first_row = np.zeros(foreground.count, dtype=np.int64)
            first_row[foreground.components[::-1]] = foreground.starts[::-1] // foreground.width - 1
            too_high = is_open & (first_row < height - self.open_rows)
            if too_high.any():
                self._settle(foreground.select(too_high), occupied)
        alive = np.flatnonzero(self._evidence.any(axis=1))
        self._drop_rows(int(alive[0]) - 1 if len(alive) else height)

    def _instances(self, foreground: Foreground, occupied: Runs | None) -> LabelledRuns:
        parameters = self.parameters
        return find_instances(
            self._energy,
            foreground,
            parameters.minimum_marker_area,
            parameters.minimum_core_area,
            parameters.maximum_hole_area,
            occupied,
        )

    def _settle(self, foreground: Foreground, occupied: Runs | None) -> None:
        """Takes the nuclei far above the last known row from components that have been open for too long."""
        starts, ends, labels = self._instances(foreground, occupied)
        rows = starts // foreground.width - 1
        count = labels.max() + 1
        last_row = np.zeros(count, dtype=np.int64)
        last_row[labels] = rows
        first_row = np.zeros(count, dtype=np.int64)
        first_row[labels[::-1]] = rows[::-1]
        height = self._known - self._top
        settled = (last_row < height - self.settled_rows) | (first_row < height - self.open_rows)
        kept = np.flatnonzero(settled[labels])
        self._keep(LabelledRuns(starts[kept], ends[kept], labels[kept]))
        self._forget(Runs(starts[kept], ends[kept]))

    def _keep(self, instances: LabelledRuns) -> None:
        """Measures instances and paints those whose score is high enough."""
        parameters = self.parameters
        nuclei = as_float32(self._nuclei[: self._known - self._top])
        runs = large_instances(instances, parameters.minimum_area, (len(nuclei), nuclei.shape[1]))
        measures = score_measures(runs, nuclei, self._energy, parameters.nuclei_threshold)
        scores = parameters.score_weights.scores(measures)
        kept = np.flatnonzero(scores >= parameters.minimum_score)
        new_ids = np.zeros(runs.count, dtype=np.int32)
        new_ids[kept] = np.arange(1, len(kept) + 1) + sum(map(len, self._parts))
        self._map[self._top : self._known].reshape(-1)[runs.pixels] = np.repeat(new_ids[runs.index], runs.lengths)

        type_ids, type_shares = np.zeros(runs.count, dtype=np.int64), np.full(runs.count, np.nan)
        all_shares = None
        if self._types is not None:
            type_ids, type_shares, all_shares = elect_types(runs, self._type_maps(len(nuclei)))
        everything = DecodedNuclei(
            instance_map=self._map,
            type_ids=type_ids,
            type_probabilities=type_shares,
            scores=scores,
            boxes=runs.boxes(self._top),
            centroids=runs.centroids(self._top),
            areas=runs.areas.astype(np.int64),
            measures=measures,
            probabilities=all_shares,
        )
        self._parts.append(everything.take(kept, self._map))
        self._first_pixels.append(runs.starts[runs.first_runs[kept]] + self._top * self._evidence.shape[1])

    def _type_maps(self, rows: int) -> Iterator[np.ndarray]:
        """The first rows of the maps of types 1..T, each converted when it is needed."""
        for values in () if self._types is None else self._types[1:]:
            values = as_float32(values[:rows])
            _require_finite(values, "type_probabilities")
            yield values

    def _forget(self, runs: Runs) -> None:
        """Marks runs as decoded: no longer foreground, but not background to be filled either."""
        pixels = expand_runs(runs.starts, runs.ends - runs.starts)
        self._evidence.reshape(-1)[pixels] = 0
        if self._decoded is None:
            self._decoded = np.zeros(self._evidence.shape, dtype=bool)
        self._decoded.reshape(-1)[pixels] = True

    def _drop_rows(self, count: int) -> None:
        """Releases the first `count` known rows."""
        if count == 0:
            return
        self._top += count
        # Copies, so that the memory of the dropped rows is freed.
        self._nuclei = self._nuclei[count:].copy()
        if self._types is not None:
            self._types = self._types[:, count:].copy()
        self._energy, self._evidence = self._energy[count:].copy(), self._evidence[count:].copy()
        self._energy[0] = self._evidence[0] = 0
        if self._decoded is not None:
            self._decoded = self._decoded[count:].copy()
            self._decoded[0] = 0


def _append(rows: np.ndarray, further: np.ndarray, border: int = 0) -> np.ndarray:
    """Rows (..., n, W) and further rows beneath them, both with `border` rows around them that are zero."""
    count = rows.shape[-2]
    if count == 2 * border:
        return further
    return np.concatenate([rows[..., : count - border, :], further[..., border:, :]], axis=-2)


def _require_finite(values: np.ndarray, name: str) -> None:
    flat = values.reshape(-1)
    # A sum of squares costs less than a test of each value, and is finite only if they all are.
    if not np.isfinite(flat @ flat) and not np.isfinite(flat).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(flat))} values that are not finite")
