"""From maps to instances: which pixels belong together, by this project's own method.

Foreground components are divided where the boundary map and the jumps of the distance maps leave several markers in
one, and each pixel goes to the marker to which the boundary energy descends. Nothing is rescaled by the tile's content
and nothing reaches farther than a component and `JUMP_REACH` pixels around it. Instances are lists of runs (see
`spans.py`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from .spans import LabelledRuns, Runs, expand_runs, find_holes, find_runs, label_runs, merge_pixels

# Half-width in pixels of the window in which a jump of a distance map is measured.
JUMP_REACH = 2
# Label of pixels that are not to be divided among markers.
OUTSIDE = -1
# Bits of the float32 infinity.
HIGHEST = 0x7F800000
# Longest descent in pixels to a marker; pixels farther away are assigned by distance.
DESCENT_REACH = 64
# Rows processed at once where maps are combined.
BLOCK_ROWS = 64


class EvidenceThresholds(NamedTuple):
    """Nuclei probability from which a pixel is foreground, and its excess over the energy in markers and cores."""

    foreground: float
    marker: float
    core: float


def boundary_evidence(
    nuclei: np.ndarray,
    hv_maps: np.ndarray,
    boundary_probability: np.ndarray | None,
    thresholds: EvidenceThresholds,
    boundary_weight: float,
    jump_weight: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Boundary energy float32 and evidence uint8, both (H + 2, W + 2) with a border of zeros.

    The energy is low inside a nucleus and high between two: the boundary map plus the distance maps' falls. Along its
    own axis a distance map rises inside a nucleus and falls from 1 to -1 (counted as 1 here) where two nuclei touch.
    The evidence is 0 in the background, 1 in the foreground, 2 in markers and 3 in cores.

    Args:
        nuclei: (H, W) float32, probability of a nucleus.
        hv_maps: (2, H, W) float32, horizontal and vertical distance.
        boundary_probability: (H, W) float32, or None.
        thresholds: of the evidence.
        boundary_weight, jump_weight: weights in the energy of the boundary map and of the falls.
    """
    height, width = nuclei.shape
    energy = np.zeros((height + 2, width + 2), dtype=np.float32)
    evidence = np.zeros((height + 2, width + 2), dtype=np.uint8)
    # A fall from 1 to -1 counts as 1.
    weight_of_falls = np.float32(jump_weight / 2)
    weight_of_boundary = np.float32(boundary_weight)
    foreground, *higher = (np.float32(threshold) for threshold in thresholds)
    # Blocks of rows that stay in the processor's cache.
    for top in range(0, height, BLOCK_ROWS):
        rows = slice(top, min(top + BLOCK_ROWS, height))
        inside = nuclei[rows] >= foreground
        if not inside.any():
            continue
        padded = slice(rows.start + 1, rows.stop + 1), slice(1, -1)
        values = _falls(hv_maps, rows)
        values *= weight_of_falls
        if boundary_probability is not None:
            values += boundary_probability[rows] * weight_of_boundary
        # A weight of -0.0 must not leave a signed zero either.
        values = _positive_part(values)
        energy[padded] = values
        np.subtract(nuclei[rows], values, out=values)
        level = inside.view(np.uint8)
        for threshold in higher:
            level = level + (inside & (values >= threshold))
        evidence[padded] = level
    return energy, evidence


def _falls(hv_maps: np.ndarray, rows: slice) -> np.ndarray:
    """(rows, W) float32: how far the two distance maps fall along their own axes, within `JUMP_REACH` to each side.

    Beyond the image's border the maps keep their last value.
    """
    height, width = hv_maps.shape[1:]
    reach = JUMP_REACH
    horizontal, vertical = hv_maps[0, rows], hv_maps[1]
    falls = np.empty(horizontal.shape, dtype=np.float32)
    if width > 2 * reach:
        # In one piece, four times as fast as row by row; the ends of the rows are corrected afterwards.
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
    """Negative values of a contiguous map set to 0, in place. It takes a third of the time of `np.maximum`."""
    cv2.threshold(values, 0, 0, cv2.THRESH_TOZERO, dst=values)
    return values


