"""A picture of the augmentation: crops after each kind of change, with the outlines of their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np

from ..data.crops.augmentation import AugmentationOptions
from ..data.crops.dataset import CropDataset, CropSource
from ..data.crops.sampling import SamplingOptions
from ..data.records import Tile

_MARGIN = 4
_CAPTION = 18


def augmentation_names() -> list[str]:
    """Names of the kinds of change; each has a field `<name>_probability` in `AugmentationOptions`."""
    return [
        option.name.removesuffix("_probability")
        for option in fields(AugmentationOptions)
        if option.name.endswith("_probability")
    ]


def augmentation_sheet(
    tiles: Sequence[Tile],
    options: AugmentationOptions,
    size: int = 256,
    columns: int = 6,
    seed: int = 0,
    mpp: float | None = None,
) -> np.ndarray:
    """Draws a row of unchanged crops, a row for each kind of change alone, and a row of crops as in training.

    The strengths are those of `options`; the rows of single changes apply them to every crop, whatever their
    probability. Stain transfer gets a row only if its probability is positive, since it needs torchstain.

    Args:
        tiles: source of the crops.
        options: strengths, and the probabilities of the last row.
        size: side of the crops in pixels.
        columns: crops in a row; all rows show the same places.
        seed: of places and changes.
        mpp: micrometres per pixel of the crops; None keeps the pixel size of the tiles.

    Returns:
        `(H, W, 3)` uint8. Outlines are yellow, unannotated pixels grey.

    Raises:
        ValueError: `columns` is not positive, or there are no tiles.
    """
    if columns < 1:
        raise ValueError(f"columns must be positive, got {columns}")
    nothing = _with_probabilities(options, dict.fromkeys(augmentation_names(), 0.0))
    rows = {"unchanged": nothing}
    for name in augmentation_names():
        if name != "stain_transfer" or options.stain_transfer_probability > 0:
            rows[name.replace("_", " ")] = _with_probabilities(nothing, {name: 1.0})
    rows["as in training"] = options
    pictures = []
    for caption, row_options in rows.items():
        source = CropSource("tiles", tiles, sampling=SamplingOptions(nucleus_probability=1.0))
        crops = CropDataset(
            [source], size, (0, 0, 0), (1, 1, 1), length=columns, seed=seed, mpp=mpp, augmentation=row_options
        )
        pictures.append(_row(crops, columns, seed, caption))
    return np.concatenate(pictures)


def _with_probabilities(options: AugmentationOptions, probabilities: Mapping[str, float]) -> AugmentationOptions:
    changes: dict[str, Any] = {f"{name}_probability": value for name, value in probabilities.items()}
    return replace(options, **changes)


def _row(crops: CropDataset, columns: int, seed: int, caption: str) -> np.ndarray:
    side = crops.size + _MARGIN
    picture = np.full((side + _CAPTION, columns * side + _MARGIN, 3), 255, dtype=np.uint8)
    cv2.putText(picture, caption, (_MARGIN, _CAPTION - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    for column in range(columns):
        image, targets = crops.make_crop(np.random.default_rng((seed, column)))
        image = image.copy()
        image[targets["nuclei_labels"] == -100] = 128
        image[(targets["boundary_labels"] == 1) & (targets["nuclei_labels"] == 1)] = (255, 220, 0)
        left = _MARGIN + column * side
        picture[_CAPTION : _CAPTION + crops.size, left : left + crops.size] = image
    return picture
