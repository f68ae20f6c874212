"""The configuration of CF-SAM: SAM's configuration, with this model's fields at top level."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import SamConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

FORMAT_VERSION = 1

TYPE_TRUNKS = ("efficientnet-lite0",)
"""Pretrained networks for the type branch and for details."""

JOINS = ("double", "single", "separable")
"""How coarser features and details are joined at each level."""

NEUTRAL_STYLE = "neutral"

MAX_DILATION = 256
"""Cells between the taps of a convolution: at mask stride 2, farther than a tile reaches."""

MAX_TYPES, MAX_LAYERS = 1000, 1000
"""Limits of what lists are made for, since a configuration may come from a stranger."""

MAX_NAME_LENGTH = 100
"""Characters in the name of a type or style."""

DEFAULT_TYPE_COLORS = (
    "#009e73",
    "#d55e00",
    "#0072b2",
    "#f0e442",
    "#56b4e9",
    "#e69f00",
    "#cc79a7",
)
"""Okabe and Ito's palette for colour-blind readers, in an order that contrasts with pink and purple."""


def default_type_color(type_id: int) -> str:
    """Colour `#rrggbb` of type 1, 2, ...; colours repeat after the seventh."""
    return DEFAULT_TYPE_COLORS[(type_id - 1) % len(DEFAULT_TYPE_COLORS)]


