"""A picture of what the augmentation does, with the labels' outlines drawn, to be looked at before training."""

from collections.abc import Sequence
from dataclasses import fields, replace

import cv2
import numpy as np

from ..data.crops.augmentation import AugmentationOptions
from ..data.crops.dataset import CropDataset, CropSource
from ..data.crops.sampling import SamplingOptions
from ..data.records import Tile

_MARGIN = 4
_CAPTION = 18


def augmentation_names() -> list[str]:
    """The kinds of change, each a field `<name>_probability` of `AugmentationOptions`."""
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
    """Draw one row of crops for each kind of change alone, and a last row as training sees them.

    The strengths are those of `options`; rows of single changes apply them to every crop, whatever their probability.
    Stain transfer gets a row only where its probability is positive, since it needs torchstain.

    Args:
        tiles: where the crops come from.
        options: strengths, and probabilities of the last row.
        size: side of the crops in pixels.
        columns: crops in a row; the same for all rows of one `seed` as far as the place is concerned.
        seed: of places and changes.
        mpp: micrometres per pixel of the crops; None leaves the tiles as they are.

    Returns:
        `(H, W, 3)` uint8. Outlines are yellow; grey are pixels that nobody annotated.

    Raises:
        ValueError: fewer than one column, or no tiles.
    """
    if columns < 1:
        raise ValueError(f"columns must be positive, got {columns}")
    nothing = replace(options, **{f"{name}_probability": 0.0 for name in augmentation_names()})
    rows = {"as it is": nothing}
    for name in augmentation_names():
        if name != "stain_transfer" or options.stain_transfer_probability > 0:
            rows[name.replace("_", " ")] = replace(nothing, **{f"{name}_probability": 1.0})
    rows["as in training"] = options
    pictures = []
    for caption, row_options in rows.items():
        source = CropSource("tiles", tiles, sampling=SamplingOptions(nucleus_probability=1.0))
        crops = CropDataset(
            [source], size, (0, 0, 0), (1, 1, 1), length=columns, seed=seed, mpp=mpp, augmentation=row_options
        )
        pictures.append(_row(crops, columns, seed, caption))
    return np.concatenate(pictures)


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
