"""A picture of how far the model is: input, truth, prediction and boundary of a few crops, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries
from transformers import PreTrainedModel

from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.nucleus_types import default_type_color, rgb

COLUMNS = ("input", "truth", "prediction", "boundary")
GAP = 6
HEADER = 18
MARGIN_COLOR = (255, 255, 255)
INK = (32, 33, 36)
UNKNOWN_COLOR = (150, 150, 150)


@dataclass(frozen=True)
class Example:
    """A crop as it is annotated, in the model's pixels and types.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        instance_map: (size, size) integers, 0 background.
        type_map: (size, size) ids of the model's types, anything else for unknown; `None` without types.
    """

    image: np.ndarray
    instance_map: np.ndarray
    type_map: np.ndarray | None = None


def comparison_picture(
    model: PreTrainedModel, image_processor: CfSamImageProcessor, examples: Sequence[Example], device: torch.device
) -> Image.Image:
    """Draws the examples, a row each, with what the model says of them.

    Contours have the colours of the types, those without a type the first colour; unknown types are grey. The last
    column is the probability of the boundary map, black 0 to white 1, empty for a model without one.
    """
    values = image_processor.pixel_values(np.stack([example.image for example in examples]))
    with torch.inference_mode():
        outputs = model(pixel_values=torch.from_numpy(values).to(device))
    results = image_processor.post_process_nuclei(outputs, type_names=model.config.type_names)
    boundaries = (
        None if outputs.boundary_logits is None else outputs.boundary_logits[:, 0].float().sigmoid().cpu().numpy()
    )
    colors = {i: rgb(color) for i, color in enumerate(model.config.type_colors or [], start=1)}
    rows = []
    for position, (example, result) in enumerate(zip(examples, results, strict=True)):
        types = np.concatenate([[0], result.table["type"].to_numpy(dtype=np.int64)])[result.instance_map]
        boundary = np.zeros(example.image.shape, np.uint8)
        if boundaries is not None:
            boundary[:] = np.rint(boundaries[position] * 255).astype(np.uint8)[..., None]
        rows.append(
            [
                example.image,
                outlined(example.image, example.instance_map, example.type_map, colors),
                outlined(example.image, result.instance_map, types if model.config.num_types else None, colors),
                boundary,
            ]
        )
    return _table(rows)


def outlined(
    image: np.ndarray,
    instance_map: np.ndarray,
    type_map: np.ndarray | None,
    colors: Mapping[int, tuple[int, int, int]],
) -> np.ndarray:
    """The image (H, W, 3) uint8 with the outermost pixels of each nucleus in the colour of its type."""
    picture = image.copy()
    edge = find_boundaries(instance_map, mode="inner", connectivity=1)
    if type_map is None:
        picture[edge] = colors.get(1, rgb(default_type_color(1)))
        return picture
    picture[edge] = UNKNOWN_COLOR
    for type_id, color in colors.items():
        picture[edge & (type_map == type_id)] = color
    return picture


def _table(rows: list[list[np.ndarray]]) -> Image.Image:
    size = rows[0][0].shape[0]
    # Small crops are doubled until a nucleus can be seen.
    side = size
    while side < 192:
        side *= 2
    width, height = len(COLUMNS) * (side + GAP) + GAP, len(rows) * (side + GAP) + GAP + HEADER
    canvas = Image.new("RGB", (width, height), MARGIN_COLOR)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(COLUMNS):
        x = GAP + column * (side + GAP)
        draw.text((x, 4), title, fill=INK)
        for row, pictures in enumerate(rows):
            picture = Image.fromarray(pictures[column]).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (x, HEADER + GAP + row * (side + GAP)))
    return canvas
