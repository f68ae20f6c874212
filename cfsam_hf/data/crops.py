"""`CropDataset`: training crops drawn from whole tiles in memory, each determined by (seed, index) alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from .augmentation import AugmentationParameters, augment_image
from .geometry import Geometry, crop_position, place_crop, sample_geometry, warp_crop
from .records import UNKNOWN_TYPE, Tile
from .targets import make_targets

MPP_TOLERANCE = 0.06
"""Tiles whose mpp is this close (relative) to the wanted one are not resampled: the random scale covers it."""

DENSITY_POWER = 0.5
"""Tiles are drawn for a nucleus in proportion to their nuclei to this power, so that the densest do not crowd out."""


@dataclass
class CropSource:
    """A set of tiles that are annotated alike.

    Attributes:
        name: for messages.
        tiles: decoded tiles.
        weight: share of the crops, relative to the other sources' weights.
        type_mapping: the tiles' type ids to the model's; ids mapped to None are nuclei of unknown type. None: the
            types of these tiles are not used (all type labels are -100).
        nucleus_probability: share of the crops placed so that they show a drawn nucleus; the rest lie anywhere.
        type_power: the drawn nucleus has a type with probability proportional to (nuclei of the type) ** type_power;
            0 draws all types alike, 1 as frequent as they are.
        tile_weights: relative weights of the tiles; alike where None.
    """

    name: str
    tiles: Sequence[Tile]
    weight: float = 1.0
    type_mapping: Mapping[int, int | None] | None = None
    nucleus_probability: float = 0.5
    type_power: float = 0.25
    tile_weights: Sequence[float] | None = None

    def __post_init__(self):
        if not self.tiles:
            raise ValueError(f"source {self.name!r} has no tiles")
        if not self.weight > 0:
            raise ValueError(f"source {self.name!r}: weight must be positive, got {self.weight}")
        if not 0 <= self.nucleus_probability <= 1:
            raise ValueError(
                f"source {self.name!r}: nucleus_probability must lie in [0, 1], got {self.nucleus_probability}"
            )
        if self.tile_weights is not None:
            if len(self.tile_weights) != len(self.tiles):
                raise ValueError(
                    f"source {self.name!r}: {len(self.tile_weights)} tile weights for {len(self.tiles)} tiles"
                )
            if min(self.tile_weights) < 0 or sum(self.tile_weights) <= 0:
                raise ValueError(f"source {self.name!r}: tile weights must not be negative, nor all 0")


class CropDataset(Dataset):
    """Map-style data set of `length` random crops.

    Crop i is a function of (seed, i) and the tiles alone, whichever process makes it and whatever was made before, so
    a resumed run continues with exactly the crops that it would have seen. For other crops in another epoch use other
    indices (`first_index`) or another seed.

    Args:
        sources: where crops come from.
        size: side of the crops in pixels.
        image_mean, image_std: per channel, on the 0..1 scale.
        length: number of crops, `len()`.
        seed: seed of all randomness.
        first_index: index of the first crop: item i is crop `first_index + i`.
        num_types: number of types of the model, to check the mappings against; 0 for a model without types.
        mpp: micrometres per pixel of the crops. Tiles of another mpp are resampled once, here; tiles of unknown mpp
            are used as they are. None resamples nothing.
        augmentation: strengths; None for plain upright crops.

    Items are dicts of `pixel_values` (3, size, size) float32, `nuclei_labels` (size, size) int64 in {0, 1, -100},
    `hv_labels` (2, size, size) float32, `type_labels` (size, size) int64 in {0..num_types, -100}, and
    `boundary_labels` (size, size) int64 in {0, 1, -100}.

    OpenCV is set to one thread for the whole process, without which forked `DataLoader` workers can hang.

    Raises:
        ValueError: for no sources, sizes that are not positive, or mappings to types that the model does not have.
    """

    def __init__(
        self,
        sources: Sequence[CropSource],
        size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        length: int,
        seed: int = 0,
        first_index: int = 0,
        num_types: int = 0,
        mpp: float | None = None,
        augmentation: AugmentationParameters | None = AugmentationParameters(),  # noqa: B008  (frozen)
    ):
        if not sources:
            raise ValueError("CropDataset needs at least one source")
        if size < 1 or length < 1 or first_index < 0:
            raise ValueError(f"size and length must be positive, got {size} and {length} (first_index {first_index})")
        for source in sources:
            targets = {target for target in (source.type_mapping or {}).values() if target is not None}
            if not targets <= set(range(1, num_types + 1)):
                raise ValueError(
                    f"source {source.name!r} maps to types {sorted(targets)}, but the model has the ids 1..{num_types}"
                )
        _use_one_opencv_thread()
        self.size = size
        self.length = length
        self.seed = seed
        self.first_index = first_index
        self.augmentation = augmentation
        self.sources = [_PreparedSource(source, mpp) for source in sources]
        weights = np.array([source.weight for source in sources], dtype=np.float64)
        self.source_probabilities = weights / weights.sum()
        mean, std = (np.asarray(values, dtype=np.float32).reshape(1, 3) for values in (image_mean, image_std))
        self.normalised = ((np.arange(256, dtype=np.float32)[:, None] / 255 - mean) / std).T.copy()  # (3, 256)

    def __setstate__(self, state: dict) -> None:
        # In a spawned worker __init__ does not run.
        self.__dict__.update(state)
        _use_one_opencv_thread()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside 0..{self.length - 1}")
        rng = np.random.default_rng((self.seed, self.first_index + index))
        image, targets = self.make_crop(rng)
        pixels = np.stack([self.normalised[channel][image[..., channel]] for channel in range(3)])  # (3, size, size)
        return {"pixel_values": torch.from_numpy(pixels)} | {
            name: torch.from_numpy(array) for name, array in targets.items()
        }

    def make_crop(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Draw a crop: `(size, size, 3)` uint8 and its targets as arrays (see `targets.make_targets`)."""
        source = self.sources[rng.choice(len(self.sources), p=self.source_probabilities)]
        augmentation = self.augmentation
        geometry = Geometry()
        if augmentation is not None:
            geometry = sample_geometry(
                rng, augmentation.free_geometry_probability, augmentation.smallest, augmentation.largest
            )
        tile, centre = source.sample_place(rng, geometry, self.size)
        image = warp_crop(tile.image, centre, geometry, self.size, labels=False)
        ids = warp_crop(tile.instance_map, centre, geometry, self.size, labels=True).astype(np.int32)
        annotated = None
        if tile.annotated is not None:
            annotated = warp_crop(tile.annotated, centre, geometry, self.size, labels=True) > 0
        type_map = None if tile.nucleus_types is None else tile.nucleus_types[ids]
        if augmentation is not None:
            image = augment_image(image, rng, augmentation)
        return image, make_targets(ids, type_map, annotated)


