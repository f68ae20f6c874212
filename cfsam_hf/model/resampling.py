"""Resampling of images to the model's pixel size, and of nuclei back to the image's."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from .result import DecodedNuclei, consecutive_ids

# Pixel sizes that differ by less are treated as equal: nominal 0.25 um/px scanners measure 0.2425 to 0.2528.
MPP_TOLERANCE = 0.02
MIN_MPP, MAX_MPP = 0.01, 10.0
# Pixel sizes of microscopes with objectives from 2.5x to 200x.
PLAUSIBLE_MPP = (0.05, 4.0)
OBJECTIVES = (20, 40, 60, 63, 80)


def check_mpp(mpp: float, name: str = "mpp") -> float:
    """Micrometres per pixel as a float; ValueError unless it lies in [0.01, 10], with a guess at the unit meant."""
    if isinstance(mpp, bool) or not isinstance(mpp, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number of micrometres per pixel, got {mpp!r}")
    if not MIN_MPP <= mpp <= MAX_MPP:  # false for NaN
        raise ValueError(
            f"{name} must be micrometres per pixel from {MIN_MPP:g} to {MAX_MPP:g}, such as 0.25 at 40x; got {mpp!r}"
            f"{_guess_unit(float(mpp))}"
        )
    return float(mpp)


def _guess_unit(value: float) -> str:
    """What an impossible pixel size probably is, as the end of a sentence; empty if nothing is plausible."""
    if value in OBJECTIVES:
        return f". If {value:g}x is the objective, the pixel size is probably {10 / value:.3g}"
    low, high = PLAUSIBLE_MPP
    meanings = {
        "in nanometres": value * 1e-3,
        "in millimetres": value * 1e3,
        "in centimetres": value * 1e4,
        "in metres": value * 1e6,
        "the number of pixels per centimetre": 1e4 / value if value > 0 else 0.0,
    }
    for meaning, micrometres in meanings.items():
        if low <= micrometres <= high:
            return f". If {value:g} is {meaning}, give {micrometres:.4g}"
    return ""


def resampled_size(height: int, width: int, mpp: float | None, model_mpp: float) -> tuple[int, int]:
    """
    Height and width in the model's pixels of an image of pixel size `mpp`: unchanged if `mpp` is None or within 2 % of
    the model's.
    """
    if mpp is None:
        return height, width
    scale = check_mpp(mpp) / check_mpp(model_mpp, "the model's mpp")
    if abs(math.log(scale)) <= math.log1p(MPP_TOLERANCE):
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resample_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Resample (H, W, 3) uint8 to `height` x `width`: area means when it shrinks, which avoids aliasing, cubic
    interpolation when it grows, which keeps edges.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resampled: np.ndarray = cv2.resize(image, (width, height), interpolation=interpolation)
    return resampled


class ResampledInstances(NamedTuple):
    """
    Nuclei in the pixels of another image size: `instance_map` (H, W) int32 with ids 1..M; `kept`, (N,) bool, which of
    the nuclei before these are; `boxes` (M, 4), `centroids` (M, 2) and `areas` (M,) as in `DecodedNuclei`.
    """

    instance_map: np.ndarray
    kept: np.ndarray
    boxes: np.ndarray
    centroids: np.ndarray
    areas: np.ndarray


def resample_nuclei(decoded: DecodedNuclei, height: int, width: int) -> DecodedNuclei:
    """
    Bring nuclei to an image of `height` x `width` pixels that shows the same field; see [`resample_instances`]. Types,
    scores and their measures are kept; areas, boxes and centroids are measured again.
    """
    if decoded.instance_map.shape == (height, width):
        return decoded
    found = resample_instances(decoded.instance_map, decoded.boxes, height, width)
    kept = decoded.take(found.kept, found.instance_map)
    return replace(kept, boxes=found.boxes, centroids=found.centroids, areas=found.areas)


def resample_instances(instance_map: np.ndarray, boxes: np.ndarray, height: int, width: int) -> ResampledInstances:
    """
    Bring a label map to `height` x `width` pixels.

    Each nucleus is resampled by itself (area means when it shrinks, linear when it grows), and a pixel goes to the
    nucleus with the largest share of it, provided that all nuclei together hold at least half of it: outlines stay
    smooth, and touching nuclei stay touching. A nucleus that falls apart keeps its largest 4-connected part, and one
    that would vanish gets the free pixel that it covers most. Only a nucleus that covers no free pixel is dropped, as
    when several nuclei share one pixel after a hundredfold reduction.

    Args:
        instance_map: (H, W) integers, 0 background, ids 1..N.
        boxes: (N, 4), half-open x0, y0, x1, y1 of the nuclei.
        height, width: the size to bring it to.
    """
    patches = [_patch(instance_map, label, box, height, width) for label, box in enumerate(boxes.tolist(), start=1)]
    labels = _assign_pixels(patches, height, width)
    geometry = [_keep_largest_part(labels, label, patch) for label, patch in enumerate(patches, start=1)]
    for index, patch in enumerate(patches):
        geometry[index] = geometry[index] or _restore(labels, index + 1, patch)
    kept = np.array([of is not None for of in geometry], dtype=bool)
    found = [of for of in geometry if of is not None]
    return ResampledInstances(
        instance_map=labels if kept.all() else consecutive_ids(kept)[labels],
        kept=kept,
        boxes=np.array([of.box for of in found], dtype=np.int64).reshape(-1, 4),
        centroids=np.array([of.centroid for of in found], dtype=np.float64).reshape(-1, 2),
        areas=np.array([of.area for of in found], dtype=np.int64),
    )


class _Patch(NamedTuple):
    """Where a nucleus lies: rows, columns, and its share (rows, columns) float32 of each pixel there."""

    rows: slice
    columns: slice
    shares: np.ndarray


class _Geometry(NamedTuple):
    """Of one nucleus: pixels, half-open box x0, y0, x1, y1, and centroid x, y."""

    area: int
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]


def _axis_weights(start: int, stop: int, source: int, target: int) -> tuple[int, np.ndarray]:
    """
    First target pixel and weights (targets, stop - start) of source pixels start..stop - 1 along one axis: the weights
    of each target pixel over all source pixels sum to 1.
    """
    ratio = source / target
    first = max(0, math.floor((start - 1) / ratio) - 1)
    last = min(target, math.ceil((stop + 1) / ratio) + 1)
    targets = np.arange(first, last)[:, None]
    pixels = np.arange(start, stop)[None, :]
    if ratio >= 1:
        shared = np.minimum((targets + 1) * ratio, pixels + 1) - np.maximum(targets * ratio, pixels)
        weights = np.clip(shared, 0, None) / ratio
    else:
        centers = np.clip((targets + 0.5) * ratio - 0.5, 0, source - 1)
        weights = np.clip(1 - np.abs(centers - pixels), 0, None)
    return first, weights.astype(np.float32)


def _patch(instance_map: np.ndarray, label: int, box: Sequence[int], height: int, width: int) -> _Patch:
    """The target pixels of nucleus `label`."""
    x0, y0, x1, y1 = box
    top, by_row = _axis_weights(y0, y1, instance_map.shape[0], height)
    left, by_column = _axis_weights(x0, x1, instance_map.shape[1], width)
    mask = (instance_map[y0:y1, x0:x1] == label).astype(np.float32)
    shares = by_row @ mask @ by_column.T
    return _Patch(slice(top, top + shares.shape[0]), slice(left, left + shares.shape[1]), shares)


def _assign_pixels(patches: list[_Patch], height: int, width: int) -> np.ndarray:
    """Label map (height, width): the nucleus with the largest share where all together hold half of the pixel."""
    labels = np.zeros((height, width), dtype=np.int32)
    best = np.zeros((height, width), dtype=np.float32)
    total = np.zeros((height, width), dtype=np.float32)
    for label, (rows, columns, share) in enumerate(patches, start=1):
        total[rows, columns] += share
        wins = share > best[rows, columns]
        labels[rows, columns][wins] = label
        best[rows, columns][wins] = share[wins]
    # Slightly less than one half, so that an exact half counts whichever way it was rounded.
    labels[total < 0.5 - 1e-4] = 0
    return labels


def _keep_largest_part(labels: np.ndarray, label: int, patch: _Patch) -> _Geometry | None:
    """Erase all but the largest 4-connected part of `label` (the first of equals); None if it has no pixel."""
    rows, columns, _ = patch
    mask = (labels[rows, columns] == label).view(np.uint8)
    count, parts, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count == 1:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if count > 2:
        labels[rows, columns][(parts > 0) & (parts != largest)] = 0
    x, y, width, height, area = (int(value) for value in stats[largest])
    x, y = x + columns.start, y + rows.start
    center_x, center_y = (float(value) for value in centroids[largest])
    return _Geometry(
        area, (x, y, x + width, y + height), (center_x + (columns.start + 0.5), center_y + (rows.start + 0.5))
    )


def _restore(labels: np.ndarray, label: int, patch: _Patch) -> _Geometry | None:
    """Give a nucleus without a pixel the free one that it covers most; None if there is none."""
    rows, columns, shares = patch
    free = np.where(labels[rows, columns] == 0, shares, 0)
    if free.size == 0 or free.max() == 0:
        return None
    row, column = np.unravel_index(free.argmax(), free.shape)
    y, x = rows.start + int(row), columns.start + int(column)
    labels[y, x] = label
    return _Geometry(1, (x, y, x + 1, y + 1), (x + 0.5, y + 0.5))
