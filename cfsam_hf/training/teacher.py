"""Learning from another model's maps beside the labels (distillation, Hinton, Vinyals and Dean 2015).

The maps of a trained model are smoother than labels, whose outlines differ from annotator to annotator, and they exist
where labels do not: in images with points alone. Only the labels tell the model where the teacher errs, so both are
learned together.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from ..model.configuration_cfsam import CfSamConfig
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
from ..model.processing_cfsam import saved_image_processor
from .divergence import binary_divergence, offset_difference, type_divergence
from .models import checkpoint_of, is_unet
from .recipe import Recipe

TAUGHT_MAPS = ("nuclei_logits", "hv_maps", "boundary_logits", "type_logits")


class Teacher:
    """A frozen model whose maps are targets. It draws in its neutral style.

    Args:
        model: the teacher.
        knows_types: whether its types are those of the model that learns, so that they are targets too.
        autocast: context in which it computes.
    """

    def __init__(
        self,
        model: CfSamForNucleiSegmentation,
        knows_types: bool,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.model = model.eval().requires_grad_(False)
        self.knows_types = knows_types
        self._autocast = autocast

    def loss(
        self, outputs: CfSamNucleiSegmentationOutput, pixel_values: torch.Tensor, taught: torch.Tensor
    ) -> torch.Tensor:
        """Measures how much the refined maps differ from the teacher's: the sum of the divergences of nuclei, boundary
        and types, and of the squared distance of the offsets inside the teacher's nuclei.

        Args:
            outputs: of the model that learns.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): what it has seen.
            taught (`torch.Tensor` of shape `(B,)`, bool): the images for which the teacher is asked.

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
        if self.knows_types and "type_logits" in found:
            total = total + type_divergence(found["type_logits"], target["type_logits"].float().softmax(1))
        return total * taught.float().mean()


def load_teacher(
    recipe: Recipe,
    config: CfSamConfig,
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
        ValueError: it is not a CF-SAM checkpoint, or sees images in another way than the model.
    """
    name = recipe.model.teacher
    if not name:
        return None
    path = checkpoint_of(name)
    if path is None or is_unet(path):
        raise ValueError(f"teacher is {name}, which is not a CF-SAM checkpoint; name a bundled one, or a folder.")
    model = CfSamForNucleiSegmentation.from_pretrained(path, dtype=torch.float32)
    processor, of = saved_image_processor(path), model.config
    size = recipe.data.crop_size
    if of.mpp != config.mpp:
        raise ValueError(
            f"teacher {name} reads {of.mpp} um per pixel, and the model {config.mpp}; they must be equal."
        )
    if size % of.pad_multiple:
        raise ValueError(f"crop_size is {size}, but teacher {name} needs a multiple of {of.pad_multiple}.")
    if any(getattr(processor, key) != getattr(image_processor, key) for key in ("image_mean", "image_std")):
        raise ValueError(f"teacher {name} normalises colours by other values than the model; name another teacher.")
    return Teacher(model, bool(of.type_names) and of.type_names == config.type_names, autocast)
