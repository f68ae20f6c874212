"""Label maps at another pixel size."""

import numpy as np


def resample_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a map of ids, types or flags (H, W), of any dtype, to (height, width) by the nearest pixel centre."""
    rows, columns = (_nearest(length, size) for length, size in zip(labels.shape, (height, width), strict=True))
    return labels[rows[:, None], columns]


def _nearest(length: int, size: int) -> np.ndarray:
    """For each of `size` places, the place among `length` whose centre is the nearest."""
    return np.minimum(((np.arange(size) + 0.5) * length / size).astype(np.int64), length - 1)