@dataclass(frozen=True)
class Foreground:
    """The runs of an evidence map, with all indices flat in its (H + 2, W + 2) pixels.

    Attributes:
        starts, ends, components: (R,) runs of the foreground and the 4-connected component of each, 0 to `count` - 1.
        count: number of components.
        has_holes: whether any component has a hole.
        markers, cores: runs of the markers and cores.
        width: padded width.
    """

    starts: np.ndarray
    ends: np.ndarray
    components: np.ndarray
    count: int
    has_holes: bool
    markers: Runs
    cores: Runs
    width: int

    @property
    def runs(self) -> Runs:
        """The runs without their components."""
        return Runs(self.starts, self.ends)

    def select(self, chosen: np.ndarray) -> "Foreground":
        """Only the components for which `chosen` (count,) is true, under their numbers."""

        def within(runs: Runs) -> Runs:
            starts, ends = runs
            kept = np.flatnonzero(chosen[self.components[np.searchsorted(self.starts, starts, side="right") - 1]])
            return Runs(starts[kept], ends[kept])

        kept = np.flatnonzero(chosen[self.components])
        return replace(
            self,
            starts=self.starts[kept],
            ends=self.ends[kept],
            components=self.components[kept],
            markers=within(self.markers),
            cores=within(self.cores),
        )


def find_foreground(evidence: np.ndarray) -> Foreground:
    """The runs and components of an evidence map (H + 2, W + 2)."""
    width = evidence.shape[1]
    (starts, ends), markers, cores = find_runs(evidence.reshape(-1), 3)
    if len(starts) == 0:
        return Foreground(starts, ends, starts, 0, False, markers, cores, width)
    count, components, touches = label_runs(starts, ends, width)
    has_holes = bool(touches.sum() - len(starts) + count)
    return Foreground(starts, ends, components, count, has_holes, markers, cores, width)


def find_instances(
    energy: np.ndarray,
    foreground: Foreground,
    minimum_marker_area: int,
    minimum_core_area: int,
    maximum_hole_area: int,
    occupied: Runs | None = None,
) -> LabelledRuns:
    """Runs of the instances: of the components, or of their parts where they hold several markers.

    Args:
        energy: (H + 2, W + 2) float32, as `boundary_evidence` returns it.
        foreground: what to divide into instances.
        minimum_marker_area, minimum_core_area: smaller markers and cores, in pixels, are ignored.
        maximum_hole_area: holes of at most so many pixels are filled where one instance surrounds them.
        occupied: runs of everything that is not background, where `foreground` is a part of it: nothing that lies in a
            hole is painted over. Default: the runs of `foreground`.
    """
    starts, ends, width = foreground.starts, foreground.ends, foreground.width
    if len(starts) == 0:
        return LabelledRuns(starts, ends, starts)
    seeds = _seeds(foreground.markers, foreground.cores, width, minimum_marker_area, minimum_core_area)
    instances = _divide(foreground, energy, seeds)
    if not foreground.has_holes or maximum_hole_area == 0:
        return instances
    regions = foreground.components if occupied is None else None
    holes = find_holes(*(occupied or foreground.runs), width, maximum_hole_area, regions)
    return _fill_holes(instances, holes, width)


def _seeds(markers: Runs, cores: Runs, width: int, minimum_marker_area: int, minimum_core_area: int) -> LabelledRuns:
    """Runs of the markers, labelled from 0, those with several cores replaced by these."""
    (starts, ends, labels), count = _large_regions(markers, width, minimum_marker_area)
    (core_starts, core_ends, core_labels), core_count = _large_regions(cores, width, minimum_core_area)
    if len(core_starts) == 0 or len(starts) == 0:
        return LabelledRuns(starts, ends, labels)
    run = np.searchsorted(starts, core_starts, side="right") - 1
    marker_of_core = np.full(core_count, count)
    # A core may lie in a marker that is too small itself.
    inside = (run >= 0) & (core_starts < ends[run])
    marker_of_core[core_labels[inside]] = labels[run[inside]]
    several = np.bincount(marker_of_core, minlength=count + 1) > 1
    several[count] = False
    kept, replacing = ~several[labels], several[marker_of_core[core_labels]]
    return LabelledRuns(
        np.concatenate([starts[kept], core_starts[replacing]]),
        np.concatenate([ends[kept], core_ends[replacing]]),
        np.concatenate([labels[kept], core_labels[replacing] + count]),
    )


