"""Training targets from label maps: nuclei, horizontal/vertical distances, types and boundaries, without a Python loop
over nuclei."""

import cv2
import numpy as np
from skimage.measure import label as connected_components

from ...model.losses import DOUBTFUL

IGNORE = -100
"""Label of pixels that no loss may use (torch's default ignore index)."""

DOUBTFUL_DISTANCE = 8
"""Pixels from the nearest annotated nucleus beyond which an incomplete annotation leaves background in doubt: 2 um at
0.25 um per pixel. Closer, a prediction that is too wide is still an error."""


def split_torn_nuclei(instance_map: np.ndarray) -> np.ndarray:
    """Gives each 8-connected piece of a nucleus its own id.

    Cropping, rotation and reflection tear nuclei apart, and each piece has its own centre. If no nucleus is torn, the
    partition is unchanged.

    Args:
        instance_map: `(H, W)` integer, 0 background.

    Returns:
        `(H, W)` int32, ids 1..N without gaps.
    """
    return connected_components(instance_map, background=0, connectivity=2).astype(np.int32, copy=False)


def nuclei_labels(instance_map: np.ndarray, annotated: np.ndarray | None = None) -> np.ndarray:
    """Returns `(H, W)` int64: 1 in nuclei, 0 outside, -100 where `annotated` `(H, W)` bool is False."""
    return _ignoring((instance_map > 0).astype(np.int64), annotated)


def hv_labels(instance_map: np.ndarray) -> np.ndarray:
    """Signed distances from each nucleus' centre, scaled to [-1, 1] on each side (HoVer-Net, Graham et al. 2019, 3.1).

    The centre is the centroid rounded to a pixel (halves up). Along x, pixels left of it are divided by the distance
    of the leftmost pixel of the nucleus, those right of it by that of the rightmost; likewise along y. A side
    without extent is 0.

    Args:
        instance_map: `(H, W)` integer, 0 background; pixels of one id are one nucleus (see `split_torn_nuclei`).

    Returns:
        `(2, H, W)` float32, [0] horizontal (x grows to the right), [1] vertical (y grows downwards), 0 outside nuclei.
    """
    hv = np.zeros((2, instance_map.size), dtype=np.float32)
    flat = instance_map.ravel()
    inside = np.flatnonzero(flat != 0)  # several times as fast on booleans
    if len(inside) == 0:
        return hv.reshape(2, *instance_map.shape)
    rows, columns = np.divmod(inside, instance_map.shape[1])
    ids = flat[inside]
    highest = int(ids.max())
    if highest > 4 * instance_map.size:
        # Tables are indexed by id, so very large ids are made compact first.
        ids = np.unique(ids, return_inverse=True)[1] + 1
        highest = int(ids.max())
    areas = np.maximum(np.bincount(ids, minlength=highest + 1), 1)
    for axis, positions in enumerate((columns, rows)):
        sums = np.bincount(ids, weights=positions, minlength=highest + 1)
        centres = np.floor(sums / areas + 0.5)
        first, last = _extremes(ids, positions, highest)
        offsets = (positions - centres[ids]).astype(np.float32)
        before, after = (np.maximum(reach, 1).astype(np.float32) for reach in (centres - first, last - centres))
        hv[axis, inside] = offsets / np.where(offsets < 0, before[ids], after[ids])
    return hv.reshape(2, *instance_map.shape)


def boundary_labels(instance_map: np.ndarray, annotated: np.ndarray | None = None) -> np.ndarray:
    """Marks every pixel with a 4-neighbour of a different id, inside and outside of nuclei.

    The line between a nucleus and its neighbour is thus two pixels thick, one on each side. The border of the array is
    not a boundary.

    Args:
        instance_map: `(H, W)` integer, 0 background.
        annotated: `(H, W)` bool, False where nuclei were not annotated.

    Returns:
        `(H, W)` int64: 1 on boundaries, 0 elsewhere, -100 where not annotated.
    """
    boundary = np.zeros(instance_map.shape, dtype=bool)
    across_rows = instance_map[1:] != instance_map[:-1]
    boundary[1:] |= across_rows
    boundary[:-1] |= across_rows
    across_columns = instance_map[:, 1:] != instance_map[:, :-1]
    boundary[:, 1:] |= across_columns
    boundary[:, :-1] |= across_columns
    return _ignoring(boundary.astype(np.int64), annotated)


