"""From the model's maps to nuclei: instances, types and measures, without any per-tile rescaling.

Every threshold is absolute and every clean-up bounded in reach, so a nucleus decodes the same whatever lies elsewhere
on the tile. The method is this project's own: foreground components are split where the boundary map and the jumps of
the distance maps leave several markers, and each pixel goes to the marker to which the boundary energy descends.
"""

from dataclasses import asdict, dataclass, fields

import numpy as np

from .runs_cfsam import expand_runs, find_holes, find_runs, label_runs, merge_pixels, sum_over_runs

# Half-width in pixels of the window in which a jump of a distance map is measured.
JUMP_REACH = 2
# Label of pixels that are not to be divided among markers.
OUTSIDE = -1
# Bits of the float32 infinity.
HIGHEST = 0x7F800000
# Longest descent in pixels to a marker; what lies farther is assigned by distance.
DESCENT_REACH = 64
# Rows that are handled at once where maps are combined.
BLOCK_ROWS = 64


@dataclass(frozen=True)
class DecodingParameters:
    """Thresholds of decoding, all absolute: none depends on what else the tile shows.

    Args:
        nuclei_threshold: a pixel is foreground where the nuclei probability reaches this; in (0, 1).
        marker_threshold: a foreground pixel belongs to a marker where its nuclei probability exceeds the boundary
            energy (`boundary_weight * boundary + jump_weight * jump`) by this; in (0, 1).
        core_threshold: a marker in which several cores remain at this higher threshold is replaced by them; in (0, 1).
            So nuclei between which the boundary is faint come apart without small or faint nuclei losing their marker.
        boundary_weight: weight of the boundary probability in the boundary energy; at least 0.
        jump_weight: weight of the distance maps' jump (0 inside a nucleus, 1 for the full fall from 1 to -1 between
            two touching nuclei) in the boundary energy; at least 0.
        lone_jump_weight: the same where there is no boundary map; at least 0.
        minimum_marker_area: markers of fewer pixels are ignored.
        minimum_core_area: cores of fewer pixels are ignored.
        minimum_area: nuclei of fewer pixels are dropped.
        maximum_hole_area: a nucleus's holes of at most so many pixels are filled, unless something lies inside them;
            larger ones are kept, and so are gaps between several nuclei.
    """

    nuclei_threshold: float = 0.5
    marker_threshold: float = 0.5
    core_threshold: float = 0.8
    boundary_weight: float = 1.0
    jump_weight: float = 1.0
    lone_jump_weight: float = 3.0
    minimum_marker_area: int = 5
    minimum_core_area: int = 40
    minimum_area: int = 10
    maximum_hole_area: int = 100

    def __post_init__(self):
        for name in ("nuclei_threshold", "marker_threshold", "core_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie strictly between 0 and 1")
        for name in ("boundary_weight", "jump_weight", "lone_jump_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or a positive number")
        for name in ("minimum_marker_area", "minimum_core_area", "minimum_area", "maximum_hole_area"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of pixels, 0 or more")

    @property
    def halo(self) -> int:
        """Pixels around a foreground component on which its decoding may depend.

        A crop that holds the component and so many pixels on each side of it (or ends with the image) decodes it as
        the whole image does, up to the id.
        """
        return JUMP_REACH

    def to_dict(self) -> dict:
        """Plain dictionary for a processor's configuration; `DecodingParameters(**d)` restores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DecodingParameters":
        """The inverse of `to_dict`; a name that is not a parameter raises ValueError."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown decoding parameters {unknown}: the known ones are {known}")
        return cls(**values)


