"""Where crops are cut: tiles balanced by tissue and type, crops placed on nuclei of rare types."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..records import UNKNOWN_TYPE
from .geometry import Geometry, crop_position, place_crop

BALANCES = ("none", "tissue", "types", "tissue_and_types")


@dataclass(frozen=True)
class SamplingOptions:
    """How crops are drawn from the tiles of one data set.

    A share `nucleus_probability` of the crops is placed on a nucleus drawn at random, so that rare types occur; the
    others lie anywhere and show the background at its natural frequency. `balance` weights the others with CellViT's
    formula (`balanced_weights`) on crop-sized cells of the tiles; its tissue term applies to the drawn nuclei too.
    With `balance="tissue_and_types"`, `nucleus_probability=0` and tiles of the crop's size this is CellViT's sampling.

    Raises:
        ValueError: a value is outside its range.
    """

    balance: str = field(
        default="none",
        metadata={
            "help": "none, tissue, types or tissue_and_types: weights of CellViT's formula for crops that lie "
            "anywhere; useful if tiles differ in tissue or types, as in PanNuke"
        },
    )
    gamma: float = field(
        default=0.85, metadata={"help": "strength of the balance, 0 none to 1 full; CellViT's value for PanNuke"}
    )
    nucleus_probability: float = field(
        default=0.6, metadata={"help": "share of crops placed on a drawn nucleus; the rest teaches the background"}
    )
    rarity_power: float = field(
        default=0.75,
        metadata={
            "help": "a nucleus is drawn with probability proportional to (1 / frequency of its type) to this power: "
            "0 keeps the natural frequencies, 1 makes all types equally frequent; with .75, one of four types that "
            "has a fiftieth of the nuclei comes up in one of seven draws"
        },
    )
    density_power: float = field(
        default=0.5,
        metadata={
            "help": "a tile is drawn in proportion to (its nuclei of the type) to this power: below 1 the densest "
            "tiles do not dominate"
        },
    )

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {', '.join(BALANCES)}, got {self.balance!r}")
        for name in ("gamma", "nucleus_probability", "rarity_power", "density_power"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}")


def tissue_weights(tissues: Sequence[Hashable], gamma: float) -> np.ndarray:
    """Weight of each image by the rarity of its tissue.

    `w_i = k / (gamma * n_i + (1 - gamma) * k)` for k images, n_i of which have the tissue of image i. Images of
    unknown tissue (None) count as one tissue. Source: see `balanced_weights`.

    >>> tissue_weights(["colon", "colon", "colon", "skin"], gamma=1.0)
    array([1.33333333, 1.33333333, 1.33333333, 4.        ])
    """
    names = {name: position for position, name in enumerate(dict.fromkeys(tissues))}
    codes = np.array([names[name] for name in tissues], dtype=np.int64)
    total = len(codes)
    return total / (gamma * np.bincount(codes)[codes] + (1 - gamma) * total)


def type_weights(present: np.ndarray, gamma: float) -> np.ndarray:
    """Weight of each image by the rarity of the types of its nuclei.

    `w_i = (1 - gamma) * max_c(p_ic) + gamma * sum_c(p_ic * k / (gamma * N_c + (1 - gamma) * k))` where p_ic is 1
    if image i holds type c and else 0, `N_c = sum_i p_ic` and `k = sum_c N_c`. Images without nuclei of a known type
    get the smallest of the other weights; if no image has any, all weights are 1. Source: see `balanced_weights`.

    Args:
        present: `(N, T)` bool.
        gamma: strength of the balance in [0, 1].

    Returns:
        `(N,)` float64.

    >>> type_weights(np.array([[True, False], [True, True], [False, False]]), gamma=1.0)
    array([1.5, 4.5, 1.5])
    """
    present = np.asarray(present, dtype=np.float64)
    images = present.sum(axis=0)
    total = images.sum()
    if total == 0:
        return np.ones(len(present))
    rarity = total / np.maximum(gamma * images + (1 - gamma) * total, 1e-9)  # types without images have no weight
    weights = (1 - gamma) * present.max(axis=1) + gamma * present @ rarity
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def balanced_weights(tissues: Sequence[Hashable], present: np.ndarray, gamma: float, balance: str) -> np.ndarray:
    """Weights of images, balanced by tissue and nucleus type.

    `w_i = w_tissue,i / max_j(w_tissue,j) + w_type,i / max_j(w_type,j)`, or one of the two terms. Source: CellViT
    (Hörst et al., Medical Image Analysis 94, 2024), its sampling strategy as its published training code computes it
    (counts there are of images that hold a type, not of nuclei).

    Args:
        tissues: tissue of each of N images.
        present: `(N, T)` bool, whether the image holds a nucleus of the type.
        gamma: strength in [0, 1]: 0 gives equal weights, 1 full balance.
        balance: one of `BALANCES`.

    Returns:
        `(N,)` float64, positive.
    """
    weights = np.zeros(len(tissues))
    if balance in ("tissue", "tissue_and_types"):
        by_tissue = tissue_weights(tissues, gamma)
        weights += by_tissue / by_tissue.max()
    if balance in ("types", "tissue_and_types"):
        by_types = type_weights(present, gamma)
        weights += by_types / by_types.max()
    return weights if balance != "none" else np.ones(len(tissues))


@dataclass(frozen=True)
class Cell:
    """A part of a tile of about the crop's size: an image in the sense of `balanced_weights`.

    Attributes:
        tile: position of the tile.
        box: (x0, y0, x1, y1) in tile pixels, half-open; cells of a tile do not overlap and cover it.
    """

    tile: int
    box: tuple[float, float, float, float]


class PlaceSampler:
    """Draws tiles and crop centres.

    Args:
        shapes: (H, W) of each tile.
        centroids: per tile `(N, 2)` xy of its nuclei.
        types: per tile `(N,)` type of each nucleus: 1..T, or `UNKNOWN_TYPE`; None for a tile without types.
        tissues: tissue of each tile, None if unknown.
        tile_weights: relative weight of each tile.
        size: side of the crops in pixels.
        options: how to draw.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        centroids: Sequence[np.ndarray],
        types: Sequence[np.ndarray | None],
        tissues: Sequence[str | None],
        tile_weights: Sequence[float],
        size: int,
        options: SamplingOptions,
    ):
        self.shapes = list(shapes)
        self.centroids = list(centroids)
        self.size = size
        known_types = [
            np.full(len(points), UNKNOWN_TYPE) if ids is None else np.asarray(ids)
            for points, ids in zip(centroids, types, strict=True)
        ]
        weights = np.asarray(tile_weights, dtype=np.float64)
        self._prepare_cells(known_types, tissues, weights, options)
        if options.balance in ("tissue", "tissue_and_types"):
            weights = weights * tissue_weights(tissues, options.gamma)
        self._prepare_nuclei(known_types, weights, options)

    def sample(self, rng: np.random.Generator, geometry: Geometry) -> tuple[int, tuple[float, float]]:
        """Draws the position of a tile and the centre (xy, tile pixels) of a crop in it."""
        if rng.random() >= self.nucleus_probability:
            return self._anywhere(rng, geometry)
        return self._on_a_nucleus(rng, geometry)

    def _prepare_cells(
        self,
        types: Sequence[np.ndarray],
        tissues: Sequence[str | None],
        weights: np.ndarray,
        options: SamplingOptions,
    ) -> None:
        """Tables for crops that lie anywhere; without a balance each tile is one cell."""
        self.cells: list[Cell] = []
        known = sorted({int(type_id) for ids in types for type_id in np.unique(ids) if type_id > 0})
        present = []
        for tile, (height, width) in enumerate(self.shapes):
            rows, columns = (
                1 if options.balance == "none" else max(round(side / self.size), 1) for side in (height, width)
            )
            x, y = self.centroids[tile].reshape(-1, 2).T
            cell_of = np.minimum((y * rows / height).astype(np.int64), rows - 1) * columns
            cell_of += np.minimum((x * columns / width).astype(np.int64), columns - 1)
            holds = np.zeros((rows * columns, len(known)), dtype=bool)
            for column, type_id in enumerate(known):
                holds[cell_of[types[tile] == type_id], column] = True
            present.append(holds)
            step = np.array([width / columns, height / rows] * 2)
            self.cells += [
                Cell(tile, tuple((step * (j, i, j + 1, i + 1)).tolist())) for i in range(rows) for j in range(columns)
            ]
        of_tile = [cell.tile for cell in self.cells]
        by_cell = weights[of_tile] * balanced_weights(
            [tissues[tile] for tile in of_tile], np.concatenate(present), options.gamma, options.balance
        )
        self.cell_probabilities = by_cell / by_cell.sum()

    def _prepare_nuclei(self, types: Sequence[np.ndarray], weights: np.ndarray, options: SamplingOptions) -> None:
        """Tables for crops on nuclei. Nuclei without a type form a group, drawn only if no nucleus has one."""
        groups: dict[int, list[np.ndarray]] = {}
        for tile, ids in enumerate(types):
            for type_id in np.unique(ids).tolist():
                groups.setdefault(type_id, [np.empty(0, dtype=np.int64)] * len(types))
                groups[type_id][tile] = np.flatnonzero(ids == type_id)
        if len(groups) > 1:
            groups.pop(UNKNOWN_TYPE, None)
        self.groups: list[list[np.ndarray]] = []
        self.group_tile_probabilities: list[np.ndarray] = []
        totals = []
        for members in groups.values():
            counts = np.array([len(of_tile) for of_tile in members], dtype=np.float64)
            by_tile = weights * np.where(counts > 0, counts**options.density_power, 0)
            if by_tile.sum() > 0:
                self.groups.append(members)
                self.group_tile_probabilities.append(by_tile / by_tile.sum())
                totals.append(counts[weights > 0].sum())
        # Nuclei weighted by frequency ** -p: the n nuclei of a type together weigh n ** (1 - p).
        shares = np.array(totals) ** (1 - options.rarity_power)
        self.group_probabilities = shares / shares.sum() if len(shares) else shares
        self.nucleus_probability = options.nucleus_probability if self.groups else 0.0

    def _anywhere(self, rng: np.random.Generator, geometry: Geometry) -> tuple[int, tuple[float, float]]:
        cell = self.cells[rng.choice(len(self.cells), p=self.cell_probabilities)]
        height, width = self.shapes[cell.tile]
        half = geometry.half_extent(self.size)
        x0, y0, x1, y1 = cell.box
        centre = []
        for side, first, last in ((width, x0, x1), (height, y0, y1)):
            # Only centres that need no shift are drawn; otherwise the tile's border would be drawn too often.
            low, high = sorted((half, side - half))
            start, stop = sorted((min(max(first, low), high), min(max(last, low), high)))
            centre.append(rng.uniform(start, stop))
        return cell.tile, place_crop((centre[0], centre[1]), geometry, self.size, (height, width))

    def _on_a_nucleus(self, rng: np.random.Generator, geometry: Geometry) -> tuple[int, tuple[float, float]]:
        group = rng.choice(len(self.groups), p=self.group_probabilities)
        tile = int(rng.choice(len(self.shapes), p=self.group_tile_probabilities[group]))
        x, y = self.centroids[tile][rng.choice(self.groups[group][tile])]
        shift = geometry.matrix @ rng.uniform(-self.size / 4, self.size / 4, size=2)
        centre = place_crop((x - shift[0], y - shift[1]), geometry, self.size, self.shapes[tile])
        if not all(0 <= side < self.size for side in crop_position((x, y), centre, geometry, self.size)):
            # Near a corner of the tile a rotated crop inside it cannot show the nucleus: reach over the border.
            centre = (float(x), float(y))
        return tile, centre
