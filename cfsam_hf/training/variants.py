"""Variants of CF-SAM to compare: without one part, with LoRA instead of MALA, with fewer or more trained weights.

All variants with the same seed start alike: parts that two of them share have the same initial values, from the base
or new.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from ..model.configuration_cfsam import CfSamConfig
from ..model.modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
from .models import build_model, check_options, checkpoint_of, enable_gradient_checkpointing, is_unet
from .recipe import Recipe

logger = logging.getLogger(__name__)

# SAM's encoder alone: its mask decoder has attention layers of the same kind.
ENCODER_ATTENTION = r".*vision_encoder\.layers\.\d+\.attn\.(qkv|proj)"

# A base may lack parts, so every part is switched on unless the variant switches it off.
ALL_PARTS = {
    **{"use_mala": True, "adapter_dynamic": True, "use_hmfm": True, "use_detail_stem": True, "use_bgmr": True},
    "train_mask_decoder": True,
}

READINGS = {
    "refined": "",
    "initial": "initial masks",
    "initial_with_boundary": "initial masks, boundary map in decoding",
}
"""The maps that nuclei are decoded from, with their names in tables."""


@dataclass(frozen=True)
class Variant:
    """The differences from the full CF-SAM.

    Attributes:
        name: on the command line and in folder names.
        title: in tables.
        options: fields of [`CfSamConfig`] that differ.
        lora: whether the encoder's attention gets PEFT's LoRA.
        readings: which of `READINGS` are scored.
    """

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: bool = False
    readings: tuple[str, ...] = ("refined",)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("full", "CF-SAM", readings=tuple(READINGS)),
        Variant("no_mala", "no MALA", {"use_mala": False}),
        Variant("fixed_kernels", "MALA, fixed kernels", {"adapter_dynamic": False}),
        # The same reach as all three scales together, so that reach makes no difference.
        Variant("single_scale", "MALA, one scale (7)", {"adapter_kernel_sizes": [7]}),
        Variant("smallest_scale", "MALA, one scale (3)", {"adapter_kernel_sizes": [3]}),
        Variant("no_hmfm", "no HMFM", {"use_hmfm": False}),
        Variant("no_stem", "no stem", {"use_detail_stem": False}),
        Variant("no_bgmr", "no BGMR", {"use_bgmr": False}),
        Variant("lora", "LoRA, no MALA", {"use_mala": False, "train_encoder": False}, lora=True),
        # No part of SAM is trained; fusion, stem, tokens and refinement are not SAM's.
        Variant("head_only", "head only", {"use_mala": False, "train_mask_decoder": False, "train_encoder": False}),
        Variant("full_fine_tuning", "full fine-tuning", {"use_mala": False, "train_encoder": True}),
    )
}


@dataclass(frozen=True)
class Origin:
    """Where a variant's weights come from: numbers of parameters by part of the model.

    Attributes:
        loaded: from the base. If it does not know all types of the data, the log of [`retype`] says which parts of its
            heads got new values.
        new: with the values of a new model of this seed.
        left_out: parameters of the base that the variant lacks, or that its start leaves out.
        lora_rank: of LoRA; `None` without LoRA.
    """

    loaded: dict[str, int]
    new: dict[str, int]
    left_out: dict[str, int]
    lora_rank: int | None = None


def variant_recipe(recipe: Recipe, variant: Variant, **run: Any) -> Recipe:
    """The recipe of a variant's run.

    Args:
        recipe: common to all variants.
        variant: its options change the recipe.
        run: fields of `RunOptions` that differ, such as `output_dir`.
    """
    options = {**ALL_PARTS, **recipe.model.settings(), **variant.options}
    train_encoder = options.pop("train_encoder", recipe.model.train_encoder)
    model = replace(recipe.model, model_options=json.dumps(options), train_encoder=train_encoder)
    return replace(recipe, model=model, run=replace(recipe.run, **run))


def build_variant(
    recipe: Recipe, data_types: Sequence[str], variant: Variant, start: Literal["backbone", "whole"] = "backbone"
) -> tuple[CfSamForNucleiSegmentation, Origin]:
    """The model of a variant, with all untrained parameters frozen.

    Three models are made: the base, a new one with all parts and the recipe's options, which is the same for every
    variant of a seed, and the variant's. The last takes values by name, if shapes agree: first all of the new one, and
    then those of the base that `start` selects.

    Args:
        recipe: common to all variants, not the result of [`variant_recipe`]; seed torch before.
        data_types: names of the data's types; see [`build_model`].
        variant: what differs.
        start: "backbone" takes only SAM's weights from the base, so that no variant profits from parts that were
            trained before; "whole" takes everything that fits.

    Raises:
        ValueError: the base is not a SAM, or the configuration has no such option.
        ImportError: LoRA needs PEFT, which is not installed.
    """
    if is_unet(recipe.model.base):
        raise ValueError(f"The base {recipe.model.base} is a U-Net, which has no variants; give a SAM or CF-SAM.")
    check_options(recipe)
    bare = replace(
        recipe,
        model=replace(recipe.model, model_options="{}"),
        optimization=replace(recipe.optimization, gradient_checkpointing=False),
    )
    base = build_model(bare, data_types)
    settings = {**ALL_PARTS, **recipe.model.settings()}
    settings["train_encoder"] = recipe.model.train_encoder
    if start == "backbone":
        # The heads are new, so they have the types of the data only.
        settings["id2label"] = dict(enumerate(data_types, start=1))
    common = CfSamForNucleiSegmentation(_config(base.config, settings))
    model = CfSamForNucleiSegmentation(_config(base.config, {**settings, **variant.options}))
    _copy(common, model)
    is_random, is_plain_sam = recipe.model.base == "tiny", checkpoint_of(recipe.model.base) is None
    loaded = set() if is_random else _copy(base, model, only_sam=is_plain_sam or start == "backbone")
    rank = None
    new = {name: p.numel() for name, p in model.named_parameters() if name not in loaded}
    given = {} if is_random else dict(base.named_parameters())
    if is_plain_sam:
        given = {name: p for name, p in given.items() if name.startswith("sam.") and ".adapter." not in name}
    left_out = {name: p.numel() for name, p in given.items() if name not in loaded}
    if left_out and _has_trained_adapters(base) and any(".adapter." in name for name in left_out):
        logger.warning(
            "the base's encoder was trained with adapters that this start leaves out, and works differently without "
            'them: make a base for variants with model_options {"use_mala": false}, or use the start "whole"'
        )
    if variant.lora:
        rank = _add_lora(model, sum(p.numel() for name, p in common.named_parameters() if ".adapter." in name))
        new |= {name: p.numel() for name, p in model.named_parameters() if ".lora_" in name}
    if recipe.optimization.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    taken = {name: p.numel() for name, p in given.items() if name in loaded}
    origin = Origin(_by_part(taken), _by_part(new), _by_part(left_out), rank)
    logger.info(
        "%s: from %s %s; new %s; left out of the base %s",
        *(variant.name, recipe.model.base, _text(origin.loaded), _text(origin.new), _text(origin.left_out)),
    )
    return model, origin


@contextmanager
def reading(model: CfSamForNucleiSegmentation, name: str) -> Iterator[None]:
    """Replaces the model's refined maps by those of a reading within the block.

    Args:
        model: returns initial and refined maps.
        name: of `READINGS`. "initial" selects the initial maps without a boundary map, like a model without BGMR;
            "initial_with_boundary" keeps the boundary map, so that only the refinement differs from "refined".

    Raises:
        ValueError: no such reading.
    """
    if name not in READINGS:
        raise ValueError(f"There is no reading {name!r}; choose from {', '.join(READINGS)}.")
    if name == "refined":
        yield
        return

    def swap(_module: torch.nn.Module, _inputs: Any, output: CfSamNucleiSegmentationOutput) -> Any:
        return replace(
            output,
            nuclei_logits=output.initial_nuclei_logits,
            hv_maps=output.initial_hv_maps,
            type_logits=output.initial_type_logits,
            boundary_logits=output.boundary_logits if name == "initial_with_boundary" else None,
        )

    handle = model.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def _config(base: CfSamConfig, options: Mapping[str, Any]) -> CfSamConfig:
    return CfSamConfig.from_dict(base.to_dict(), **options)


@torch.no_grad()
def _copy(source: CfSamForNucleiSegmentation, target: CfSamForNucleiSegmentation, only_sam: bool = False) -> set[str]:
    """Copies values that have the same name and shape in both; returns the names.

    Args:
        source, target: models.
        only_sam: skip adapters and heads.
    """
    values, copied = source.state_dict(), set()
    for name, into in target.state_dict().items():
        if name not in values or values[name].shape != into.shape:
            continue
        if only_sam and (not name.startswith("sam.") or ".adapter." in name):
            continue
        into.copy_(values[name])
        copied.add(name)
    return copied


def _has_trained_adapters(model: CfSamForNucleiSegmentation) -> bool:
    """Whether any adapter has an effect: new ones add zero."""
    return any(bool(p.any()) for name, p in model.named_parameters() if name.endswith(".adapter.up.weight"))


def _add_lora(model: CfSamForNucleiSegmentation, parameters: int) -> int:
    """Adds LoRA to the encoder's attention with the rank whose size is nearest to `parameters`; returns the rank."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('The variant "lora" needs PEFT: pip install "cfsam_hf[peft]".') from error
    attention = [part for name, part in model.named_modules() if re.fullmatch(ENCODER_ATTENTION, name)]
    rank = max(1, round(parameters / sum(part.in_features + part.out_features for part in attention)))
    # A scale of 1, like MALA's at the start.
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ENCODER_ATTENTION))
    # PEFT froze everything except LoRA; this unfreezes what the configuration trains.
    model.freeze()
    return rank


def _by_part(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sums of parameters by part."""
    parts: Counter[str] = Counter()
    for name, size in sizes.items():
        if ".adapter." in name:
            part = "MALA"
        elif ".lora_" in name:
            part = "LoRA"
        else:
            part = ".".join(name.split(".")[: 2 if name.startswith("sam.") else 1])
        parts[part] += size
    return dict(parts)


def _text(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} ({size:,})" for part, size in parts.items()) or "nothing"