@dataclass
class DecodedNuclei:
    """N nuclei of one image; row i of each array describes the nucleus with id i + 1.

    Args:
        instance_map: (H, W) int32, 0 is background; each id is one 4-connected region. Ids follow the raster order of
            the nuclei's first pixels.
        type_ids: (N,) int64, 1..T; 0 where the maps carry no types.
        type_probabilities: (N,) float64, share of the chosen type in the summed probabilities of all types
            (background left out); NaN without types.
        scores: (N,) float64, mean nuclei probability inside the nucleus.
        boxes: (N, 4) int64, half-open x0, y0, x1, y1 in pixels.
        centroids: (N, 2) float64, x and y, where pixel (column i, row j) has its centre at (i + .5, j + .5).
        areas: (N,) int64, pixels.
    """

    instance_map: np.ndarray
    type_ids: np.ndarray
    type_probabilities: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    centroids: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.areas)


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
            to [-1, 1]; values outside the nuclei do not matter much.
        type_probabilities: (T + 1, H, W) with the background in channel 0, or None.
        boundary_probability: (H, W), probability that a pixel touches another label, or None.
        parameters: thresholds.

    Raises:
        ValueError: a map has the wrong shape, or holds a value that is not finite.
    """
    nuclei = _checked(nuclei_probability, "nuclei_probability", None)
    shape = nuclei.shape
    hv_maps = _checked(hv_maps, "hv_maps", (2, *shape))
    if boundary_probability is not None:
        boundary_probability = _checked(boundary_probability, "boundary_probability", shape)
    if type_probabilities is not None:
        type_count = len(type_probabilities) if np.ndim(type_probabilities) == 3 else 2
        type_probabilities = _checked(type_probabilities, "type_probabilities", (max(type_count, 2), *shape))
    if nuclei.size == 0:
        raise ValueError(f"nuclei_probability has shape {shape}: an image needs at least one pixel")

    energy, evidence = _evidence(nuclei, hv_maps, boundary_probability, parameters)
    starts, ends, labels = _instances(energy, evidence, parameters)
    starts, ends, ids, count = _drop_small(starts, ends, labels, parameters.minimum_area)
    return _measure(starts, ends, ids, count, nuclei, type_probabilities)


def _checked(values: np.ndarray, name: str, shape: tuple | None) -> np.ndarray:
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 2 if shape is None else values.shape != shape:
        wanted = "(H, W)" if shape is None else f"{shape}, to fit nuclei_probability"
        raise ValueError(f"{name} has shape {values.shape}: it must be {wanted}")
    # A sum of squares costs far less than a look at each value, and is finite only if they all are.
    flat = values.reshape(-1)
    if not np.isfinite(flat @ flat) and not np.isfinite(flat).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not finite")
    return values


def _evidence(nuclei, hv_maps, boundary_probability, parameters):
    """Boundary energy float32 and evidence uint8, both (H + 2, W + 2) with a border of zeros.

    The energy is low inside a nucleus and high between two: the boundary map plus the distance maps' falls. Along its
    own axis a distance map rises inside a nucleus and falls from 1 to -1 (taken as 1 here) where two nuclei touch. The
    evidence is 0 in the background, 1 in the foreground, 2 in markers and 3 in cores.
    """
    height, width = nuclei.shape
    energy = np.zeros((height + 2, width + 2), dtype=np.float32)
    evidence = np.zeros((height + 2, width + 2), dtype=np.uint8)
    alone = boundary_probability is None
    jump_weight = np.float32((parameters.lone_jump_weight if alone else parameters.jump_weight) / 2)
    boundary_weight = np.float32(parameters.boundary_weight)
    nuclei_threshold = np.float32(parameters.nuclei_threshold)
    thresholds = np.float32(parameters.marker_threshold), np.float32(parameters.core_threshold)
    # Rows are taken in blocks that stay in the processor's cache.
    for top in range(0, height, BLOCK_ROWS):
        rows = slice(top, min(top + BLOCK_ROWS, height))
        inside = nuclei[rows] >= nuclei_threshold
        if not inside.any():
            continue
        padded = slice(rows.start + 1, rows.stop + 1), slice(1, -1)
        values = _falls(hv_maps, rows)
        values *= jump_weight
        if not alone:
            values += np.maximum(boundary_probability[rows], 0) * boundary_weight
        energy[padded] = np.abs(values)
        np.subtract(nuclei[rows], values, out=values)
        level = inside.view(np.uint8)
        for threshold in thresholds:
            level = level + (inside & (values >= threshold))
        evidence[padded] = level
    return energy, evidence


def _falls(hv_maps, rows) -> np.ndarray:
    """(rows, W) float32: how far the two distance maps fall along their own axes, within `JUMP_REACH` to each side.

    Beyond the image's border the maps go on as they end.
    """
    height, width = hv_maps.shape[1:]
    reach = JUMP_REACH
    horizontal, vertical = hv_maps[0, rows], hv_maps[1]
    falls = np.empty(horizontal.shape, dtype=np.float32)
    if width > 2 * reach:
        np.subtract(horizontal[:, : -2 * reach], horizontal[:, 2 * reach :], out=falls[:, reach:-reach])
    for column in range(min(reach, width)):
        opposite = width - 1 - column
        falls[:, column] = horizontal[:, 0] - horizontal[:, min(column + reach, width - 1)]
        falls[:, opposite] = horizontal[:, max(opposite - reach, 0)] - horizontal[:, -1]
    np.maximum(falls, 0, out=falls)
    if rows.start >= reach and rows.stop + reach <= height:
        above, below = (vertical[rows.start + step : rows.stop + step] for step in (-reach, reach))
    else:
        lines = np.arange(rows.start, rows.stop)
        above, below = vertical[(lines - reach).clip(0)], vertical[(lines + reach).clip(max=height - 1)]
    vertical_falls = above - below
    falls += np.maximum(vertical_falls, 0, out=vertical_falls)
    return falls


def _instances(energy, evidence, parameters):
    """Starts, ends and labels of the instances' runs: components, or their parts where they hold several markers."""
    width = evidence.shape[1]
    (starts, ends), *marker_runs = find_runs(evidence.reshape(-1), 3)
    if len(starts) == 0:
        return starts, ends, starts
    component_count, components, touches = label_runs(starts, ends, width)
    seeds = _seeds(*marker_runs, width, parameters)
    instances = _divide(starts, ends, components, component_count, energy, *seeds)
    hole_count = touches.sum() - len(starts) + component_count
    if hole_count == 0 or parameters.maximum_hole_area == 0:
        return instances
    return _fill_holes(*instances, *find_holes(starts, ends, width, parameters.maximum_hole_area), width)


