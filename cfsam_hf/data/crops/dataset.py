"""`CropDataset`: training crops from whole tiles in memory; each is determined by (seed, index)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..label_resampling import resample_labels
from ..records import UNKNOWN_TYPE, Tile
from .augmentation import AugmentationOptions, augment_image
from .elastic import sample_displacement
from .geometry import Geometry, sample_geometry, warp_crop
from .sampling import PlaceSampler, SamplingOptions
from .stain import Appearance, measure_stains
from .targets import make_targets

MPP_TOLERANCE = 0.06
"""Tiles whose mpp differs by less than this (relative) are not resampled, since the random scale covers it."""


@dataclass
class CropSource:
    """A set of tiles with the same kind of annotation.

    Attributes:
        name: for messages.
        tiles: decoded tiles.
        weight: share of the crops, relative to the other sources' weights.
        type_mapping: from the tiles' type ids to the model's; ids mapped to None are nuclei of unknown type. None:
            the types of these tiles are not used (all type labels are -100).
        sampling: how crops are drawn from these tiles.
        tile_weights: relative weights of the tiles, in addition to `sampling`; None gives all the same.
        style_id: of the model's styles, 0 for the neutral one; None for a model without styles.
        scale_jitter: largest factor (or its inverse) of a further random scale, for tiles whose mpp is an estimate; 1
            for none.
        incomplete: whether some nuclei have no outline (see `targets.doubtful_labels`).
        taught: whether a teacher is asked about these crops; None where there is no teacher.
    """

    name: str
    tiles: Sequence[Tile]
    weight: float = 1.0
    type_mapping: Mapping[int, int | None] | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    tile_weights: Sequence[float] | None = None
    style_id: int | None = None
    scale_jitter: float = 1.0
    incomplete: bool = False
    taught: bool | None = None

    def __post_init__(self):
        if not self.tiles:
            raise ValueError(f"source {self.name!r} has no tiles")
        if not self.weight > 0:
            raise ValueError(f"source {self.name!r}: weight must be positive, got {self.weight}")
        if not self.scale_jitter >= 1:
            raise ValueError(f"source {self.name!r}: scale_jitter must be 1 or more, got {self.scale_jitter}")
        if self.tile_weights is not None:
            if len(self.tile_weights) != len(self.tiles):
                raise ValueError(
                    f"source {self.name!r}: {len(self.tile_weights)} tile weights for {len(self.tiles)} tiles"
                )
            if min(self.tile_weights) < 0 or sum(self.tile_weights) <= 0:
                raise ValueError(f"source {self.name!r}: tile weights must not be negative, nor all 0")


class CropDataset(Dataset):
    """Map-style data set of `length` random crops.

    Crop i depends only on (seed, i) and the tiles, not on the process that makes it or on the order. A resumed run
    therefore continues with exactly the crops that it would have seen. For different crops in another epoch, use other
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
            are not resampled. None: no tile is resampled.
        augmentation: probabilities and strengths; None for plain upright crops.

    Items are dicts of `pixel_values` (3, size, size) float32, `nuclei_labels` (size, size) int64 in {0, 1, -1, -100}
    (-1 only in incomplete sources), `hv_labels` (2, size, size) float32, `type_labels` (size, size) int64 in
    {0..num_types, -100}, `boundary_labels` (size, size) int64 in {0, 1, -100}, and, if the sources state them,
    `style_ids` () int64 and `taught` () bool.

    OpenCV is set to one thread for the whole process; otherwise forked `DataLoader` workers can hang.

    Raises:
        ValueError: there are no sources, a size is not positive, a mapping names a type that the model lacks, or only
            some of the sources have a style id or say whether they are taught.
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
        augmentation: AugmentationOptions | None = AugmentationOptions(),  # noqa: B008  (frozen)
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
        if len({source.style_id is None for source in sources}) > 1:
            raise ValueError("either all sources have a style_id or none has one; 0 is the neutral style")
        if len({source.taught is None for source in sources}) > 1:
            raise ValueError("either all sources say whether they are taught or none does")
        _use_one_opencv_thread()
        self.size = size
        self.length = length
        self.seed = seed
        self.first_index = first_index
        self.augmentation = augmentation
        self.sources = [_PreparedSource(source, size, mpp) for source in sources]
        if augmentation is not None and augmentation.stain_transfer_probability > 0:
            for tile in self._tiles():
                tile.stains = measure_stains(tile.image, augmentation.stain_transfer_method)
        self.stains = [tile.stains for tile in self._tiles() if tile.stains is not None]
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
        rng = self._rng(index)
        image, targets = self.make_crop(rng)
        planes = zip(cv2.split(image), self.normalised, strict=True)
        pixels = np.stack([cv2.LUT(plane, table) for plane, table in planes])  # (3, size, size)
        return {"pixel_values": torch.from_numpy(pixels)} | {
            name: torch.from_numpy(array) for name, array in targets.items()
        }

    def make_crop(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Draws a crop: `(size, size, 3)` uint8, and its targets as arrays (see `targets.make_targets`) with
        `style_ids` and `taught` if the sources state them."""
        source, tile, image, instance_map, type_map, annotated = self._cut(rng)
        targets = make_targets(instance_map, type_map, annotated, source.incomplete, tile.points)
        if source.style_id is not None:
            targets["style_ids"] = np.array(source.style_id, dtype=np.int64)
        if source.taught is not None:
            targets["taught"] = np.array(source.taught)
        return image, targets

    def cut_crop(
        self, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Draws a crop, without making its targets.

        Returns:
            `(size, size, 3)` uint8; `(size, size)` int32, ids of the tile, the same for all pieces of a torn nucleus;
            `(size, size)` int64 types of the model with 0 background, or None; `(size, size)` bool or None.
        """
        return self._cut(rng)[2:]

    def _cut(
        self, rng: np.random.Generator
    ) -> "tuple[_PreparedSource, _PreparedTile, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]":
        """The source and tile of a crop, followed by what `cut_crop` returns."""
        options = self.augmentation
        source, tile, centre, geometry, displacement = self._draw_place(rng)
        image = warp_crop(tile.image, centre, geometry, self.size, labels=False, displacement=displacement)
        # The crop is cut out first, so that the cost of the rest depends on its size and not on the tile's.
        instance_map = warp_crop(
            tile.instance_map, centre, geometry, self.size, labels=True, displacement=displacement
        )
        instance_map = instance_map.astype(np.int32)
        annotated = tile.annotated
        if annotated is not None:
            annotated = warp_crop(annotated, centre, geometry, self.size, labels=True, displacement=displacement)
        if options is not None:
            image = augment_image(image, rng, options, tile.stains, self.stains)
        return (
            source,
            tile,
            image,
            instance_map,
            None if tile.nucleus_types is None else tile.nucleus_types[instance_map],
            None if annotated is None else annotated > 0,
        )

    def tile_of(self, index: int) -> str:
        """Id of the tile that item `index` is cut from."""
        return self._draw_place(self._rng(index))[1].id

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.first_index + index))

    def _draw_place(
        self, rng: np.random.Generator
    ) -> "tuple[_PreparedSource, _PreparedTile, tuple[float, float], Geometry, np.ndarray | None]":
        """Draws a source, a tile, the centre (xy) of a crop in it, and the crop's geometry and displacement."""
        source = self.sources[rng.choice(len(self.sources), p=self.source_probabilities)]
        options = self.augmentation
        geometry, displacement = Geometry(), None
        if options is not None:
            geometry = sample_geometry(
                rng,
                options.free_geometry_probability,
                options.scale_smallest,
                options.scale_largest,
                options.turn_probability,
                options.rotation_degrees,
            )
            if source.scale_jitter > 1:
                factor = source.scale_jitter ** rng.uniform(-1, 1)
                geometry = replace(geometry, step=geometry.step * factor)
            if rng.random() < options.elastic_probability:
                displacement = sample_displacement(rng, self.size, options.elastic_pixels, options.elastic_spacing)
        position, centre = source.sampler.sample(rng, geometry)
        return source, source.tiles[position], centre, geometry, displacement

    def _tiles(self) -> "list[_PreparedTile]":
        return [tile for source in self.sources for tile in source.tiles]