class _PreparedTile:
    """A tile at the wanted mpp with compact ids, in the dtypes that the warp takes.

    Attributes:
        image: `(H, W, 3)` uint8.
        instance_map: `(H, W)` uint16 (float32 beyond 65,535 nuclei), ids 1..N.
        annotated: `(H, W)` uint8 or None.
        nucleus_types: `(N + 1,)` int64, the model's type per id (0 for background, -100 unknown), or None.
        centroids: `(N, 2)` float64 xy.
    """

    def __init__(self, tile: Tile, type_mapping: Mapping[int, int | None] | None, mpp: float | None):
        image, instance_map, type_map, annotated = tile.image, tile.instance_map, tile.type_map, tile.annotated
        ratio = 1.0 if mpp is None or tile.mpp is None else tile.mpp / mpp
        if abs(ratio - 1) > MPP_TOLERANCE:
            shape = (max(round(image.shape[1] * ratio), 1), max(round(image.shape[0] * ratio), 1))
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
            instance_map, type_map, annotated = (
                None if array is None else _resize_nearest(array, shape)
                for array in (instance_map, type_map, annotated)
            )
        ids, compact = np.unique(instance_map, return_inverse=True)
        compact = compact.reshape(instance_map.shape) + (0 if ids[0] == 0 else 1)
        count = int(compact.max(initial=0))
        self.image = np.ascontiguousarray(image)
        self.instance_map = compact.astype(np.uint16 if count < 2**16 else np.float32)
        self.annotated = None if annotated is None else annotated.astype(np.uint8)
        self.centroids = _centroids(compact, count)
        self.nucleus_types = None
        if type_mapping is not None and type_map is not None:
            self.nucleus_types = _map_types(_nucleus_types(compact, type_map, count), type_mapping, tile)