def _seeds(markers, cores, width, parameters):
    """Starts, ends and labels 0.. of the runs of the markers, those with several cores replaced by these."""
    starts, ends, labels, count = _large_regions(*markers, width, parameters.minimum_marker_area)
    core_starts, core_ends, core_labels, core_count = _large_regions(*cores, width, parameters.minimum_core_area)
    if len(core_starts) == 0 or len(starts) == 0:
        return starts, ends, labels
    run = np.searchsorted(starts, core_starts, side="right") - 1
    marker_of_core = np.full(core_count, count)
    # A core may lie in a marker that is too small itself.
    inside = core_starts < ends[run]
    marker_of_core[core_labels[inside]] = labels[run[inside]]
    several = np.bincount(marker_of_core, minlength=count + 1) > 1
    several[count] = False
    kept, replacing = ~several[labels], several[marker_of_core[core_labels]]
    return (
        np.concatenate([starts[kept], core_starts[replacing]]),
        np.concatenate([ends[kept], core_ends[replacing]]),
        np.concatenate([labels[kept], core_labels[replacing] + count]),
    )


def _large_regions(starts, ends, width, minimum_area):
    """Runs of the 4-connected regions of at least `minimum_area` pixels, their labels, and a bound of the labels."""
    if len(starts) == 0:
        return starts, ends, starts, 0
    count, labels, _ = label_runs(starts, ends, width)
    large = np.flatnonzero((np.bincount(labels, ends - starts) >= minimum_area)[labels])
    return starts[large], ends[large], labels[large], count


