"""Tiles, a base and recipes small enough for runs of seconds; for the tests of training."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from accelerate.tracking import GeneralTracker
from accelerate.utils import set_seed

from cfsam_hf.training import (
    Recipe,
    TrainingRun,
    build_crops,
    build_model,
    build_processor,
    load_training_data,
    make_accelerator,
    make_recipe,
)

from .tiny import SIZE, tiny_test_model

TYPES = ("flat", "round")


def write_tiles(root: Path, tiles: int = 3) -> Path:
    """Painted tiles with their label maps in `root/pairs`, and a split of them, the last for validation."""
    folder = root / "pairs"
    folder.mkdir(parents=True)
    for tile in range(tiles):
        image, labels = _paint(tile)
        cv2.imwrite(str(folder / f"tile{tile}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / f"tile{tile}_instances.png"), labels)
    _write_split(root, tiles)
    return folder


def write_qupath_tiles(root: Path, tiles: int = 3) -> Path:
    """The same tiles in `root/qupath`, as QuPath exports them, with the classes `TYPES`."""
    folder = root / "qupath"
    folder.mkdir(parents=True)
    for tile in range(tiles):
        image, labels = _paint(tile)
        cv2.imwrite(str(folder / f"tile{tile}.png"), image[..., ::-1])
        features = []
        for nucleus in range(1, labels.max() + 1):
            y, x = np.nonzero(labels == nucleus)
            if len(x):
                x0, y0, x1, y1 = (int(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))
                ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
                features.append(
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                        "properties": {"objectType": "annotation", "classification": {"name": TYPES[nucleus % 2]}},
                    }
                )
        collection = {"type": "FeatureCollection", "features": features}
        (folder / f"tile{tile}.geojson").write_text(json.dumps(collection))
    _write_split(root, tiles)
    return folder


def _paint(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (96, 96, 3) uint8 with eight ellipses, and its label map."""
    labels = np.zeros((96, 96), np.uint16)
    for i, (x, y) in enumerate(np.random.default_rng(seed).integers(10, 86, (8, 2)), start=1):
        cv2.ellipse(labels, (int(x), int(y)), (7, 7 if i % 2 else 4), 0, 0, 360, i, -1)
    return np.where(labels[..., None] > 0, (90, 60, 140), (230, 190, 220)).astype(np.uint8), labels


def _write_split(root: Path, tiles: int) -> None:
    names = [f"tile{tile}" for tile in range(tiles)]
    split = {"dataset": "painted", "train": names[:-1], "validation": names[-1:]}
    (root / "split.json").write_text(json.dumps(split))


def write_base(root: Path, **options) -> Path:
    """A tiny checkpoint in `root/base`."""
    tiny_test_model(**{"num_types": 0, **options}).save_pretrained(root / "base")
    return root / "base"


def smoke_values(root: Path, **changes) -> dict:
    """Values of a recipe of a few steps."""
    return {
        "output_dir": str(root / "run"),
        "base": str(root / "base"),
        "data": [f"reader=instance_pairs,path={root / 'pairs'},split={root / 'split.json'}"],
        "crop_size": SIZE,
        "tile_overlap": 16,
        "num_workers": 0,
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 1,
        "log_every": 1,
        "save_every": 2,
        "evaluate_every": 0,
        "picture_every": 0,
        "progress": False,
        **changes,
    }


def smoke_recipe(root: Path, **changes) -> Recipe:
    """A recipe of a few steps over what [`write_tiles`] and [`write_base`] have written."""
    return make_recipe(**smoke_values(root, **changes))


def start_run(recipe: Recipe, *trackers: GeneralTracker, dropout: float = 0.0) -> TrainingRun:
    """A run, as `examples/train.py` begins it.

    The model has no dropout of its own; with `dropout` its features have some, whose random numbers a resumed run has
    to draw again.
    """
    accelerator = make_accelerator(recipe, *trackers)
    set_seed(recipe.optimization.seed)
    data = load_training_data(recipe)
    model = build_model(recipe, list(data.type_names.values()))
    if dropout:
        model.mask_features.register_forward_hook(lambda part, _, out: F.dropout(out, dropout, part.training))
    processor = build_processor(recipe, model.config)
    crops = build_crops(recipe, data, model.config, processor.image_processor, accelerator)
    return TrainingRun(recipe, accelerator, data, model, processor, crops)


def write_checkpoint(recipe: Recipe, step: int = 2) -> None:
    """Runs the recipe for `step` steps and writes a checkpoint."""
    run = start_run(recipe)
    while run.step < step:
        run._optimise()
    run.save()


def resumed_run(recipe: Recipe, step: int = 2) -> TrainingRun:
    """A run of the recipe that goes on from a checkpoint that another one wrote after `step` steps."""
    write_checkpoint(recipe, step)
    resumed = start_run(recipe)
    assert resumed.step == step
    return resumed


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    """A copy of what is trained."""
    return {name: p.detach().clone() for name, p in run.plain.named_parameters() if p.requires_grad}