def rgb(color: str) -> tuple[int, int, int]:
    """Converts `#rrggbb` to numbers 0..255.

    >>> rgb("#0072b2")
    (0, 114, 178)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def is_type_name(name: Any) -> bool:
    """Whether something can be the name of a type: 1 to `MAX_NAME_LENGTH` characters, none of them a control one."""
    # Names are written to terminals, tables and pictures, so a stranger's must not hold escape sequences.
    is_text = isinstance(name, str) and 0 < len(name.strip()) <= len(name) <= MAX_NAME_LENGTH
    return is_text and not any(unicodedata.category(character) == "Cc" for character in name)


class NucleusTypesMixin:
    """For a configuration class with the fields `num_types`, `id2label`, `label2id` and `type_colors`."""

    num_types: Any
    id2label: Any
    label2id: Any
    type_colors: Any

    def _resolve_types(self) -> None:
        """Makes `num_types`, `id2label`, `label2id` and `type_colors` agree."""
        names = self._given_names()
        if self.num_types is None:
            self.num_types = 0 if list(names.values()) == ["nucleus"] else len(names)
        if not 0 <= self.num_types <= MAX_TYPES:
            raise ValueError(f"num_types must lie in 0..{MAX_TYPES}, got {self.num_types!r:.20}.")
        if self.num_types == 0:
            if names not in ({}, {1: "nucleus"}):
                raise ValueError(f"num_types is 0 but id2label names the types {names!s:.200}; remove one of the two.")
            names = {1: "nucleus"}
        elif not names:
            names = {i: f"type {i}" for i in range(1, self.num_types + 1)}
        if self.num_types and sorted(names) != list(range(1, self.num_types + 1)):
            raise ValueError(
                f"id2label must name the types 1..{self.num_types} (0 is background), got the ids "
                f"{sorted(names)!s:.200}."
            )
        for type_id, name in names.items():
            if not is_type_name(name):
                raise ValueError(
                    f"id2label must give each type a name of 1 to {MAX_NAME_LENGTH} characters without control "
                    f"characters, got {name!r:.60} for the type {type_id}."
                )
        if len(set(names.values())) != len(names):
            raise ValueError(f"Two types have the same name in id2label: {names!s:.200}.")
        self.id2label = {0: "background", **dict(sorted(names.items()))}
        self.label2id = {name: i for i, name in self.id2label.items()}
        if self.type_colors is None:
            self.type_colors = [default_type_color(i) for i in names]
        self.type_colors = list(self.type_colors)
        if len(self.type_colors) != len(names):
            raise ValueError(f"type_colors needs {len(names)} colours, one per type, got {len(self.type_colors)}.")
        for color in self.type_colors:
            if len(color) != 7 or color[0] != "#" or any(c not in "0123456789abcdefABCDEF" for c in color[1:]):
                raise ValueError(f"type_colors must be written #rrggbb, got {color!r}.")

    def _given_names(self) -> dict[int, str]:
        """The names of types in `id2label`, without the meaningless LABEL_0, LABEL_1 of a plain SAM configuration."""
        return {i: name for i, name in (self.id2label or {}).items() if i != 0 and name != f"LABEL_{i}"}

    @property
    def type_names(self) -> dict[int, str]:
        """Names of the types by id 1..T; empty if the model does not classify nuclei."""
        return {i: name for i, name in self.id2label.items() if 1 <= i <= self.num_types}


@strict
class CfSamConfig(NucleusTypesMixin, SamConfig):
    """Configuration of [`CfSamForNucleiSegmentation`].

    The three SAM parts are where [`SamConfig`] has them (`vision_config`, `prompt_encoder_config`,
    `mask_decoder_config`), so the configuration of a plain `SamModel` can be loaded, and the fields below get their
    defaults. The paper (arXiv 2603.28027) fixes which parts exist; every number here is this project's choice.

    Args:
        num_types (`int`, *optional*):
            Number of nucleus types T without background. 0 finds nuclei without classifying them. Derived from
            `id2label` if only that is given; 0 if neither is.
        id2label (`dict[int, str]`, *optional*):
            Names of the types: `{0: "background", 1: ..., T: ...}` (the entry 0 is optional).
        type_colors (`list[str]`, *optional*):
            One `#rrggbb` colour per type 1..T. Default: a fixed palette.
        mpp (`float`, defaults to 0.25):
            Micrometres per pixel that the model works at.
        use_mala, adapter_dim, adapter_context_dim, adapter_kernel_sizes, adapter_dynamic, adapter_layers:
            MALA: on/off; bottleneck width r; context width q; odd kernel sizes; whether kernels and gates depend on
            the image; the encoder layers that have one (`None`: all).
        adapter_window (`int`, *optional*):
            Side in tokens of the windows for which MALA makes kernels and gates. Default: for the image as a whole.
        use_hmfm, fusion_dim, fusion_layers:
            HMFM: on/off; width D; the encoder layers that are fused (`None`: the global-attention layers).
        use_detail_stem (`bool`, defaults to `True`):
            The convolutional stem on the image, joined at the fine resolutions.
        detail_trunk (`str`, *optional*):
            `"efficientnet-lite0"`: the first stages of that network (to be loaded with pretrained weights) take the
            stem's place. A type branch then reads the same trunk, at full size alone, and has none of its own.
        trunk_tokens (`bool`, defaults to `False`):
            With `detail_trunk`: whether the trunk's level at stride 16 is added to the encoder's patches of 16 pixels.
            The addition starts at zero.
        join (`str`, defaults to `"double"`):
            How coarser features and details are joined at each level: `"double"` concatenates them before two 3x3
            convolutions; `"single"` adds them before one; `"separable"` adds them before a depthwise 3x3 convolution
            and two 1x1 convolutions.
        use_bgmr, refinement_dilations:
            BGMR: on/off; dilation rates of its context convolutions.
        refinement_dim (`int`, *optional*):
            Channels that BGMR works in, computed from the features and the pixels of each cell. Default: the
            `mask_dim` channels of the features, without pixels.
        mask_dim (`int`, defaults to 32):
            Channels of the features that the masks are read from.
        coarser_dims (`list[int]`, *optional*):
            Channels of features and stem at twice the mask stride, four times it, ..., half the patch size. Default:
            1.5 times `mask_dim`.
        mask_stride (`int`, defaults to 2):
            Stride in pixels of the features that masks are read from: a quarter or an eighth of the patch size.
        map_upscale (`int`, defaults to 1):
            Factor by which the maps have more rows and columns than these features. With 2 and a mask stride of 2,
            the maps have the resolution of the image, at little cost: each filter makes the four parts of a cell.
        type_trunk (`str`, *optional*):
            `"efficientnet-lite0"`: the first stages of that network (0.5 M parameters, to be loaded with pretrained
            weights) predict types from the image at full and at half size, and the mask decoder and BGMR make maps of
            outlines only. Default: types are maps of the mask decoder, like the others.
        type_dim, type_dropout:
            With `type_trunk`: channels in which the trunk's levels meet; their dropout in training.
        styles (`list[str]`):
            Names of the data sets whose manner of outlining the model can reproduce (`style_ids` in `forward`). Each
            has a learned token, and so has the neutral style.
        style_dropout (`float`, defaults to 0.5):
            With `styles`: probability that a training image counts as neutral.
        train_encoder (`bool`, defaults to `False`):
            Whether the SAM encoder itself is trained, which is only meant for making a small backbone.
        train_mask_decoder (`bool`, defaults to `True`):
            Whether SAM's two-way transformer and up-scaling are trained.
        nuclei_loss (`str`, defaults to `"bce"`):
            `"bce"` or `"focal_tversky"`, in addition to the Dice loss.
        loss_weights (`dict[str, float]`, *optional*):
            Overrides of [`LossWeights`] by name.
        type_loss_weights (`list[float]`, *optional*):
            T + 1 weights of the classes (background first) in the cross-entropy. Default: all 1.
        checkpoint_info (`dict`, *optional*):
            Facts for `cfsam info` and the card: `name`, `license` of the weights, `data`, `metrics`, `training`, ...
        format_version (`int`, defaults to 1):
            Version of the checkpoint layout; versions newer than the code are refused.

    Raises:
        ValueError: a field is out of range; `num_types` and `id2label` disagree; a newer checkpoint format.
    """

    model_type = "cfsam"
    # Scalars; transformers' Trainer gathers the other outputs as predictions.
    keys_to_ignore_at_inference = ["loss_parts"]  # noqa: RUF012

    num_types: int | None = None
    type_colors: list[str] | tuple[str, ...] | None = None
    mpp: float | int = 0.25

    use_mala: bool = True
    adapter_dim: int = 64
    adapter_context_dim: int = 16
    adapter_kernel_sizes: list[int] | tuple[int, ...] = (3, 5, 7)
    adapter_dynamic: bool = True
    adapter_layers: list[int] | tuple[int, ...] | None = None
    adapter_window: int | None = None

    use_hmfm: bool = True
    fusion_dim: int = 128
    fusion_layers: list[int] | tuple[int, ...] | None = None
    use_detail_stem: bool = True
    detail_trunk: str | None = None
    trunk_tokens: bool = False
    join: str = "double"

    use_bgmr: bool = True
    refinement_dilations: list[int] | tuple[int, ...] = (1, 2, 4)
    refinement_dim: int | None = None
    mask_dim: int = 32
    coarser_dims: list[int] | tuple[int, ...] | None = None
    mask_stride: int = 2
    map_upscale: int = 1

    type_trunk: str | None = None
    type_dim: int = 64
    type_dropout: float | int = 0.2

    styles: list[str] | tuple[str, ...] = ()
    style_dropout: float | int = 0.5

    train_encoder: bool = False
    train_mask_decoder: bool = True

    nuclei_loss: str = "bce"
    loss_weights: dict[str, float | int] | None = None
    type_loss_weights: list[float | int] | tuple[float | int, ...] | None = None

    checkpoint_info: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        number = kwargs.get("num_labels")
        if number is not None and number > 2 and self.num_types is None and not self._given_names():
            self.num_types = number - 1
        self._resolve_types()
        self._check_num_labels(number)
        self._check_format()
        self._check_adapter_and_fusion()
        self._check_masks()
        self._check_trunks()
        self._check_styles()

    def _check_num_labels(self, number: int | None) -> None:
        if number is not None and number != len(self.id2label):
            raise ValueError(
                f"num_labels={number} does not fit the {len(self.id2label)} labels of {self.num_types} types and "
                f"background; for {number} labels pass num_types={number - 1}, which does not count background, or "
                "id2label"
            )

    @property
    def num_labels(self) -> int:
        """Number of labels, background included: `num_types` + 1, or 2 for a model without types."""
        return 2 if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        # The names of types belong to trained weights; transformers would replace them by LABEL_0, LABEL_1, ...
        if self.id2label is not None and 0 in self.id2label:  # else the types are not resolved yet
            self._check_num_labels(number)

    def _check_format(self) -> None:
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This checkpoint has format version {self.format_version}, newer than the {FORMAT_VERSION} that this "
                "version of cfsam_hf reads; upgrade cfsam_hf."
            )
        if not 0 < self.mpp <= 10:
            raise ValueError(f"mpp must be micrometres per pixel in (0, 10], got {self.mpp}.")

    def _check_adapter_and_fusion(self) -> None:
        num_layers = self.vision_config.num_hidden_layers
        if num_layers > MAX_LAYERS:
            raise ValueError(f"vision_config.num_hidden_layers must be at most {MAX_LAYERS}, got {num_layers!r:.20}.")
        if self.adapter_layers is None:
            self.adapter_layers = list(range(num_layers))
        if self.fusion_layers is None:
            # A backbone without global attention still has four evenly spaced levels to offer.
            quarters = sorted({max(0, round(num_layers * k / 4) - 1) for k in (1, 2, 3, 4)})
            self.fusion_layers = list(self.vision_config.global_attn_indexes) or quarters
        for name in ("adapter_layers", "fusion_layers"):
            layers = [int(i) for i in getattr(self, name)]
            if any(not 0 <= i < num_layers for i in layers) or len(set(layers)) != len(layers):
                raise ValueError(f"{name} must be distinct layers in 0..{num_layers - 1}, got {layers}.")
            setattr(self, name, sorted(layers))
        if self.use_hmfm and not self.fusion_layers:
            raise ValueError("use_hmfm needs at least one layer in fusion_layers.")
        if any(not 1 <= dilation <= MAX_DILATION for dilation in self.refinement_dilations):
            raise ValueError(
                f"refinement_dilations must lie in 1..{MAX_DILATION}, got {list(self.refinement_dilations)!r:.60}."
            )
        self.adapter_kernel_sizes = [int(k) for k in self.adapter_kernel_sizes]
        if not self.adapter_kernel_sizes or any(k < 1 or k % 2 == 0 for k in self.adapter_kernel_sizes):
            raise ValueError(f"adapter_kernel_sizes must be odd and positive, got {self.adapter_kernel_sizes}.")
        if self.adapter_window is not None and self.adapter_window < 1:
            raise ValueError(f"adapter_window must be None or positive, got {self.adapter_window}.")
        for name in ("adapter_dim", "adapter_context_dim", "fusion_dim", "mask_dim", "type_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    def _check_masks(self) -> None:
        patch = self.vision_config.patch_size
        # Up-sampling and stem work in steps of 2, and the stem's finest level has stride 2.
        if patch < 8 or patch & (patch - 1):
            raise ValueError(f"The patch size must be a power of two and at least 8, got {patch}.")
        if self.mask_stride not in (patch // 4, patch // 8) or self.mask_stride < 2:
            raise ValueError(
                f"mask_stride must be at least 2 and a quarter or an eighth of the patch size {patch}, "
                f"got {self.mask_stride}."
            )
        if self.map_upscale < 1 or self.mask_stride % self.map_upscale:
            raise ValueError(f"map_upscale must divide mask_stride ({self.mask_stride}), got {self.map_upscale}.")
        # From twice the mask stride to half the patch size.
        levels = (patch // (4 * self.mask_stride)).bit_length()
        if self.coarser_dims is None:
            self.coarser_dims = [self.mask_dim * 3 // 2] * levels
        self.coarser_dims = [int(dim) for dim in self.coarser_dims]
        if len(self.coarser_dims) != levels or any(dim < 1 for dim in self.coarser_dims):
            raise ValueError(
                f"coarser_dims must be {levels} positive numbers for mask_stride {self.mask_stride} and patch size "
                f"{patch}, got {self.coarser_dims}."
            )
        if self.join not in JOINS:
            raise ValueError(f"join must be one of {', '.join(JOINS)}, got {self.join!r}.")
        if self.refinement_dim is not None and self.refinement_dim < 1:
            raise ValueError(f"refinement_dim must be None or positive, got {self.refinement_dim}.")
        if not 0 <= self.type_dropout < 1:
            raise ValueError(f"type_dropout must lie in [0, 1), got {self.type_dropout}.")
        if self.nuclei_loss not in ("bce", "focal_tversky"):
            raise ValueError(f"nuclei_loss must be 'bce' or 'focal_tversky', got {self.nuclei_loss!r}.")
        classes = (self.num_types or 0) + 1
        if self.type_loss_weights is not None and len(self.type_loss_weights) != classes:
            raise ValueError(
                f"type_loss_weights needs {classes} values (background first), got {len(self.type_loss_weights)}."
            )

    def _check_trunks(self) -> None:
        for name in ("type_trunk", "detail_trunk"):
            if getattr(self, name) is not None and getattr(self, name) not in TYPE_TRUNKS:
                raise ValueError(
                    f"{name} must be None or one of {', '.join(TYPE_TRUNKS)}, got {getattr(self, name)!r}."
                )
        patch = self.vision_config.patch_size
        if self.detail_trunk is not None and patch > 32:
            raise ValueError(f"detail_trunk needs patches of at most 32 pixels, got {patch}.")
        if self.trunk_tokens and (self.detail_trunk is None or patch != 16):
            raise ValueError(
                "trunk_tokens needs a detail_trunk and patches of 16 pixels; detail_trunk is "
                f"{self.detail_trunk!r} and the patch size {patch}."
            )

    def _check_styles(self) -> None:
        self.styles = list(self.styles)
        if len({*self.styles, NEUTRAL_STYLE}) != len(self.styles) + 1 or not all(map(is_type_name, self.styles)):
            raise ValueError(f"styles must be distinct names other than {NEUTRAL_STYLE!r}, got {self.styles}.")
        if not 0 <= self.style_dropout <= 1:
            raise ValueError(f"style_dropout must lie in [0, 1], got {self.style_dropout}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Like `PreTrainedConfig.from_dict`, but fields of this class in `kwargs` go into the construction.

        The base class sets them afterwards, when derived values (names, colours, layers) already exist.
        """
        own = {name for name in CfSamConfig.__annotations__ if name in kwargs} | ({"id2label"} & set(kwargs))
        config_dict = dict(config_dict)
        for names in (config_dict.get("id2label"), kwargs.get("id2label")):
            for key in names if isinstance(names, Mapping) else ():
                if not str(key).isdecimal():
                    raise ValueError(f"id2label must name the types by their numbers, got the key {key!r:.60}.")
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # A self-describing folder names the code files in it. Where this package is installed its own classes
            # serve, and transformers must neither ask for trust in the folder's nor write their names elsewhere.
            for name in ("auto_map", "custom_pipelines"):
                config_dict.pop(name, None)
        stored_number = config_dict.get("num_types")
        if kwargs.get("id2label") is not None or kwargs.get("num_types", stored_number) not in (None, stored_number):
            # New types replace the stored ones altogether; the stored number alone, given again, changes nothing.
            for name in ("num_types", "id2label", "label2id", "type_colors", "type_loss_weights"):
                config_dict.pop(name, None)
        own |= {"num_labels"} & set(kwargs)
        config_dict.update({name: kwargs[name] for name in own})
        rest = {name: value for name, value in kwargs.items() if name not in own}
        return super().from_dict(config_dict, **rest)

    @property
    def has_type_branch(self) -> bool:
        """Whether there are types, predicted by a type branch."""
        return bool(self.num_types) and self.type_trunk is not None

    @property
    def pad_multiple(self) -> int:
        """Tiles must be multiples of this many pixels."""
        return self.vision_config.patch_size


def style_number(config: Any, style: str | None) -> int:
    """The number of a style for `style_ids`: 0 for `None` and "neutral", else 1 plus its place in `config.styles`.

    Args:
        config: of any model; one without `styles` has the neutral style alone.

    Raises:
        ValueError: the model has no such style.
    """
    styles = [NEUTRAL_STYLE, *getattr(config, "styles", [])]
    if style is None:
        return 0
    if style not in styles:
        raise ValueError(f"the model has no style {style!r}; choose one of: {', '.join(styles)}")
    return styles.index(style)