def _divide(starts, ends, components, component_count, energy, seed_starts, seed_ends, seed_labels):
    """Runs of the components, those with several seeds divided among these."""
    if len(seed_starts) == 0:
        return starts, ends, components
    width = energy.shape[1]
    seed_components = components[np.searchsorted(starts, seed_starts, side="right") - 1]
    component_of_seed = np.full(seed_labels.max() + 1, component_count)
    component_of_seed[seed_labels] = seed_components
    several = np.bincount(component_of_seed, minlength=component_count + 1) > 1
    several[component_count] = False
    divided = several[components]
    if not divided.any():
        return starts, ends, components

    pixels = expand_runs(starts[divided], (ends - starts)[divided])
    seeding = np.flatnonzero(several[seed_components])
    seed_lengths = (seed_ends - seed_starts)[seeding]
    labels = np.full(energy.size, OUTSIDE, dtype=np.int32)
    labels[pixels] = 0
    labels[expand_runs(seed_starts[seeding], seed_lengths)] = np.repeat(seed_labels[seeding] + 1, seed_lengths)
    _descend(labels, pixels, energy.reshape(-1), width)
    _grow(labels, pixels, width)

    part_starts, part_ends, part_labels = merge_pixels(pixels, labels[pixels])
    # Parts are numbered after the components.
    part_labels += component_count - 1
    return _join((starts[~divided], ends[~divided], components[~divided]), (part_starts, part_ends, part_labels))


def _join(first, second):
    """One ascending list of runs (starts, ends, labels) from two."""
    starts, ends, labels = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order], labels[order]


def _fill_holes(starts, ends, labels, hole_starts, hole_ends, holes, width):
    """Runs of the instances with those holes filled that only one instance touches: others are gaps between nuclei."""
    if len(holes) == 0:
        return starts, ends, labels
    lengths = hole_ends - hole_starts
    pixels = expand_runs(hole_starts, lengths)
    around = np.concatenate([hole_starts - 1, hole_ends, pixels - width, pixels + width])
    touched = np.concatenate([holes, holes, np.repeat(holes, lengths), np.repeat(holes, lengths)])
    run = np.searchsorted(starts, around, side="right") - 1
    instance = np.where(around < ends[run], labels[run], OUTSIDE)
    touched, instance = touched[instance != OUTSIDE], instance[instance != OUTSIDE]
    owner = np.full(holes.max() + 1, OUTSIDE)
    owner[touched] = instance
    shared = np.zeros(len(owner), dtype=bool)
    shared[touched[owner[touched] != instance]] = True
    filled = ~shared[holes]
    return _join((starts, ends, labels), (hole_starts[filled], hole_ends[filled], owner[holes[filled]]))


def _descend(labels, pixels, energy, width) -> None:
    """Gives pixels labelled 0, in place, the label of the marker to which the steepest descent of the energy leads.

    This is a watershed without a queue: each pixel looks at its four neighbours only, so nothing depends on an order
    of visits, and since it takes its label over from one of them, regions stay 4-connected. Pixels that end in a pit
    without a marker, or after more than `DESCENT_REACH` steps, keep 0.
    """
    pixels = pixels[np.flatnonzero(labels[pixels] == 0)]
    # Floats whose sign is clear order like their bits. The lowest three bits make room for the direction, which
    # breaks ties; a pixel as low as its neighbours stays where it is.
    heights = energy.view(np.int32)
    steps = (0, 1, -1, width, -width)
    lowest = heights[pixels] & ~7
    for direction, step in enumerate(steps[1:], start=1):
        neighbours = pixels + step
        # The sign of OUTSIDE fills the exponent: higher than any energy.
        forbidden = labels[neighbours] >> 31 & HIGHEST
        np.minimum(lowest, heights[neighbours] & ~7 | direction | forbidden, out=lowest)
    target = pixels + np.array([*steps, 0, 0, 0])[lowest & 7]
    for _ in range(DESCENT_REACH):
        reached = labels[target]
        arrived = np.flatnonzero(reached > 0)
        if len(arrived) == 0:
            break
        labels[pixels[arrived]] = reached[arrived]
        waiting = np.flatnonzero(reached == 0)
        pixels, target = pixels[waiting], target[waiting]


