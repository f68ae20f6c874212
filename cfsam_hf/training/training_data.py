"""The tiles of a recipe, and the crops that are drawn from them."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from ..baselines.unet import UNetConfig
from ..data import CropDataset, CropSource, SamplingOptions, Tile, TileRecord, joint_type_names, match_types
from ..data.data_items import DataItem, records_by_dataset
from ..data.leaks import training_leaks
from ..model.configuration_cfsam import CfSamConfig, style_number
from ..model.image_processing_cfsam import CfSamImageProcessor
from .agreement import shift_margin
from .launching import crops_per_step
from .pictures import Example
from .recipe import Recipe
from .tile_digests import TileDigest, tile_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What a recipe trains and validates on.

    Attributes:
        items: the data items.
        tiles: the decoded training tiles of each item.
        validation: where the validation tiles of each data set with outlines lie; empty without any.
        type_names: the union of the items' types, numbered from 1; empty where no item has types.
        digests: of the training and validation tiles in order, with which a resumed run detects changes.
    """

    items: list[DataItem]
    tiles: list[list[Tile]]
    validation: dict[str, list[TileRecord]]
    type_names: dict[int, str]
    digests: dict[str, list[TileDigest]]

    def description(self) -> list[str]:
        """A readable line for each data item."""
        pairs = zip(self.items, self.tiles, strict=True)
        return [f"{item.dataset}: {len(tiles)} tile{'s' * (len(tiles) != 1)}" for item, tiles in pairs]


def load_training_data(recipe: Recipe) -> TrainingData:
    """Reads the training tiles of a recipe into memory, and lists the validation tiles.

    Leaks are logged as warnings: a tile in two data items, or a tile or patient in two of the parts training, tuning
    and validation.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a data item cannot be read, or has no training tiles.
    """
    items = []
    for text in recipe.data.data:
        item = DataItem.parse(text)
        items.append(replace(item, path=str(Path(recipe.data.data_root) / item.path)))
    training = [item.records("train") for item in items]
    tiles = [[record.load() for record in records] for records in training]
    for item, of_item in zip(items, tiles, strict=True):
        if not of_item:
            raise ValueError(f"There is nothing to train on in {item.path}: no tiles, or none that {item} names.")
    names = joint_type_names([tile.type_names for of_item in tiles for tile in of_item])
    with_outlines = [item for item, records in zip(items, training, strict=True) if not records[0].points]
    validation = records_by_dataset(with_outlines, "validation")
    names_of_items = [f"data item {number}" for number in range(1, len(items) + 1)]
    kept = [[item.records(part) for item in items] for part in ("tuning", "validation")]
    parts = (dict(zip(names_of_items, records, strict=True)) for records in (training, *kept))
    for leak in training_leaks(*parts):
        logger.warning("leak: %s", leak)
    digests = {
        "training": [
            tile_digest(f"{item.dataset}/{tile.id}", tile)
            for item, of_item in zip(items, tiles, strict=True)
            for tile in of_item
        ],
        "validation": [
            tile_digest(f"{dataset}/{record.id}", record.load())
            for dataset, records in validation.items()
            for record in records
        ],
    }
    return TrainingData(items, tiles, validation, names, digests)


def build_crops(
    recipe: Recipe,
    data: TrainingData,
    config: CfSamConfig | UNetConfig,
    image_processor: CfSamImageProcessor,
    accelerator: Accelerator,
) -> CropDataset:
    """All crops of a run; crop i is the same in every run of this recipe, seed and data.

    Args:
        recipe, data: what to draw from, and how.
        config: of the model: its pixel size, and its types, by whose names the tiles' are found.
        image_processor: how pixels are normalised.
        accelerator: the processes that share the crops.

    Raises:
        ValueError: the model lacks the style that a data item names, or no data item is taught by the teacher.
    """
    if recipe.model.teacher and not any(item.taught for item in data.items):
        raise ValueError(
            f"teacher is {recipe.model.teacher}, but every data item has taught=false: remove one of them."
        )
    size = recipe.data.crop_size
    has_styles = bool(getattr(config, "styles", None))
    # Also where the model has no styles, so that a data item that names one is refused.
    numbers = {item.style: style_number(config, item.style) for item in data.items}
    sources = [
        CropSource(
            name=item.path,
            tiles=tiles,
            weight=item.weight,
            # Tiles of one folder have one vocabulary.
            type_mapping=match_types(tiles[0].type_names, config.type_names),
            sampling=recipe.sampling,
            style_id=numbers[item.style] if has_styles else None,
            scale_jitter=item.scale_jitter,
            incomplete=item.incomplete,
            taught=item.taught if recipe.model.teacher else None,
        )
        for item, tiles in zip(data.items, data.tiles, strict=True)
    ]
    return CropDataset(
        sources,
        size=size + (shift_margin(size) if recipe.optimization.agreement_weight else 0),
        image_mean=image_processor.image_mean,
        image_std=image_processor.image_std,
        length=recipe.optimization.steps * crops_per_step(recipe, accelerator),
        seed=recipe.optimization.seed,
        num_types=len(config.type_names),
        mpp=config.mpp,
        augmentation=recipe.data.augmentation_settings(),
    )


def picture_examples(
    recipe: Recipe, data: TrainingData, config: CfSamConfig | UNetConfig, number: int = 4
) -> list[Example]:
    """Upright crops for pictures, the same in every run: of validation tiles, or of training tiles if there are none.

    Args:
        recipe, data: of the run.
        config: of the model.
        number: of examples at most; one per tile.
    """
    records = [record for of_set in data.validation.values() for record in of_set]
    # Some of every data set: the list holds one data set after the other.
    records = records[:: max(1, len(records) // number)][:number]
    tiles = [record.load() for record in records] or [tile for of_item in data.tiles for tile in of_item][:number]
    ids = {name: type_id for type_id, name in config.type_names.items()}
    examples = []
    for tile in tiles:
        source = CropSource(
            name=tile.id,
            tiles=[tile],
            type_mapping={i: ids.get(name) for i, name in tile.type_names.items()} or None,
            sampling=SamplingOptions(nucleus_probability=1.0),
        )
        of_tile = CropDataset(
            [source],
            size=recipe.data.crop_size,
            image_mean=(0, 0, 0),
            image_std=(1, 1, 1),
            length=1,
            num_types=len(config.type_names),
            mpp=config.mpp,
            augmentation=None,
        )
        image, instance_map, type_map, _ = of_tile.cut_crop(np.random.default_rng(recipe.optimization.seed))
        examples.append(Example(image, instance_map, type_map))
    return examples