def _large_regions(runs: Runs, width: int, minimum_area: int) -> tuple[LabelledRuns, int]:
    """Runs of the 4-connected regions of at least `minimum_area` pixels, and an upper bound of their labels."""
    starts, ends = runs
    if len(starts) == 0:
        return LabelledRuns(starts, ends, starts), 0
    count, labels, _ = label_runs(starts, ends, width)
    large = np.flatnonzero((np.bincount(labels, ends - starts) >= minimum_area)[labels])
    return LabelledRuns(starts[large], ends[large], labels[large]), count


def _divide(foreground: Foreground, energy: np.ndarray, seeds: LabelledRuns) -> LabelledRuns:
    """Runs of the components, those with several seeds divided among these."""
    starts, ends, components = foreground.starts, foreground.ends, foreground.components
    component_count, width = foreground.count, foreground.width
    seed_starts, seed_ends, seed_labels = seeds
    if len(seed_starts) == 0:
        return LabelledRuns(starts, ends, components)
    seed_components = components[np.searchsorted(starts, seed_starts, side="right") - 1]
    component_of_seed = np.full(seed_labels.max() + 1, component_count)
    component_of_seed[seed_labels] = seed_components
    several = np.bincount(component_of_seed, minlength=component_count + 1) > 1
    several[component_count] = False
    divided = several[components]
    if not divided.any():
        return LabelledRuns(starts, ends, components)

    pixels = expand_runs(starts[divided], (ends - starts)[divided])
    seeding = np.flatnonzero(several[seed_components])
    seed_lengths = (seed_ends - seed_starts)[seeding]
    labels = np.full(energy.size, OUTSIDE, dtype=np.int32)
    labels[pixels] = 0
    labels[expand_runs(seed_starts[seeding], seed_lengths)] = np.repeat(seed_labels[seeding] + 1, seed_lengths)
    _descend(labels, pixels, energy.reshape(-1), width)
    _grow(labels, pixels, width)

    parts = merge_pixels(pixels, labels[pixels])
    # Parts are numbered after the components.
    parts.labels[:] += component_count - 1
    return _join(LabelledRuns(starts[~divided], ends[~divided], components[~divided]), parts)


def _join(first: LabelledRuns, second: LabelledRuns) -> LabelledRuns:
    """One ascending list of runs from two."""
    starts, ends, labels = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    order = np.argsort(starts, kind="stable")
    return LabelledRuns(starts[order], ends[order], labels[order])


def _fill_holes(instances: LabelledRuns, hole_runs: LabelledRuns, width: int) -> LabelledRuns:
    """The instances with the holes filled that only one of them touches: others are gaps between nuclei."""
    starts, ends, labels = instances
    hole_starts, hole_ends, holes = hole_runs
    if len(holes) == 0:
        return instances
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
    # A hole without an owner lies in a component that is not among these.
    filled = ~shared[holes] & (owner[holes] != OUTSIDE)
    return _join(instances, LabelledRuns(hole_starts[filled], hole_ends[filled], owner[holes[filled]]))


def _descend(labels: np.ndarray, pixels: np.ndarray, energy: np.ndarray, width: int) -> None:
    """Gives pixels labelled 0, in place, the label of the marker to which the steepest descent of the energy leads.

    This is a watershed without a queue: each pixel depends on its four neighbours only, so the order of visits does
    not matter, and since it takes its label from one of them, regions stay 4-connected. Pixels that end in a pit
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


def _grow(labels: np.ndarray, pixels: np.ndarray, width: int) -> None:
    """Gives the remaining pixels labelled 0, in place, the nearest label, over paths of 4-neighbours inside `pixels`.

    Ties are broken by direction, never by position or id.
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