def _grow(labels, pixels, width) -> None:
    """Gives the remaining pixels labelled 0, in place, the nearest label, over paths of 4-neighbours inside `pixels`.

    Ties go by direction, never by position or id.
    """
    steps = (1, -1, width, -width)
    free = pixels[labels[pixels] == 0]
    front = np.concatenate([free + step for step in steps])
    front = front[labels[front] > 0]
    while len(front):
        reached = []
        front_labels = labels[front]
        for step in steps:
            neighbours = front + step
            open_ones = np.flatnonzero(labels[neighbours] == 0)
            neighbours = neighbours[open_ones]
            labels[neighbours] = front_labels[open_ones]
            reached.append(neighbours)
        front = np.concatenate(reached)


def _drop_small(starts, ends, labels, minimum_area):
    """Runs of the instances that are large enough, labelled 1..N in the order of their first pixels, and N."""
    lengths = ends - starts
    areas = np.bincount(labels, lengths) if len(labels) else np.zeros(1)
    kept = areas[labels] >= minimum_area
    starts, ends, labels = starts[kept], ends[kept], labels[kept]
    first_run = np.full(len(areas), -1, dtype=np.int64)
    first_run[labels[::-1]] = np.arange(len(labels))[::-1]
    present = np.flatnonzero(first_run >= 0)
    ids = np.zeros(len(areas), dtype=np.int64)
    ids[present[np.argsort(first_run[present])]] = np.arange(1, len(present) + 1)
    return starts, ends, ids[labels], len(present)


def _measure(starts, ends, ids, count, nuclei, type_probabilities) -> DecodedNuclei:
    """Paints the instance map and sums everything over runs, then over instances."""
    height, width = nuclei.shape
    rows, columns = np.divmod(starts, width + 2)
    rows -= 1
    columns -= 1
    lengths = ends - starts
    pixels = expand_runs(rows * width + columns, lengths)
    instance_map = np.zeros(height * width, dtype=np.int32)
    instance_map[pixels] = np.repeat(ids.astype(np.int32), lengths)

    index = ids - 1
    areas = np.bincount(index, lengths, minlength=count)
    x = np.bincount(index, lengths * (columns + lengths / 2), minlength=count) / areas
    y = np.bincount(index, lengths * (rows + 0.5), minlength=count) / areas
    boxes = np.empty((count, 4), dtype=np.int64)
    boxes[:, 0] = width
    boxes[:, 2] = 0
    np.minimum.at(boxes[:, 0], index, columns)
    np.maximum.at(boxes[:, 2], index, columns + lengths)
    # Runs come in raster order, and of several assignments to one element the last one stays.
    boxes[index[::-1], 1] = rows[::-1]
    boxes[index, 3] = rows + 1

    maps = [nuclei] if type_probabilities is None else [nuclei, *type_probabilities[1:]]
    sums = sum_over_runs([values.reshape(-1) for values in maps], pixels, lengths)
    sums = np.stack([np.bincount(index, values, minlength=count) for values in sums])  # (1 + T, N)
    scores = sums[0] / areas
    type_ids = np.zeros(count, dtype=np.int64)
    type_shares = np.full(count, np.nan)
    if type_probabilities is not None:
        votes = sums[1:]
        best = np.argmax(votes, axis=0)
        type_ids = best + 1
        total = votes.sum(axis=0)
        # Where no type has any probability they share it equally.
        votes, total = np.where(total > 0, votes, 1), np.where(total > 0, total, len(votes))
        type_shares = votes[best, np.arange(count)] / total
    return DecodedNuclei(
        instance_map=instance_map.reshape(height, width),
        type_ids=type_ids,
        type_probabilities=type_shares,
        scores=scores,
        boxes=boxes,
        centroids=np.stack([x, y], axis=1),
        areas=areas.astype(np.int64),
    )
