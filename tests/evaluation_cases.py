"""Painted tiles on disk, with splits and types, that the tests of the evaluation share."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .painted_model import paint

NAMES = {1: "inflammatory", 2: "epithelial"}


def write_tiles(folder: Path, count: int = 4, size: int = 96) -> Path:
    """Typed pairs `tile0`, `tile1`, ... for the reader `instance_pairs`, with tissues and `split.json` beside."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["name,tissue,mpp"]
    for tile in range(count):
        image, instance_map, types = paint(size, size, count=10, seed=tile)
        Image.fromarray(image).save(folder / f"tile{tile}.png")
        Image.fromarray(instance_map.astype(np.uint16)).save(folder / f"tile{tile}_instances.png")
        type_map = np.concatenate([[0], types])[instance_map].astype(np.uint8)
        Image.fromarray(type_map).save(folder / f"tile{tile}_types.png")
        rows.append(f"tile{tile},{('Colon', 'Breast')[tile % 2]},0.25")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    names = [f"tile{tile}" for tile in range(count)]
    split = {"dataset": "painted", "train": names[:1], "validation": names[1:]}
    (folder.parent / "split.json").write_text(json.dumps(split))
    return folder


def data_item(folder: Path, *more: str) -> str:
    """The folder of `write_tiles` with its split, as it is written after `--data`."""
    names = json.dumps({str(i): name for i, name in NAMES.items()})
    parts = [f"reader=instance_pairs,path={folder},split={folder.parent / 'split.json'}", f"type_names={names}", *more]
    return ",".join(parts)


def write_pannuke(root: Path, per_fold: int = 4) -> Path:
    """A PanNuke download in its official layout: 256 px patches of three folds, of two tissues, one patch empty."""
    rng = np.random.default_rng(0)
    for fold in (1, 2, 3):
        images = np.zeros((per_fold, 256, 256, 3))
        masks = np.zeros((per_fold, 256, 256, 6))
        for index in range(per_fold):
            picture, instance_map, types = paint(256, 256, count=12, seed=10 * fold + index)
            if index == per_fold - 1:
                picture, instance_map = np.full_like(picture, (0, 128, 128)), np.zeros_like(instance_map)
            images[index] = picture
            # Inflammatory is channel 1, epithelial channel 4; ids have gaps, as the official ones.
            for nucleus, kind in enumerate(types, start=1):
                masks[index, instance_map == nucleus, 1 if kind == 1 else 4] = 3 * nucleus
            masks[index, ..., 5] = instance_map == 0
        folder = root / f"Fold {fold}"
        (folder / "images" / f"fold{fold}").mkdir(parents=True)
        (folder / "masks" / f"fold{fold}").mkdir(parents=True)
        np.save(folder / "images" / f"fold{fold}" / "images.npy", images)
        tissues = np.array(["Breast", "Colon"])[rng.integers(0, 2, per_fold)]
        np.save(folder / "images" / f"fold{fold}" / "types.npy", tissues)
        np.save(folder / "masks" / f"fold{fold}" / "masks.npy", masks)
    return root