class _PreparedTile:
    """A tile at the crops' mpp with compact ids, in dtypes that the warp accepts.

    Attributes:
        id: of the tile.
        image: `(H, W, 3)` uint8.
        instance_map: `(H, W)` uint16 (float32 beyond 65,535 nuclei), ids 1..N.
        annotated: `(H, W)` uint8 or None.
        nucleus_types: `(N + 1,)` int64, the model's type per id (0 for background, -100 unknown), or None.
        centroids: `(N, 2)` float64 xy.
        stains: stain of the tile; None if it was not measured.
        points: as in `Tile`.
    """

    stains: Appearance | None = None

    def __init__(self, tile: Tile, type_mapping: Mapping[int, int | None] | None, mpp: float | None):
        image, instance_map, type_map, annotated = tile.image, tile.instance_map, tile.type_map, tile.annotated
        ratio = 1.0 if mpp is None or tile.mpp is None else tile.mpp / mpp
        if abs(ratio - 1) > MPP_TOLERANCE:
            height, width = (max(round(length * ratio), 1) for length in image.shape[:2])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
            instance_map = resample_labels(instance_map, height, width)
            type_map, annotated = (
                None if array is None else resample_labels(array, height, width) for array in (type_map, annotated)
            )
        ids, compact = np.unique(instance_map, return_inverse=True)
        compact = compact.reshape(instance_map.shape) + (0 if ids[0] == 0 else 1)
        count = int(compact.max(initial=0))
        self.id = tile.id
        self.points = tile.points
        self.image = np.ascontiguousarray(image)
        self.instance_map = compact.astype(np.uint16 if count < 2**16 else np.float32)
        self.annotated = None if annotated is None else annotated.astype(np.uint8)
        self.centroids = _centroids(compact, count)
        self.nucleus_types = None
        if type_mapping is not None and type_map is not None:
            self.nucleus_types = _map_types(_nucleus_types(compact, type_map, count), type_mapping, tile)