class _PreparedSource:
    """The tiles of a source and the tables that sampling needs."""

    def __init__(self, source: CropSource, mpp: float | None):
        self.tiles = [_PreparedTile(tile, source.type_mapping, mpp) for tile in source.tiles]
        weights = (
            np.ones(len(self.tiles)) if source.tile_weights is None else np.array(source.tile_weights, dtype=float)
        )
        self.tile_probabilities = weights / weights.sum()
        # Nuclei by tile and type; nuclei without a type form a group that is drawn only where no nucleus has one.
        groups: dict[int, list[np.ndarray]] = {}
        for position, tile in enumerate(self.tiles):
            types = (
                np.full(len(tile.centroids), UNKNOWN_TYPE) if tile.nucleus_types is None else tile.nucleus_types[1:]
            )
            for type_id in np.unique(types).tolist():
                groups.setdefault(type_id, [np.empty(0, dtype=np.int64)] * len(self.tiles))
                groups[type_id][position] = np.flatnonzero(types == type_id)
        if len(groups) > 1:
            groups.pop(UNKNOWN_TYPE, None)
        self.groups: list[list[np.ndarray]] = []
        self.group_tile_probabilities: list[np.ndarray] = []
        totals = []
        for members in groups.values():
            counts = np.array([len(of_tile) for of_tile in members], dtype=np.float64)
            tile_weights = weights * counts**DENSITY_POWER
            if tile_weights.sum() > 0:
                self.groups.append(members)
                self.group_tile_probabilities.append(tile_weights / tile_weights.sum())
                totals.append(counts[weights > 0].sum())
        shares = np.array(totals) ** source.type_power
        self.group_probabilities = shares / shares.sum() if len(shares) else shares
        self.nucleus_probability = source.nucleus_probability if self.groups else 0.0

    def sample_place(
        self, rng: np.random.Generator, geometry: Geometry, size: int
    ) -> tuple[_PreparedTile, tuple[float, float]]:
        """Draw a tile and the centre (xy) of a crop in it."""
        if rng.random() >= self.nucleus_probability:
            tile = self.tiles[rng.choice(len(self.tiles), p=self.tile_probabilities)]
            height, width = tile.image.shape[:2]
            half = geometry.half_extent(size)
            # Drawing only centres that need no shift keeps the tile's border from being drawn too often.
            x, y = (rng.uniform(*sorted((half, side - half))) for side in (width, height))
            return tile, place_crop((x, y), geometry, size, (height, width))
        group = rng.choice(len(self.groups), p=self.group_probabilities)
        position = rng.choice(len(self.tiles), p=self.group_tile_probabilities[group])
        tile = self.tiles[position]
        x, y = tile.centroids[rng.choice(self.groups[group][position])]
        shift = geometry.matrix @ rng.uniform(-size / 4, size / 4, size=2)
        centre = place_crop((x - shift[0], y - shift[1]), geometry, size, tile.image.shape[:2])
        if not all(0 <= side < size for side in crop_position((x, y), centre, geometry, size)):
            # Near a corner of the tile a turned crop that stays inside cannot show the nucleus: reach over the border.
            centre = (float(x), float(y))
        return tile, centre


def _use_one_opencv_thread() -> None:
    """Keep OpenCV single-threaded: crops run in parallel by processes, and OpenCV's threads do not survive a fork.

    A worker forked from a process in which OpenCV has started its threads waits for them for ever.
    """
    cv2.setNumThreads(1)


def _resize_nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a label map to `shape` (W, H) by the nearest pixel centre; any dtype."""
    height, width = array.shape
    rows = np.minimum(((np.arange(shape[1]) + 0.5) * height / shape[1]).astype(np.int64), height - 1)
    columns = np.minimum(((np.arange(shape[0]) + 0.5) * width / shape[0]).astype(np.int64), width - 1)
    return array[rows[:, None], columns]


def _centroids(instance_map: np.ndarray, count: int) -> np.ndarray:
    rows, columns = np.nonzero(instance_map)
    ids = instance_map[rows, columns]
    areas = np.bincount(ids, minlength=count + 1)[1:]
    x, y = (
        np.bincount(ids, weights=positions, minlength=count + 1)[1:] / areas + 0.5 for positions in (columns, rows)
    )
    return np.column_stack([x, y])


def _nucleus_types(instance_map: np.ndarray, type_map: np.ndarray, count: int) -> np.ndarray:
    """Most frequent value of `type_map` in each nucleus, `(count + 1,)` with 0 for background."""
    inside = instance_map > 0
    values, codes = np.unique(type_map[inside], return_inverse=True)
    if count == 0:
        return np.zeros(1, dtype=np.int64)
    votes = np.bincount(instance_map[inside] * len(values) + codes, minlength=(count + 1) * len(values))
    types = values[votes.reshape(count + 1, len(values)).argmax(axis=1)].astype(np.int64)
    types[0] = 0
    return types


def _map_types(types: np.ndarray, mapping: Mapping[int, int | None], tile: Tile) -> np.ndarray:
    mapped = np.zeros_like(types)
    for type_id in np.unique(types[1:]).tolist():
        if type_id != UNKNOWN_TYPE and type_id not in mapping:
            raise ValueError(
                f"tile {tile.id!r} has nuclei of type {type_id} ({tile.type_names.get(type_id, 'no name')}), which "
                "the type mapping does not mention; map it to one of the model's types or to None"
            )
        target = None if type_id == UNKNOWN_TYPE else mapping[type_id]
        mapped[1:][types[1:] == type_id] = UNKNOWN_TYPE if target is None else target
    return mapped
