"""A plain U-Net with the outputs, losses and decoding of CF-SAM, so that a comparison differs in the network alone.

Ronneberger, Fischer and Brox 2015: two 3x3 convolutions per level, resolution halved on the way down and doubled on
the way up, skip connections concatenated. Layer norms over channels and ReLUs as in CF-SAM's heads. With `stem_stride`
2 the finest level and the maps have stride 2, as in CF-SAM.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageSegmentation, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..model.configuration_cfsam import NucleusTypesMixin
from ..model.fusion import ConvBlock, UpsampleBlock
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.losses import LossWeights, nuclei_segmentation_loss
from ..model.modeling_cfsam import CfSamNucleiSegmentationOutput, CfSamPreTrainedModel


@strict
class UNetConfig(NucleusTypesMixin, PreTrainedConfig):
    """Configuration of [`UNetForNucleiSegmentation`].

    Args:
        widths (`list[int]`): channels of the levels, finest first; each level halves the resolution.
        stem_stride (`int`): stride of the first convolution, 1 or 2; the finest level and the maps have it too.
        num_types, id2label, type_colors, mpp, nuclei_loss, loss_weights, type_loss_weights, checkpoint_info:
            As in [`CfSamConfig`].

    Raises:
        ValueError: a field is out of range, or `num_types` and `id2label` disagree.
    """

    model_type = "unet_nuclei"

    widths: list[int] | tuple[int, ...] = (40, 80, 160, 240, 304)
    stem_stride: int = 2

    num_types: int | None = None
    type_colors: list[str] | tuple[str, ...] | None = None
    mpp: float | int = 0.25
    nuclei_loss: str = "bce"
    loss_weights: dict[str, float | int] | None = None
    type_loss_weights: list[float | int] | tuple[float | int, ...] | None = None
    checkpoint_info: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self._resolve_types()
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"widths must be two or more positive numbers, got {self.widths}.")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, got {self.stem_stride}.")

    @property
    def pad_multiple(self) -> int:
        """Height and width of tiles must be multiples of this number of pixels."""
        return self.stem_stride * 2 ** (len(self.widths) - 1)


def _two_convolutions(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(ConvBlock(in_channels, out_channels, stride=stride), ConvBlock(out_channels, out_channels))


class UNetForNucleiSegmentation(PreTrainedModel):
    """A plain U-Net that predicts the maps of [`CfSamForNucleiSegmentation`] and trains with its losses."""

    config_class = UNetConfig
    config: UNetConfig
    base_model_prefix = "unet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # `forward` accepts any keyword; transformers' Trainer would conclude that it averages over accumulated steps.
    accepts_loss_kwargs = False

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        widths = list(config.widths)
        self.first = _two_convolutions(3, widths[0], stride=config.stem_stride)
        self.down = nn.ModuleList([_two_convolutions(a, b, stride=2) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([UpsampleBlock(b, a) for a, b in pairwise(widths)])
        self.join = nn.ModuleList([_two_convolutions(2 * a, a) for a in widths[:-1]])
        # Nuclei, horizontal, vertical, boundary, then background and the types.
        self.maps = nn.Conv2d(widths[0], 4 + (config.num_types + 1 if config.num_types else 0), 1)
        self.loss_weights = LossWeights.from_config(config.loss_weights)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.in_channels
            init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    get_nb_trainable_parameters = CfSamPreTrainedModel.get_nb_trainable_parameters

    def forward(
        self,
        pixel_values: torch.Tensor,
        nuclei_labels: torch.Tensor | None = None,
        hv_labels: torch.Tensor | None = None,
        type_labels: torch.Tensor | None = None,
        boundary_labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> CfSamNucleiSegmentationOutput | tuple:
        """The maps, and the loss if there are labels; shapes as in `CfSamForNucleiSegmentation.forward`.

        Raises:
            ValueError: the size is not a multiple of `config.pad_multiple`; `nuclei_labels` come without `hv_labels`.
        """
        height, width = pixel_values.shape[2:]
        if height % self.config.pad_multiple or width % self.config.pad_multiple:
            raise ValueError(
                f"Height and width must be multiples of {self.config.pad_multiple}, got {height}x{width}."
            )
        features = self.first(pixel_values)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(skips), strict=True):
            features = join(torch.cat([up(features), skip], dim=1))
        maps = F.interpolate(self.maps(features), size=(height, width), mode="bilinear", align_corners=False)
        typed = maps[:, 4:] if self.config.num_types else None
        nuclei, offsets, boundary = maps[:, :1], maps[:, 1:3], maps[:, 3:4]

        loss, loss_parts = None, None
        if nuclei_labels is not None:
            if hv_labels is None:
                raise ValueError("nuclei_labels came without hv_labels; the loss needs both")
            type_weights = self.config.type_loss_weights
            loss, loss_parts = nuclei_segmentation_loss(
                (nuclei, offsets, typed),
                None,
                boundary,
                nuclei_labels,
                hv_labels,
                type_labels,
                boundary_labels,
                self.loss_weights,
                self.config.nuclei_loss,
                None if type_weights is None else [float(weight) for weight in type_weights],
            )
        output = CfSamNucleiSegmentationOutput(loss, loss_parts, nuclei, offsets, typed, boundary_logits=boundary)
        return output.to_tuple() if return_dict is False else output


AutoConfig.register("unet_nuclei", UNetConfig, exist_ok=True)
AutoModel.register(UNetConfig, UNetForNucleiSegmentation, exist_ok=True)
AutoModelForImageSegmentation.register(UNetConfig, UNetForNucleiSegmentation, exist_ok=True)
AutoImageProcessor.register(
    UNetConfig,
    image_processor_classes={"pil": CfSamImageProcessor, "torchvision": CfSamImageProcessor},
    exist_ok=True,
)
