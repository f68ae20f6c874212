"""CF-SAM: a `SamModel` with adapters, fusion, task tokens and boundary-guided refinement."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, SamModel
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamLayerNorm
from transformers.utils import ModelOutput

from .adapter_switching import AdapterSwitchingMixin, names_without_peft
from .checkpoint import check_source, check_weights, hub_commit, naming_checkpoint
from .configuration_cfsam import CfSamConfig
from .decoder import BoundaryGuidedRefinement, StyleTokens, TaskMaskDecoder
from .encoder import CfSamVisionEncoder, CfSamVisionEncoderOutput
from .fusion import HierarchicalModulatedFusion, MaskFeatures, ZeroConv2d
from .losses import LossWeights, nuclei_segmentation_loss, types_inside_nuclei_loss
from .type_branch import LEVELS, LiteTrunk, TypeBranch, join_with_nuclei

if TYPE_CHECKING:
    # Never run. transformers copies a model's code by following such lines, so these keep the processor and the
    # pipeline beside the model when one that was loaded from a self-describing folder is saved again.
    from .pipeline_cfsam import NucleiSegmentationPipeline  # noqa: F401
    from .processing_cfsam import CfSamProcessor  # noqa: F401

# Channels of the trunk at strides 2, 4, 8 and 16; at 16 the last of its levels.
TRUNK_DIMS = list(dict(LEVELS).values())


@dataclass
class CfSamNucleiSegmentationOutput(ModelOutput):
    """What [`CfSamForNucleiSegmentation`] returns. All maps are at the resolution of the input.

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*): weighted sum of the terms, averaged over the images.
        loss_parts (`dict[str, torch.Tensor]`, *optional*):
            The unweighted terms, averaged over the images; those of the initial maps begin with `initial_`.
        nuclei_logits (`torch.Tensor` of shape `(B, 1, H, W)`): nucleus against background.
        hv_maps (`torch.Tensor` of shape `(B, 2, H, W)`):
            Horizontal and vertical offset from the nucleus' centroid, -1 at its left (upper) end, +1 at the other.
        type_logits (`torch.Tensor` of shape `(B, T + 1, H, W)`, *optional*): background and types; `None` for T = 0.
        boundary_logits (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): contours; `None` without BGMR.
        initial_nuclei_logits, initial_hv_maps, initial_type_logits:
            The same maps before the refinement; without BGMR they are the same tensors, and the types of a
            `type_trunk` always are.
        hidden_states (`tuple[torch.Tensor]`, *optional*):
            The encoder's token maps (B, h, w, C), before its first layer and after each, if requested.
        attentions (`tuple[torch.Tensor]`, *optional*):
            The attention weights of each of the encoder's layers, (B * windows * heads, tokens, tokens), if requested.
    """

    loss: torch.Tensor | None = None
    loss_parts: dict[str, torch.Tensor] | None = None
    nuclei_logits: torch.Tensor | None = None
    hv_maps: torch.Tensor | None = None
    type_logits: torch.Tensor | None = None
    boundary_logits: torch.Tensor | None = None
    initial_nuclei_logits: torch.Tensor | None = None
    initial_hv_maps: torch.Tensor | None = None
    initial_type_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class CfSamPreTrainedModel(PreTrainedModel):
    """What every CF-SAM model shares: the configuration class, the name of SAM's part, initialisation, freezing."""

    config_class = CfSamConfig
    config: CfSamConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = (
        "CfSamVisionLayer",
        "SamTwoWayTransformer",
        "HierarchicalModulatedFusion",
        "MaskFeatures",
        "TaskMaskDecoder",
        "BoundaryGuidedRefinement",
        "TypeBranch",
        "LiteTrunk",
        "StyleTokens",
    )
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroConv2d):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # Layer norms follow almost everywhere; fan-in scaling keeps the few maps that have none in range.
            fan_in = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else module.in_channels
            init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            # As the tokens of SAM's own mask decoder.
            init.normal_(module.weight, std=1.0)
        elif isinstance(module, TypeBranch):
            init.zeros_(module.mean)
            init.ones_(module.deviation)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads a model as `PreTrainedModel.from_pretrained` does, and freezes the parameters that are not trained.

        The folder or Hub id may be that of a plain `SamModel`: its weights keep their names, and only the adapters and
        heads are new. Options of [`CfSamConfig`] (`num_types=4`, ...) can be passed by name.
        Only safetensors weights are read.

        Raises:
            OSError: the checkpoint or a part of it is missing or damaged.
            ValueError: it is another kind of model, has a newer format, or its weights do not fit.
        """
        source, wants_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if source is None or kwargs.get("state_dict") is not None:
            loaded = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        else:
            with naming_checkpoint(source):
                values = check_source(source, kwargs, cls)
                allow_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
                options = {**kwargs, "use_safetensors": True, "ignore_mismatched_sizes": True}
                loaded = super().from_pretrained(source, *args, output_loading_info=True, **options)
                check_weights(loaded[1], values, loaded[0].config, allow_mismatched)
                # transformers 5.23 no longer records it; adapters, results and records of finished images state it.
                loaded[0].config._commit_hash = hub_commit(source, kwargs)
        model = loaded[0]
        model.freeze()
        for parameter in model.parameters():
            # Weights of a memory-mapped file may be unaligned, and CPU kernels round differently there: the last bits
            # of the outputs would depend on the layout of the file.
            if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
                parameter.data = parameter.data.clone()
        return loaded if wants_info else model

    def is_trainable(self, name: str, config: CfSamConfig | None = None) -> bool:
        """Whether a configuration, by default the model's, lets the parameter of this name be trained."""
        config = self.config if config is None else config
        if ".adapter." in name:
            return True
        if name.startswith("sam.vision_encoder."):
            return config.train_encoder
        if name.startswith(("sam.mask_decoder.transformer.", "sam.mask_decoder.upscale_")):
            return config.train_mask_decoder
        return not name.startswith("sam.")

    def freeze(self) -> None:
        """Sets `requires_grad` of every parameter as the configuration says, except for PEFT's own parameters."""
        parameters = dict(self.named_parameters())
        for name, own_name in names_without_peft(self, parameters).items():
            parameters[name].requires_grad_(self.is_trainable(own_name))

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Number of trainable parameters and of all parameters, as PEFT's method of this name."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Prints the counts in PEFT's format."""
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")


class CfSamForNucleiSegmentation(AdapterSwitchingMixin, CfSamPreTrainedModel):
    """SAM refined for nuclei: instance segmentation and classification of H&E tiles, without prompts.

    The frozen SAM encoder carries MALA adapters; HMFM fuses its levels; SAM's mask decoder, with one task token per
    map, makes the initial maps; BGMR refines them (arXiv 2603.28027). With `type_trunk`, a branch with a
    pretrained trunk predicts the types from the image instead.

    Example:

        >>> from cfsam_hf import CfSamForNucleiSegmentation, bundled_checkpoint
        >>> model = CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint())
    """

    _can_compile_fullgraph = True
    # The loss is a mean over images: transformers' Trainer must divide it by the steps of gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: CfSamConfig):
        super().__init__(config)
        vision, decoder = config.vision_config, config.mask_decoder_config
        checkpointing = getattr(config, "gradient_checkpointing", False)
        self.sam = SamModel(config)
        if checkpointing:
            # SamModel has applied this setting to the encoder that is replaced here, and cleared it.
            config.gradient_checkpointing = True
        self.sam.vision_encoder = CfSamVisionEncoder(
            vision,
            adapter_layers=list(config.adapter_layers or []) if config.use_mala else [],
            adapter_options={
                "adapter_dim": config.adapter_dim,
                "context_dim": config.adapter_context_dim,
                "kernel_sizes": config.adapter_kernel_sizes,
                "dynamic": config.adapter_dynamic,
                "window": config.adapter_window,
            },
        )
        self.read_settings()
        self.trunk: LiteTrunk | None = None
        self.trunk_tokens: nn.Module | None = None
        if config.detail_trunk is not None:
            self.trunk = LiteTrunk()
        if config.trunk_tokens:
            self.trunk_tokens = nn.Sequential(
                SamLayerNorm(LEVELS[-1][1], data_format="channels_first"),
                ZeroConv2d(LEVELS[-1][1], vision.hidden_size, 1),
            )
        self.fusion: HierarchicalModulatedFusion | None = None
        self.neck_projection: nn.Conv2d | None = None
        if config.use_hmfm:
            self.fusion = HierarchicalModulatedFusion(
                vision.hidden_size, len(config.fusion_layers or []), vision.output_channels, config.fusion_dim
            )
        else:
            self.neck_projection = nn.Conv2d(vision.output_channels, config.fusion_dim, 1)
        self.mask_features = MaskFeatures(
            config.fusion_dim,
            decoder.hidden_size // 8,
            [config.mask_dim, *(config.coarser_dims or [])],
            # Strides double from level to level; SAM's own up-scaling goes to a quarter of the patch.
            upscaled_level=(vision.patch_size // (4 * config.mask_stride)).bit_length() - 1,
            num_finer=config.mask_stride.bit_length() - 2,
            use_stem=config.use_detail_stem,
            trunk_dims=[] if self.trunk is None else TRUNK_DIMS,
            join=config.join,
        )
        self.task_decoder = TaskMaskDecoder(self.num_maps, decoder.hidden_size, config.mask_dim, config.map_upscale)
        self.refinement = None
        if config.use_bgmr:
            self.refinement = BoundaryGuidedRefinement(
                config.mask_dim,
                self.num_maps,
                list(config.refinement_dilations),
                dim=config.refinement_dim,
                stride=config.mask_stride,
                upscale=config.map_upscale,
            )
        self.type_branch = None
        if config.has_type_branch:
            self.type_branch = TypeBranch(
                len(config.type_names),
                config.type_dim,
                config.type_dropout,
                scales=(1, 2) if self.trunk is None else (1,),
                own_trunk=self.trunk is None,
            )
        self.style: StyleTokens | None = None
        if config.styles:
            self.style = StyleTokens(len(config.styles), decoder.hidden_size, config.fusion_dim, config.style_dropout)
        self.post_init()
        self.freeze()

    def read_settings(self) -> None:
        """Reads the settings derived from the configuration; call it again after they change."""
        num_types = self.config.num_types or 0
        self.num_maps = 3 + (num_types + 1 if num_types and not self.config.has_type_branch else 0)
        self.loss_weights = LossWeights.from_config(self.config.loss_weights)

    def get_input_embeddings(self) -> nn.Module:
        return self.sam.vision_encoder.patch_embed

    def _position_embedding(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """SAM's dense positional encoding (1, E, h, w) of an h x w grid over the tile."""
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        return self.sam.shared_image_embedding(grid).permute(2, 0, 1)[None].to(device)

    def _split(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Maps (B, M, ...) to nuclei logits, HV maps and type logits (`None` if there are none)."""
        return maps[:, :1], maps[:, 1:3], maps[:, 3:] if self.num_maps > 3 else None

    def _normalise(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits to probabilities; offsets unchanged."""
        nuclei, offsets, types = self._split(maps)
        parts = [nuclei.sigmoid(), offsets]
        return torch.cat(parts if types is None else [*parts, types.softmax(1)], dim=1)

    def predict_maps(
        self, pixel_values: torch.Tensor, style_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The maps of the mask decoder and their refinement, without types if there is a `type_trunk`.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): H and W multiples of the patch size.
            style_ids (`torch.Tensor` of shape `(B,)`, *optional*): as in `forward`.

        Returns:
            Initial maps (B, M, H / s, W / s), refined maps of the same shape (the initial ones without BGMR), boundary
            logits (B, 1, H / s, W / s) or `None`. The stride s of the maps is `mask_stride / map_upscale`.
        """
        trunk_levels = self._trunk_levels(pixel_values)
        return self._read_maps(self._encode(pixel_values, trunk_levels), pixel_values, trunk_levels, style_ids)

    def _trunk_levels(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The levels of the shared trunk; empty without one."""
        return [] if self.trunk is None else self.trunk(pixel_values)

    def _encode(
        self, pixel_values: torch.Tensor, trunk_levels: list[torch.Tensor], **capture: bool | list[int]
    ) -> CfSamVisionEncoderOutput:
        """The encoder's embedding, the levels that are fused, and what is captured for the caller."""
        extra = None
        if self.trunk_tokens is not None:
            extra = self.trunk_tokens(trunk_levels[-1]).permute(0, 2, 3, 1)
        levels = list(self.config.fusion_layers or []) if self.config.use_hmfm else []
        if torch.compiler.is_compiling() and not any(capture.values()):
            # transformers captures outputs in ways that cannot be compiled.
            embedding, kept = self.sam.vision_encoder.encode(pixel_values, levels, extra)
            return CfSamVisionEncoderOutput(last_hidden_state=embedding, levels=tuple(kept))
        return self.sam.vision_encoder(pixel_values, levels=levels, extra_tokens=extra, **capture)

    def _read_maps(
        self,
        encoded: CfSamVisionEncoderOutput,
        pixel_values: torch.Tensor,
        trunk_levels: list[torch.Tensor],
        style_ids: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What `predict_maps` returns, from the encoder's outputs. Each part is called as a module, never read by its
        weights, so that the hooks run that Accelerate puts on parts of other devices."""
        embedding = encoded.last_hidden_state
        if self.fusion is not None:
            fused = self.fusion(list(encoded.levels or ()), embedding)
        elif self.neck_projection is not None:
            fused = self.neck_projection(embedding)
        style = None
        if self.style is not None:
            if style_ids is None:
                style_ids = torch.zeros(len(pixel_values), dtype=torch.long, device=pixel_values.device)
            style, fused = self.style(style_ids, fused)
        no_prompt = self.sam.prompt_encoder.no_mask_embed(torch.zeros(1, dtype=torch.long, device=embedding.device))
        tokens, upscaled = self.task_decoder.attend(
            self.sam.mask_decoder,
            embedding + no_prompt[0, :, None, None].to(embedding.device),
            self._position_embedding(embedding.shape[2], embedding.shape[3], embedding.device),
            style,
        )
        features = self.mask_features(fused, upscaled, pixel_values, trunk_levels)
        initial = self.task_decoder.read_maps(tokens, features)
        if self.refinement is None:
            return initial, initial, None
        refined, boundary_logits = self.refinement(features, initial, self._normalise(initial), pixel_values)
        return initial, refined, boundary_logits

    def _type_weights(self) -> list[float] | None:
        weights = self.config.type_loss_weights
        return None if weights is None else list(weights)

    def _setting(self, name: str, value: bool | list[int] | None) -> bool | list[int]:
        """A keyword of `forward`, or the configuration's value if it is not given."""
        value = getattr(self.config, name, False) if value is None else value
        return value if isinstance(value, list) else bool(value)

    def forward(
        self,
        pixel_values: torch.Tensor,
        nuclei_labels: torch.Tensor | None = None,
        hv_labels: torch.Tensor | None = None,
        type_labels: torch.Tensor | None = None,
        boundary_labels: torch.Tensor | None = None,
        style_ids: torch.Tensor | None = None,
        types_alone: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> CfSamNucleiSegmentationOutput | tuple:
        """Maps of nuclei, and the loss where labels are given.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`):
                Normalised RGB pixels; H and W multiples of the patch size.
            nuclei_labels (`torch.Tensor` of shape `(B, H, W)`, *optional*): 1 nucleus, 0 not, -100 not annotated.
            hv_labels (`torch.Tensor` of shape `(B, 2, H, W)`, *optional*): in [-1, 1], read inside nuclei.
            type_labels (`torch.Tensor` of shape `(B, H, W)`, *optional*): 0 background, 1..T, -100 unknown.
            boundary_labels (`torch.Tensor` of shape `(B, H, W)`, *optional*): 1 contour, 0 not, -100 not annotated.
            style_ids (`torch.Tensor` of shape `(B,)`, *optional*):
                The style of each image: 0 for the neutral one, which is the default, or 1 plus its place in
                `config.styles`.
            types_alone (`bool`):
                Whether to compute only the loss of the types inside nuclei, from `type_labels` and the type branch,
                which trains that branch in a fraction of the time.
            output_hidden_states (`bool` or `list[int]`, *optional*): also return the encoder's hidden states, all or
                those of these indices with `None` for the others; default: as `config.output_hidden_states` says.
            output_attentions (`bool`, *optional*): also return the encoder's attentions, for which the model must be
                loaded with `attn_implementation="eager"`; default: as `config.output_attentions` says.
            return_dict (`bool`, *optional*): `False` returns a tuple of the values that are not `None`.

        Returns:
            [`CfSamNucleiSegmentationOutput`]; with `types_alone` it holds the loss and its parts only.

        Raises:
            ValueError: a size that is not a multiple of the patch size; `nuclei_labels` without `hv_labels`;
                `types_alone` without `type_labels` or a type branch; `output_attentions` with an implementation of
                attention that does not return them.
        """
        size = pixel_values.shape[2:]
        if types_alone:
            if self.type_branch is None or type_labels is None:
                raise ValueError("types_alone needs type_labels and a model with a type branch (type_trunk).")
            types = self.type_branch(pixel_values, self._trunk_levels(pixel_values))
            types = F.interpolate(types, size=size, mode="bilinear", align_corners=False)
            output = CfSamNucleiSegmentationOutput(*types_inside_nuclei_loss(types, type_labels, self._type_weights()))
            return output.to_tuple() if return_dict is False else output
        trunk_levels = self._trunk_levels(pixel_values)
        encoded = self._encode(
            pixel_values,
            trunk_levels,
            output_hidden_states=self._setting("output_hidden_states", output_hidden_states),
            output_attentions=self._setting("output_attentions", output_attentions),
        )
        if encoded.attentions == ():
            raise ValueError('attentions need a model loaded with attn_implementation="eager"')
        initial, refined, boundary_logits = self._read_maps(encoded, pixel_values, trunk_levels, style_ids)

        def to_tile(maps: torch.Tensor) -> torch.Tensor:
            return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

        boundary_logits = to_tile(boundary_logits) if boundary_logits is not None else None
        refined_maps = self._split(to_tile(refined))
        initial_maps = self._split(to_tile(initial)) if self.refinement is not None else refined_maps
        if self.type_branch is not None:
            types = to_tile(self.type_branch(pixel_values, trunk_levels))
            refined_maps = (*refined_maps[:2], join_with_nuclei(refined_maps[0], types.to(refined_maps[0].device)))

        loss: torch.Tensor | None = None
        loss_parts: dict[str, torch.Tensor] | None = None
        if nuclei_labels is not None:
            loss, loss_parts = nuclei_segmentation_loss(
                refined_maps,
                initial_maps if self.refinement is not None else None,
                boundary_logits,
                nuclei_labels,
                hv_labels,
                type_labels,
                boundary_labels,
                self.loss_weights,
                self.config.nuclei_loss,
                self._type_weights(),
            )
        output = CfSamNucleiSegmentationOutput(
            loss,
            loss_parts,
            *refined_maps,
            boundary_logits=boundary_logits,
            initial_nuclei_logits=initial_maps[0],
            initial_hv_maps=initial_maps[1],
            # The maps of the type branch are not refined.
            initial_type_logits=refined_maps[2] if self.type_branch is not None else initial_maps[2],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output.to_tuple() if return_dict is False else output
