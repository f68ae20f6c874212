"""Maps to decode in tests: made from label maps, as a model with a mask stride would predict them, or random."""

import cv2
import numpy as np
from scipy import ndimage


def distance_maps(labels: np.ndarray) -> np.ndarray:
    """(2, H, W) float32: x and y offsets from each nucleus's centroid, each side scaled to [-1, 1]."""
    maps = np.zeros((2, *labels.shape), dtype=np.float32)
    inside = labels > 0
    owners, count = labels[inside], labels.max(initial=0) + 1
    areas = np.maximum(np.bincount(owners, minlength=count), 1)
    for channel, positions in zip(maps, np.nonzero(inside)[::-1], strict=True):
        offsets = positions - (np.bincount(owners, positions, minlength=count) / areas)[owners]
        ahead, behind = np.full(count, 1e-9), np.full(count, 1e-9)
        np.maximum.at(ahead, owners, offsets)
        np.maximum.at(behind, owners, -offsets)
        channel[inside] = np.where(offsets > 0, offsets / ahead[owners], offsets / behind[owners])
    return maps


def boundary_map(labels: np.ndarray) -> np.ndarray:
    """(H, W) float32, 1 at each pixel with a 4-neighbour of another label."""
    boundary = np.zeros(labels.shape, dtype=np.float32)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    boundary[1:][vertical] = boundary[:-1][vertical] = 1
    boundary[:, 1:][horizontal] = boundary[:, :-1][horizontal] = 1
    return boundary


def through_stride(values: np.ndarray, stride: int) -> np.ndarray:
    """A map (H, W) averaged over squares of `stride` pixels and interpolated back, as the model's masks are."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % stride), (0, -width % stride)), mode="edge")
    size = padded.shape[::-1]
    small = cv2.resize(padded, (size[0] // stride, size[1] // stride), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)[:height, :width])


def perfect_maps(labels: np.ndarray, type_map: np.ndarray | None = None, type_count: int = 0, stride: int = 1) -> dict:
    """Keyword arguments of `decode_nuclei` for a label map (H, W) and, where given, the types (H, W) of its pixels."""
    maps = {
        "nuclei_probability": (labels > 0).astype(np.float32),
        "hv_maps": distance_maps(labels),
        "boundary_probability": boundary_map(labels),
    }
    if type_map is not None:
        maps["type_probabilities"] = np.stack([type_map == t for t in range(type_count + 1)]).astype(np.float32)
    if stride == 1:
        return maps
    return {
        name: through_stride(values, stride)
        if values.ndim == 2
        else np.stack([through_stride(channel, stride) for channel in values])
        for name, values in maps.items()
    }


def random_maps(seed: int, shape: tuple[int, int], smoothness: float = 1.5, type_count: int = 2) -> dict:
    """Smooth random fields: blobs, necks, holes, islands and cuts of every kind, with no nuclei behind them."""
    generator = np.random.default_rng(seed)

    def field(sigma: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(generator.normal(size=shape), sigma)
        return (noise / max(np.abs(noise).max(), 1e-9)).astype(np.float32)

    types = np.stack([np.abs(field(3)) for _ in range(type_count + 1)])
    return {
        "nuclei_probability": 0.5 + field(smoothness) / 2,
        "hv_maps": np.stack([field(1), field(1)]),
        "boundary_probability": np.abs(field(0.7)),
        "type_probabilities": types / types.sum(axis=0),
    }


def packed_disks(size: int, count_per_side: int, radius: float) -> np.ndarray:
    """(size, size) int32: a square grid of disks; neighbours touch where `2 * radius` reaches the pitch."""
    pitch = size / count_per_side
    rows, columns = np.mgrid[:size, :size] + 0.5
    row_index, column_index = (rows // pitch).astype(int), (columns // pitch).astype(int)
    inside = np.hypot(rows % pitch - pitch / 2, columns % pitch - pitch / 2) < radius
    return np.where(inside, row_index * count_per_side + column_index + 1, 0).astype(np.int32)
