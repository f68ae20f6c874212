"""Learning from another model's maps beside the labels (distillation, Hinton, Vinyals and Dean 2015).

The maps of a trained model are smoother than labels, whose outlines differ from annotator to annotator, and they exist
where labels do not: in images with points alone. Only the labels tell the model where the teacher errs, so both are
learned together.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..baselines.unet import UNetConfig
from ..data import match_types
from ..model.adapter_files import content_hash
from ..model.configuration_cfsam import CfSamConfig
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.losses import IGNORE_INDEX
from ..model.modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
from ..model.processing_cfsam import saved_image_processor
from .divergence import binary_divergence, offset_difference, type_divergence
from .models import checkpoint_of, is_unet
from .recipe import Recipe

logger = logging.getLogger(__name__)

TAUGHT_MAPS = ("nuclei_logits", "hv_maps", "boundary_logits", "type_logits")


class Teacher:
    """A frozen model whose maps are targets. It draws in its neutral style.

    Args:
        model: the teacher.
        type_order: for each channel of the type maps of the model that learns, the teacher's channel of that name;
            `None` if their types differ, so that types are learned from labels alone.
        autocast: context in which it computes.
    """

    def __init__(
        self,
        model: CfSamForNucleiSegmentation,
        type_order: list[int] | None,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.model = model.eval().requires_grad_(False)
        self.type_order = type_order
        self._autocast = autocast

    @property
    def info(self) -> dict[str, Any]:
        """What the checkpoint says about itself."""
        return self.model.config.checkpoint_info or {}

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, by which a resumed run knows it again."""
        return content_hash(self.model.state_dict(), torch.float32)

    def loss(
        self,
        outputs: CfSamNucleiSegmentationOutput,
        pixel_values: torch.Tensor,
        taught: torch.Tensor,
        type_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Measures how much the refined maps differ from the teacher's: the sum of the divergences of nuclei, boundary
        and types, and of the squared distance of the offsets inside the teacher's nuclei.

        Args:
            outputs: of the model that learns.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): what it has seen.
            taught (`torch.Tensor` of shape `(B,)`, bool): the images for which the teacher is asked.
            type_labels (`torch.Tensor` of shape `(B, H, W)`, *optional*): types are learned from the teacher only in
                images with some typed pixels, since types mean nothing in other tissue.

        Returns:
            A scalar, float32: the mean over the B images, of which those that are not taught count as 0.
        """
        if not taught.any():
            return 0 * outputs["nuclei_logits"].float().sum()
        with torch.no_grad(), self._autocast():
            target = self.model(pixel_values[taught])
        found = {name: maps[taught].float() for name, maps in outputs.items() if name in TAUGHT_MAPS}
        nuclei = target["nuclei_logits"].float().sigmoid()
        total = binary_divergence(found["nuclei_logits"], nuclei)
        total = total + offset_difference(found["hv_maps"], target["hv_maps"].float(), nuclei)
        if "boundary_logits" in found and "boundary_logits" in target:
            boundary = target["boundary_logits"].float().sigmoid()
            total = total + binary_divergence(found["boundary_logits"], boundary)
        if self.type_order is not None and type_labels is not None and "type_logits" in found:
            typed = (type_labels[taught] != IGNORE_INDEX).flatten(1).any(1)
            if typed.any():
                types = target["type_logits"].float().softmax(1)[:, self.type_order]
                of_typed = type_divergence(found["type_logits"][typed], types[typed])
                total = total + of_typed * typed.float().mean()
        return total * taught.float().mean()


def load_teacher(
    recipe: Recipe,
    config: CfSamConfig | UNetConfig,
    image_processor: CfSamImageProcessor,
    autocast: Callable[[], AbstractContextManager],
) -> Teacher | None:
    """The teacher of a recipe, on the CPU; `None` without one.

    Args:
        recipe: names it.
        config, image_processor: of the model that learns.
        autocast: context in which the teacher computes.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it is not a CF-SAM checkpoint, reads another pixel size or other colours than the model, or cannot
            read windows of the recipe's `crop_size`.
    """
    name = recipe.model.teacher
    if not name:
        return None
    path = checkpoint_of(name)
    if path is None or is_unet(path):
        raise ValueError(
            f"teacher is {name}, which is not a CF-SAM checkpoint; name a bundled one, a folder or a Hub id of one."
        )
    model = CfSamForNucleiSegmentation.from_pretrained(path, dtype=torch.float32)
    processor, pad_multiple = saved_image_processor(path), model.config.pad_multiple
    if model.config.mpp != config.mpp:
        raise ValueError(
            f"teacher {name} reads {model.config.mpp} um per pixel, and the model {config.mpp}; they must be equal."
        )
    if recipe.data.crop_size % pad_multiple:
        raise ValueError(
            f"crop_size is {recipe.data.crop_size}, but teacher {name} needs a multiple of {pad_multiple}."
        )
    if any(getattr(processor, key) != getattr(image_processor, key) for key in ("image_mean", "image_std")):
        raise ValueError(f"teacher {name} normalises colours by other values than the model; name another teacher.")
    return Teacher(model, _type_order(name, model.config, config), autocast)


def _type_order(name: str, teacher: CfSamConfig, config: CfSamConfig | UNetConfig) -> list[int] | None:
    """The teacher's channel for the background and each of the model's types; `None` if their types differ."""
    if set(teacher.type_names.values()) != set(config.type_names.values()):
        if config.type_names:
            logger.info("types are learned from labels alone: teacher %s has other ones", name)
        return None
    numbers = match_types(config.type_names, teacher.type_names)
    return None if numbers is None else [0, *(numbers[number] for number in sorted(numbers))]
