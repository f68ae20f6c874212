"""Densities of nuclei over a slide, accumulated from the stream of its nuclei and smoothed for display."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pyarrow

# Cells along the slide's longer side.
GRID = 768
# Width of the Gaussian window: a share of the slide's longer side, within limits in micrometres.
SIGMA_SHARE = 0.012
SIGMA_LIMITS_UM = (20.0, 150.0)
# Where less of the window is tissue, nothing can be said.
LEAST_TISSUE = 0.02


class DensityMaps:
    """Counts of nuclei by type in the cells of a grid over a slide; their size does not depend on the nuclei.

    Args:
        size: (width, height) of the slide in pixels of level 0.
        type_ids: the types to count.
    """

    def __init__(self, size: tuple[int, int], type_ids: Sequence[int]) -> None:
        self.size = size
        longest = max(size)
        self.grid = max(1, round(GRID * size[0] / longest)), max(1, round(GRID * size[1] / longest))
        """(width, height) in cells."""
        self.counts = {type_id: np.zeros(self.grid[::-1], dtype=np.int32) for type_id in type_ids}
        """(height, width) int32 counts by type id."""

    def add(self, batch: pyarrow.RecordBatch) -> None:
        """Counts nuclei, given by the columns `x`, `y` (centroids in pixels of level 0) and `type`."""
        width, height = self.grid
        columns = (batch.column("x").to_numpy() * (width / self.size[0])).astype(np.int64).clip(0, width - 1)
        rows = (batch.column("y").to_numpy() * (height / self.size[1])).astype(np.int64).clip(0, height - 1)
        cells, types = rows * width + columns, batch.column("type").to_numpy()
        for type_id, counts in self.counts.items():
            counts += np.bincount(cells[types == type_id], minlength=width * height).reshape(height, width)

    def add_all(self, batches: Iterable[pyarrow.RecordBatch]) -> "DensityMaps":
        """Counts the nuclei of all batches, and returns this object."""
        for batch in batches:
            self.add(batch)
        return self

    def total(self, type_ids: Sequence[int]) -> int:
        """Number of nuclei of these types."""
        return sum(int(self.counts[type_id].sum()) for type_id in type_ids)

    def density(self, type_ids: Sequence[int], tissue: np.ndarray, cell_area: float, sigma: float) -> np.ndarray:
        """Nuclei of some types per unit of tissue around each cell, (height, width) float32; 0 far from any tissue.

        Nuclei and tissue are smoothed alike, so that the density does not sink towards the edge of the tissue.

        Args:
            type_ids: the types, which are added up.
            tissue: mask (h, w) of the whole slide at any resolution.
            cell_area: area of a cell in the unit.
            sigma: width of the Gaussian window in cells.
        """
        nuclei = _smooth(sum((self.counts[i] for i in type_ids), np.zeros(self.grid[::-1])).astype(np.float32), sigma)
        shrinks = tissue.shape[0] > self.grid[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        share = _smooth(cv2.resize(tissue.astype(np.float32), self.grid, interpolation=how), sigma)
        density = np.zeros_like(nuclei)
        np.divide(nuclei, share * cell_area, out=density, where=share >= LEAST_TISSUE)
        return density


def smoothing_um(size_um: tuple[float, float]) -> float:
    """Width of the Gaussian window in micrometres for a slide of (width, height) micrometres."""
    return float(np.clip(SIGMA_SHARE * max(size_um), *SIGMA_LIMITS_UM))


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    smooth: np.ndarray = cv2.GaussianBlur(values, (0, 0), max(sigma, 0.5), borderType=cv2.BORDER_CONSTANT)
    return smooth