def type_labels(
    type_map: np.ndarray | None, shape: tuple[int, int], annotated: np.ndarray | None = None
) -> np.ndarray:
    """Returns `(H, W)` int64 type labels for cross-entropy.

    Args:
        type_map: `(H, W)`: 0 background, 1..T types, -100 at nuclei of unknown type; None for a tile without types.
        shape: (H, W).
        annotated: `(H, W)` bool, False where nuclei were not annotated.

    Returns:
        The type map, -100 where not annotated; -100 everywhere if `type_map` is None.
    """
    if type_map is None:
        return np.full(shape, IGNORE, dtype=np.int64)
    return _ignoring(type_map.astype(np.int64), annotated)


def doubtful_labels(labels: np.ndarray) -> np.ndarray:
    """Marks the background of an incomplete annotation that lies far from every annotated nucleus.

    Args:
        labels: `(H, W)` int64 of `nuclei_labels`.

    Returns:
        `(H, W)` int64: `labels`, but -1 (`DOUBTFUL`) at background more than `DOUBTFUL_DISTANCE` pixels from the
        nearest nucleus. The loss takes it for background unless the model is confident that it sees a nucleus there.
    """
    outside = (labels != 1).astype(np.uint8)
    if outside.all():
        return np.where(labels == 0, DOUBTFUL, labels)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where((labels == 0) & (distance > DOUBTFUL_DISTANCE), DOUBTFUL, labels)


def make_targets(
    instance_map: np.ndarray,
    type_map: np.ndarray | None = None,
    annotated: np.ndarray | None = None,
    incomplete: bool = False,
    points: bool = False,
) -> dict[str, np.ndarray]:
    """Makes all four targets of a crop.

    Args:
        instance_map: `(H, W)` integer, 0 background; torn nuclei are split here.
        type_map: `(H, W)` types as in `type_labels`, or None.
        annotated: `(H, W)` bool or None.
        incomplete: whether some nuclei of the annotated area have no outline: background far from the others gets the
            label -1 (see `doubtful_labels`).
        points: whether `instance_map` holds discs around points: only the types within them are labelled.

    Returns:
        `nuclei_labels` `(H, W)` int64, `hv_labels` `(2, H, W)` float32, `type_labels` `(H, W)` int64 and
        `boundary_labels` `(H, W)` int64.
    """
    if points:
        nowhere = np.full(instance_map.shape, IGNORE, dtype=np.int64)
        return {
            "nuclei_labels": nowhere,
            "hv_labels": np.zeros((2, *instance_map.shape), dtype=np.float32),
            "type_labels": type_labels(type_map, instance_map.shape, instance_map > 0),
            "boundary_labels": nowhere.copy(),
        }
    pieces = split_torn_nuclei(instance_map)
    nuclei = nuclei_labels(pieces, annotated)
    return {
        "nuclei_labels": doubtful_labels(nuclei) if incomplete else nuclei,
        "hv_labels": hv_labels(pieces),
        "type_labels": type_labels(type_map, instance_map.shape, annotated),
        "boundary_labels": boundary_labels(pieces, annotated),
    }


def _extremes(ids: np.ndarray, positions: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest position of each id, tables of `highest + 1` entries."""
    first = np.full(highest + 1, np.iinfo(np.int64).max)
    last = np.full(highest + 1, -1, dtype=np.int64)
    np.minimum.at(first, ids, positions)
    np.maximum.at(last, ids, positions)
    return first, last


def _ignoring(labels: np.ndarray, annotated: np.ndarray | None) -> np.ndarray:
    if annotated is not None:
        labels[~annotated] = IGNORE
    return labels
