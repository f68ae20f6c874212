"""Decoding and outlines pixel by pixel from their definitions: a slow reference for the fast implementations."""

import numpy as np
from scipy import ndimage

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def literal_instances(nuclei_probability, hv_maps, boundary_probability, parameters, reach=2) -> np.ndarray:
    """The instance map (H, W) as `decode_nuclei` defines it, ids in raster order."""
    height, width = nuclei_probability.shape
    foreground = nuclei_probability >= np.float32(parameters.nuclei_threshold)
    energy = np.zeros((height, width), dtype=np.float32)
    weight = parameters.lone_jump_weight if boundary_probability is None else parameters.jump_weight
    for row, column in np.ndindex(height, width):
        left, right = max(column - reach, 0), min(column + reach, width - 1)
        top, bottom = max(row - reach, 0), min(row + reach, height - 1)
        fall_x = max(hv_maps[0, row, left] - hv_maps[0, row, right], np.float32(0))
        fall_y = max(hv_maps[1, top, column] - hv_maps[1, bottom, column], np.float32(0))
        energy[row, column] = (fall_x + fall_y) * np.float32(weight / 2)
        if boundary_probability is not None:
            energy[row, column] += boundary_probability[row, column] * np.float32(parameters.boundary_weight)
    components, component_count = ndimage.label(foreground)
    evidence = nuclei_probability - energy
    seeds = large_regions(
        foreground & (evidence >= np.float32(parameters.marker_threshold)), parameters.minimum_marker_area
    )
    cores = large_regions(
        foreground & (evidence >= np.float32(parameters.core_threshold)), parameters.minimum_core_area
    )
    for marker in np.unique(seeds[seeds > 0]):
        inside = (seeds == marker) & (cores > 0)
        if len(np.unique(cores[inside])) > 1:
            seeds[seeds == marker] = 0
            seeds[inside] = height * width + cores[inside]
    result = np.zeros((height, width), dtype=int)
    next_label = 1
    for component in range(1, component_count + 1):
        inside = components == component
        if len(np.unique(seeds[inside & (seeds > 0)])) < 2:
            result[inside] = next_label
        else:
            parts = divide(inside, np.where(inside, seeds, 0), energy)
            result[inside] = parts[inside] + next_label
        next_label = result.max() + 1

    background, _ = ndimage.label(np.pad(~foreground, 1, constant_values=True), structure=np.ones((3, 3)))
    for region in range(1, background.max() + 1):
        hole = background == region
        has_island = ndimage.label(~hole)[1] > 1
        if not hole[0].any() and not has_island and hole.sum() <= parameters.maximum_hole_area:
            hole = hole[1:-1, 1:-1]
            owners = np.unique(result[ndimage.binary_dilation(hole) & ~hole])
            if len(owners) == 1:
                result[hole] = owners[0]

    large = np.zeros((height, width), dtype=np.int32)
    for label in dict.fromkeys(result[result > 0].tolist()):
        if (result == label).sum() >= parameters.minimum_area:
            large[result == label] = large.max() + 1
    instances = np.zeros((height, width), dtype=np.int32)
    for label in range(1, large.max(initial=0) + 1):
        measures = literal_measures(large == label, foreground, nuclei_probability, energy)
        if literal_score(measures, parameters.score_weights) >= parameters.minimum_score:
            instances[large == label] = instances.max() + 1
    return instances


def literal_measures(inside, foreground, nuclei_probability, energy) -> dict[str, float]:
    """What the score of a nucleus, a mask (H, W), is made of."""
    rows, columns = np.nonzero(inside)
    mean = min(max(nuclei_probability[inside].mean(dtype=np.float64), 1e-6), 1 - 1e-6)
    energies, touching = [], []
    for row, column in zip(rows, columns, strict=True):
        for beside in (column - 1, column + 1):
            in_image = 0 <= beside < inside.shape[1]
            if not in_image or not inside[row, beside]:
                energies.append(energy[row, column])
                touching.append(in_image and foreground[row, beside])
    covariance = np.cov(columns, rows, bias=True) + np.eye(2) / 12
    return {
        "probability": np.log(mean / (1 - mean)),
        "edge": np.mean(energies),
        "fill": len(rows) / (4 * np.pi * np.sqrt(np.linalg.det(covariance))),
        "touching": np.mean(touching),
        "area": np.log(len(rows)),
    }


def literal_score(measures, weights) -> float:
    exponent = weights.intercept + sum(getattr(weights, name) * value for name, value in measures.items())
    return 1 / (1 + np.exp(-exponent))


def large_regions(mask, minimum_area) -> np.ndarray:
    labels, count = ndimage.label(mask)
    for label in range(1, count + 1):
        if (labels == label).sum() < minimum_area:
            labels[labels == label] = 0
    return labels


def divide(inside, seeds, energy) -> np.ndarray:
    """Each pixel follows its lowest neighbours down to a seed; what reaches none goes to the nearest label."""
    bits = energy.view(np.int32) & ~7

    def neighbours(pixel):
        for row_step, column_step in STEPS:
            row, column = pixel[0] + row_step, pixel[1] + column_step
            if 0 <= row < inside.shape[0] and 0 <= column < inside.shape[1] and inside[row, column]:
                yield row, column

    labels = seeds.copy()
    for pixel in zip(*np.nonzero(inside & (seeds == 0)), strict=True):
        here = pixel
        while seeds[here] == 0:
            lower = [other for other in neighbours(here) if bits[other] < bits[here]]
            if not lower:
                break
            here = min(lower, key=lambda other: bits[other])
        labels[pixel] = seeds[here]
    front = list(zip(*np.nonzero(labels), strict=True))
    while front:
        reached = []
        for row_step, column_step in STEPS:
            for row, column in front:
                other = row + row_step, column + column_step
                if other in set(neighbours((row, column))) and labels[other] == 0:
                    labels[other] = labels[row, column]
                    reached.append(other)
        front = reached
    return labels


def rasterize(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose centre lies inside an odd number of the rings (along pixel edges)."""
    inside = np.zeros(shape, dtype=bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            # Every pixel to the right of a vertical edge changes sides.
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside
