"""Draws what a model finds in a few crops during training, beside their annotation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from ..drawing.outlines import Color, ColoredNuclei
from ..drawing.training_examples import ExampleRow, examples_picture
from ..metrics.nucleus_types import types_from_map
from ..model.configuration_cfsam import rgb
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.result import UNTYPED_COLOR

UNKNOWN_COLOR = (150, 150, 150)
"""Colour of nuclei of unknown type; no type is grey."""


@dataclass(frozen=True, eq=False)
class Example:
    """A crop and its annotation, in the model's pixels and types.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        instance_map: (S, S) integers, 0 background.
        type_map: (S, S) ids of the model's types, any other value for unknown; None without types.
    """

    image: np.ndarray
    instance_map: np.ndarray
    type_map: np.ndarray | None = None


def comparison_picture(
    model: PreTrainedModel, image_processor: CfSamImageProcessor, examples: Sequence[Example], device: torch.device
) -> Image.Image:
    """Runs the model on the examples and draws a row for each.

    Contours have the colours of the types. Nuclei of unknown type are grey; without types, all nuclei have the first
    colour.

    Args:
        model: in evaluation mode.
        image_processor: makes the pixel values and decodes the outputs.
        examples: at least one; all crops have the same size.
        device: the model's.
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
        found = dict(zip(result.table["id"].tolist(), result.table["type"].tolist(), strict=True))
        rows.append(
            ExampleRow(
                example.image,
                colored_nuclei(example.instance_map, _annotated_types(example, colors), colors),
                colored_nuclei(result.instance_map, found if model.config.num_types else None, colors),
                None if boundaries is None else boundaries[position],
            )
        )
    return examples_picture(rows)


def colored_nuclei(
    instance_map: np.ndarray, types: Mapping[int, int] | None, colors: Mapping[int, Color]
) -> ColoredNuclei:
    """The nuclei of a crop in the colours of their types.

    Args:
        instance_map: (S, S) integers, 0 background.
        types: type of each nucleus by id; None without types.
        colors: RGB by type; nuclei of any other type are grey.
    """
    ids = np.unique(instance_map[instance_map > 0]).tolist()
    if types is None:
        return ColoredNuclei(instance_map, dict.fromkeys(ids, colors.get(1, UNTYPED_COLOR)))
    return ColoredNuclei(instance_map, {i: colors.get(types[i], UNKNOWN_COLOR) for i in ids})


def _annotated_types(example: Example, colors: Mapping[int, Color]) -> dict[int, int] | None:
    if example.type_map is None:
        return None
    known = np.where(np.isin(example.type_map, list(colors)), example.type_map, 0)
    return types_from_map(example.instance_map, known)
