"""From maps to instances: which pixels belong together, by this project's own method.

Foreground components are divided where the boundary map and the jumps of the distance maps leave several markers in
one, and each pixel goes to the marker to which the boundary energy descends. Nothing is rescaled by the tile's content
and nothing reaches farther than a component and `JUMP_REACH` pixels around it. Instances are lists of runs (see
`spans.py`); `parameters` are `DecodingParameters`.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .spans import expand_runs, find_holes, find_runs, label_runs, merge_pixels

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


def boundary_evidence(nuclei, hv_maps, boundary_probability, parameters):
    """Boundary energy float32 and evidence uint8, both (H + 2, W + 2) with a border of zeros.

    The energy is low inside a nucleus and high between two: the boundary map plus the distance maps' falls. Along its
    own axis a distance map rises inside a nucleus and falls from 1 to -1 (taken as 1 here) where two nuclei touch. The
    evidence is 0 in the background, 1 in the foreground, 2 in markers and 3 in cores.
    """
    height, width = nuclei.shape
    energy = np.zeros((height + 2, width + 2), dtype=np.float32)
    evidence = np.zeros((height + 2, width + 2), dtype=np.uint8)
    alone = boundary_probability is None
    # A fall from 1 to -1 counts as 1.
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
            values += boundary_probability[rows] * boundary_weight
        # Also of a weight of -0.0 nothing is left that has a sign.
        values = _positive_part(values)
        energy[padded] = values
        np.subtract(nuclei[rows], values, out=values)
        level = inside.view(np.uint8)
        for threshold in thresholds:
            level = level + (inside & (values >= threshold))
        evidence[padded] = level
    return energy, evidence


def _falls(hv_maps, rows) -> np.ndarray:
    """(rows, W) float32: what the two distance maps fall along their own axes, within `JUMP_REACH` to each side.

    Beyond the image's border the maps go on as they end.
    """
    height, width = hv_maps.shape[1:]
    reach = JUMP_REACH
    horizontal, vertical = hv_maps[0, rows], hv_maps[1]
    falls = np.empty(horizontal.shape, dtype=np.float32)
    if width > 2 * reach:
        # In one piece, four times as fast as row by row; where it runs over the rows' ends the border comes after.
        flat = horizontal.reshape(-1)
        np.subtract(flat[: -2 * reach], flat[2 * reach :], out=falls.reshape(-1)[reach:-reach])
        np.subtract(horizontal[:, :1], horizontal[:, reach : 2 * reach], out=falls[:, :reach])
        np.subtract(horizontal[:, -2 * reach : -reach], horizontal[:, -1:], out=falls[:, -reach:])
    else:
        columns = np.arange(width)
        left, right = (columns - reach).clip(0), (columns + reach).clip(max=width - 1)
        np.subtract(horizontal[:, left], horizontal[:, right], out=falls)
    falls = _positive_part(falls)
    if rows.start >= reach and rows.stop + reach <= height:
        above, below = (vertical[rows.start + step : rows.stop + step] for step in (-reach, reach))
    else:
        lines = np.arange(rows.start, rows.stop)
        above, below = vertical[(lines - reach).clip(0)], vertical[(lines + reach).clip(max=height - 1)]
    vertical_falls = np.empty(horizontal.shape, dtype=np.float32)
    np.subtract(above, below, out=vertical_falls)
    falls += _positive_part(vertical_falls)
    return falls


def _positive_part(values: np.ndarray) -> np.ndarray:
    """What is above 0, in place; contiguous. (In a third of the time of `np.maximum`.)"""
    return cv2.threshold(values, 0, 0, cv2.THRESH_TOZERO, dst=values)[1]


@dataclass(frozen=True)
class Foreground:
    """The runs of an evidence map, with all indices flat in its (H + 2, W + 2) pixels.

    Attributes:
        starts, ends, components: (R,) runs of the foreground and the 4-connected component of each, 0 to `count` - 1.
        count: number of components.
        has_holes: whether any component has a hole.
        markers, cores: starts and ends of the runs of the markers and cores.
        width: padded width.
    """

    starts: np.ndarray
    ends: np.ndarray
    components: np.ndarray
    count: int
    has_holes: bool
    markers: tuple[np.ndarray, np.ndarray]
    cores: tuple[np.ndarray, np.ndarray]
    width: int

    def select(self, chosen: np.ndarray) -> "Foreground":
        """The same with the components alone for which `chosen` (count,) is true; their numbers stay."""

        def within(runs):
            starts, ends = runs
            kept = np.flatnonzero(chosen[self.components[np.searchsorted(self.starts, starts, side="right") - 1]])
            return starts[kept], ends[kept]

        kept = np.flatnonzero(chosen[self.components])
        return replace(
            self,
            starts=self.starts[kept],
            ends=self.ends[kept],
            components=self.components[kept],
            markers=within(self.markers),
            cores=within(self.cores),
        )


def find_foreground(evidence) -> Foreground:
    """The runs and components of an evidence map (H + 2, W + 2)."""
    width = evidence.shape[1]
    (starts, ends), markers, cores = find_runs(evidence.reshape(-1), 3)
    if len(starts) == 0:
        return Foreground(starts, ends, starts, 0, False, markers, cores, width)
    count, components, touches = label_runs(starts, ends, width)
    has_holes = bool(touches.sum() - len(starts) + count)
    return Foreground(starts, ends, components, count, has_holes, markers, cores, width)


def instance_runs(energy, foreground, parameters, background_of=None):
    """Starts, ends and labels of the instances' runs: components, or their parts where they hold several markers.

    Args:
        energy: (H + 2, W + 2) float32, as `boundary_evidence` gives it.
        foreground: what to divide into instances.
        parameters: thresholds.
        background_of: starts and ends of the runs of everything that is no background, where `foreground` is a part of
            it: nothing that lies in a hole is painted over. Default: the runs of `foreground`.
    """
    starts, ends, width = foreground.starts, foreground.ends, foreground.width
    if len(starts) == 0:
        return starts, ends, starts
    seeds = _seeds(*foreground.markers, *foreground.cores, width, parameters)
    instances = _divide(starts, ends, foreground.components, foreground.count, energy, *seeds)
    if not foreground.has_holes or parameters.maximum_hole_area == 0:
        return instances
    occupied = (starts, ends) if background_of is None else background_of
    regions = foreground.components if background_of is None else None
    holes = find_holes(*occupied, width, parameters.maximum_hole_area, regions)
    return _fill_holes(*instances, *holes, width)


def _seeds(marker_starts, marker_ends, core_starts, core_ends, width, parameters):
    """Starts, ends and labels 0.. of the runs of the markers, those with several cores replaced by these."""
    starts, ends, labels, count = _large_regions(marker_starts, marker_ends, width, parameters.minimum_marker_area)
    core_starts, core_ends, core_labels, core_count = _large_regions(
        core_starts, core_ends, width, parameters.minimum_core_area
    )
    if len(core_starts) == 0 or len(starts) == 0:
        return starts, ends, labels
    run = np.searchsorted(starts, core_starts, side="right") - 1
    marker_of_core = np.full(core_count, count)
    # A core may lie in a marker that is too small itself.
    inside = (run >= 0) & (core_starts < ends[run])
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
    instance = np.where((run >= 0) & (around < ends[run]), labels[run], OUTSIDE)
    touched, instance = touched[instance != OUTSIDE], instance[instance != OUTSIDE]
    owner = np.full(holes.max() + 1, OUTSIDE)
    owner[touched] = instance
    shared = np.zeros(len(owner), dtype=bool)
    shared[touched[owner[touched] != instance]] = True
    # A hole without an owner lies in something that is not asked for.
    filled = ~shared[holes] & (owner[holes] != OUTSIDE)
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
