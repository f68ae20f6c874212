"""Variants of CF-SAM that are trained beside each other: a part less, LoRA in MALA's place, less or more trained.

All variants of a seed start alike: what two of them have in common begins with the same values, from the base or new.
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

# A base may lack parts; a variant says which one it does without.
ALL_PARTS = {
    **{"use_mala": True, "adapter_dynamic": True, "use_hmfm": True, "use_detail_stem": True, "use_bgmr": True},
    "train_mask_decoder": True,
}

READINGS = {
    "refined": "",
    "initial": "initial masks",
    "initial_with_boundary": "initial masks, boundary map in decoding",
}
"""The maps that nuclei are decoded from, and what tables call them beside the variant."""


@dataclass(frozen=True)
class Variant:
    """What differs from CF-SAM as it is.

    Attributes:
        name: on the command line and of folders.
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
        # The same reach as all three scales together, so that reach is not what differs.
        Variant("single_scale", "MALA, one scale (7)", {"adapter_kernel_sizes": [7]}),
        Variant("smallest_scale", "MALA, one scale (3)", {"adapter_kernel_sizes": [3]}),
        Variant("no_hmfm", "no HMFM", {"use_hmfm": False}),
        Variant("no_stem", "no stem", {"use_detail_stem": False}),
        Variant("no_bgmr", "no BGMR", {"use_bgmr": False}),
        Variant("lora", "LoRA, no MALA", {"use_mala": False, "train_encoder": False}, lora=True),
        # Nothing of SAM is trained; fusion, stem, tokens and refinement are this model's own.
        Variant("head_only", "head only", {"use_mala": False, "train_mask_decoder": False, "train_encoder": False}),
        Variant("full_fine_tuning", "full fine-tuning", {"use_mala": False, "train_encoder": True}),
    )
}


@dataclass(frozen=True)
class Origin:
    """Where a variant's weights come from, in parameters by part of the model.

    Attributes:
        loaded: from the base. Where it does not know all types of the data, the log of [`retype`] says which parts of
            its heads began anew on loading.
        new: with the values that a new model of this seed has.
        left_out: of the base, which the variant has no place for, or which it was not to take.
        lora_rank: of LoRA; `None` without.
    """

    loaded: dict[str, int]
    new: dict[str, int]
    left_out: dict[str, int]
    lora_rank: int | None = None


def variant_recipe(recipe: Recipe, variant: Variant, **run: Any) -> Recipe:
    """A recipe with what the variant changes, for its run.

    Args:
        recipe: common to all variants.
        variant: whose options are put in.
        run: fields of `RunOptions` that differ, such as `output_dir`.
    """
    options = {**ALL_PARTS, **recipe.model.settings(), **variant.options}
    train_encoder = options.pop("train_encoder", recipe.model.train_encoder)
    model = replace(recipe.model, model_options=json.dumps(options), train_encoder=train_encoder)
    return replace(recipe, model=model, run=replace(recipe.run, **run))


def build_variant(
    recipe: Recipe, data_types: Sequence[str], variant: Variant, start: Literal["backbone", "whole"] = "backbone"
) -> tuple[CfSamForNucleiSegmentation, Origin]:
    """The model of a variant, with everything that is not trained frozen.

    The base is loaded as it is. A new model with all parts and the recipe's options is made, which is the same for
    every variant of a seed; then the variant's, which takes over the values of both by name, where shapes agree: of
    the new one all, of the base what `start` says.

    Args:
        recipe: common to all variants, not [`variant_recipe`]'s; seed torch before.
        data_types: names of the data's types; see [`build_model`].
        variant: what differs.
        start: "backbone" takes SAM's weights alone from the base, so that no variant has an advantage from parts that
            were trained before; "whole" takes all that fits.

    Raises:
        ValueError: a base that is no SAM; an option that the configuration does not have.
        ImportError: LoRA without PEFT.
    """
    if is_unet(recipe.model.base):
        raise ValueError(f"Variants are of CF-SAM, and the base {recipe.model.base} is a U-Net; give a SAM or CF-SAM.")
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
        # The heads begin anew, so they are the data's alone.
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
            "the base's encoder was trained with adapters that this start leaves out, and without them it is another "
            'one: make a base for variants with model_options {"use_mala": false}, or begin with start "whole"'
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
    """Within the block the model's refined maps are those of a reading.

    Args:
        model: gives initial and refined maps.
        name: of `READINGS`. "initial" are the initial maps as a model without BGMR would give them, with no boundary
            map; "initial_with_boundary" keeps that, so that what differs from "refined" is the refinement alone.

    Raises:
        ValueError: no such reading.
    """
    if name not in READINGS:
        raise ValueError(f"There is no reading {name!r}; there are {', '.join(READINGS)}.")
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
    """Copies what has the same name and shape in both; returns the names.

    Args:
        source, target: models.
        only_sam: leave adapters and heads out.
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
    """Whether any adapter does something: new ones add zero."""
    return any(bool(p.any()) for name, p in model.named_parameters() if name.endswith(".adapter.up.weight"))


def _add_lora(model: CfSamForNucleiSegmentation, parameters: int) -> int:
    """LoRA on the encoder's attention, of the rank that comes nearest to so many parameters; returns the rank."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('The variant "lora" needs PEFT: pip install "cfsam_hf[peft]".') from error
    attention = [part for name, part in model.named_modules() if re.fullmatch(ENCODER_ATTENTION, name)]
    rank = max(1, round(parameters / sum(part.in_features + part.out_features for part in attention)))
    # A scale of 1, as MALA begins with.
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ENCODER_ATTENTION))
    # PEFT froze all but LoRA; this frees again what the configuration lets be trained.
    model.freeze()
    return rank


def _by_part(sizes: Mapping[str, int]) -> dict[str, int]:
    """Parameters by name added up by part."""
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