class _PreparedSource:
    """The tiles of a source, the sampler that draws places in them, and the settings of their crops."""

    def __init__(self, source: CropSource, size: int, mpp: float | None):
        self.style_id, self.scale_jitter = source.style_id, source.scale_jitter
        self.incomplete, self.taught = source.incomplete, source.taught
        self.tiles = [_PreparedTile(tile, source.type_mapping, mpp) for tile in source.tiles]
        self.sampler = PlaceSampler(
            shapes=[tile.image.shape[:2] for tile in self.tiles],
            centroids=[tile.centroids for tile in self.tiles],
            types=[None if tile.nucleus_types is None else tile.nucleus_types[1:] for tile in self.tiles],
            tissues=[tile.tissue for tile in source.tiles],
            tile_weights=[1.0] * len(self.tiles) if source.tile_weights is None else source.tile_weights,
            size=size,
            options=source.sampling,
        )


def _use_one_opencv_thread() -> None:
    """Keeps OpenCV single-threaded: crops run in parallel processes, and OpenCV's threads do not survive a fork.

    A worker that is forked after OpenCV has started its threads waits for them forever.
    """
    cv2.setNumThreads(1)


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
                "the type mapping lacks; map it to one of the model's types or to None"
            )
        target = None if type_id == UNKNOWN_TYPE else mapping[type_id]
        mapped[1:][types[1:] == type_id] = UNKNOWN_TYPE if target is None else target
    return mapped
