"""The model that a recipe trains: a random one, a pretrained SAM, or a checkpoint of ours, for the data's types."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..baselines.unet import UNetConfig, UNetForNucleiSegmentation
from ..bases.bundled import DEFAULT_CHECKPOINT, bundled_checkpoint
from ..model.configuration_cfsam import TYPE_TRUNKS, CfSamConfig
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.processing_cfsam import CfSamProcessor
from ..model.type_branch import STRIDE
from .architectures import tiny_config
from .recipe import ModelOptions, Recipe

logger = logging.getLogger(__name__)

# Bases without weights.
RANDOM_BASES = ("tiny", "unet")

# Of the names of the trunk's weights.
TYPE_TRUNK_PREFIX = "type_branch.trunk."

# Of the type branch, what has a row for each type.
TYPE_ROWS = ("type_branch.classify.weight", "type_branch.classify.bias")

# By which the channels of a new type branch are measured: some 6,000 nuclei of CoNSeP.
MEASURED_CROPS = 64

# The first maps of every model, before those of the background and of the types.
UNTYPED_MAPS = 3


# Options that say by what types are read.
_READING_TYPES = ("type_trunk", "type_dim")


def build_model(recipe: Recipe, data_types: Sequence[str]) -> PreTrainedModel:
    """The model to train, with everything that is not trained frozen.

    Of a CF-SAM base that knows all of the data's types the types stay, in its order: data without types, or with some
    of them, train it on. If the data has others, the model gets the data's types: what reads the nuclei and offset
    maps and types of the same name keeps its weights, what reads the other types begins anew (as the log says). Where
    the option `type_trunk` differs from the base's, so does all that reads types.

    Args:
        recipe: its base and options.
        data_types: names of the data's types, in the order that they get in a new model; empty without types.

    Raises:
        ValueError: an option that the model's configuration does not have; a trained U-Net that lacks a type; a type
            trunk that would keep random weights; weights for one, or its training alone, where there is none.
        OSError: the base, or the weights of its type trunk, cannot be loaded.
    """
    type_names = dict(enumerate(data_types, start=1))
    options = recipe.model.settings()
    base = recipe.model.base
    check_options(recipe)
    if is_unet(base):
        model = _unet(base, type_names, options)
    else:
        options["train_encoder"] = recipe.model.train_encoder
        model = _cfsam(base, type_names, options)
    _prepare_type_branch(model, recipe.model, recipe.optimization.type_trunk_factor)
    if recipe.optimization.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return model


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Encoder layers are computed again in the backward pass from now on."""
    # transformers before 5.23 has it under its older name.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def build_processor(recipe: Recipe, config: CfSamConfig | UNetConfig) -> CfSamProcessor:
    """The processor that is saved with the model. Of a CF-SAM base it has the decoding, what scores are made of
    included, and the tiles if these are fitted to the image and the recipe has none."""
    checkpoint, base = checkpoint_of(recipe.model.base), None
    if checkpoint is not None:
        # A checkpoint need not have a processor beside it.
        with contextlib.suppress(OSError):
            base = CfSamImageProcessor.from_pretrained(checkpoint)
    size = recipe.run.tile_size or recipe.data.crop_size
    tiles = {
        "tile_size": size,
        "smallest_tile_size": recipe.run.smallest_tile_size or None,
        "tile_overlap": min(recipe.run.tile_overlap, size // 2),
    }
    if base is not None and base.smallest_tile_size is not None and not recipe.run.tile_size:
        tiles = {name: getattr(base, name) for name in tiles}
    return CfSamProcessor(
        CfSamImageProcessor(
            mpp=config.mpp,
            pad_multiple=config.pad_multiple,
            decoding=None if base is None else base.decoding,
            **tiles,
        )
    )


def checkpoint_of(base: str) -> str | None:
    """Folder or Hub id of a CF-SAM base, or folder of a U-Net; `None` for random weights and for a plain SAM."""
    if base in RANDOM_BASES:
        return None
    if base == DEFAULT_CHECKPOINT:
        return str(bundled_checkpoint())
    return base if is_unet(base) or _kind(base) == CfSamConfig.model_type else None


def is_unet(base: str) -> bool:
    """Whether a base is the U-Net to stand beside CF-SAM: random, or the folder of a trained one."""
    return base == "unet" or (Path(base).is_dir() and _kind(base) == UNetConfig.model_type)


def _kind(base: str) -> str | None:
    return CfSamConfig.get_config_dict(base)[0].get("model_type")


def check_options(recipe: Recipe) -> None:
    """Refuses model options that the configuration does not have.

    A configuration takes any name for an attribute, so that a mistyped option would do nothing.

    Raises:
        ValueError: naming them.
    """
    options, config_class = recipe.model.settings(), UNetConfig if is_unet(recipe.model.base) else CfSamConfig
    known = {field.name for field in fields(config_class)} - {"id2label", "label2id", "num_types", "train_encoder"}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"model_options has {', '.join(unknown)}, which is not among the options of {config_class.__name__}; the "
            "types are the data's, and train_encoder is an option of its own."
        )


def _unet(base: str, type_names: dict[int, str], options: dict[str, Any]) -> UNetForNucleiSegmentation:
    if base in RANDOM_BASES:
        return UNetForNucleiSegmentation(UNetConfig(id2label=type_names, **options))
    model = UNetForNucleiSegmentation.from_pretrained(base, dtype=torch.float32, **options)
    known = model.config.type_names.values()
    if others := [name for name in type_names.values() if name not in known]:
        raise ValueError(
            f"the U-Net {base} does not know {', '.join(others)} of the data's types, and learns no new ones; its own "
            f"are {', '.join(known) or 'none'}."
        )
    return model


def _cfsam(base: str, type_names: dict[int, str], options: dict[str, Any]) -> CfSamForNucleiSegmentation:
    if base == "tiny":
        return CfSamForNucleiSegmentation(tiny_config(id2label=type_names, **options))
    path = checkpoint_of(base)
    if path is None:
        return CfSamForNucleiSegmentation.from_pretrained(base, dtype=torch.float32, id2label=type_names, **options)
    base_config = CfSamConfig.from_pretrained(path)
    known = base_config.type_names
    is_known = set(type_names.values()) <= set(known.values())
    if is_known and len(type_names) < len(known):
        logger.info("the base's types are kept: %s", ", ".join(known.values()))
    config = CfSamConfig.from_pretrained(path, id2label=known if is_known else type_names, **options)
    reads_alike = all(getattr(config, name) == getattr(base_config, name) for name in _READING_TYPES)
    if is_known and (reads_alike or not known):
        return CfSamForNucleiSegmentation.from_pretrained(path, dtype=torch.float32, **options)
    # Class weights belong to the base's types; those of the new ones are an option.
    of_types = ("type_loss_weights", *_READING_TYPES)
    model = CfSamForNucleiSegmentation.from_pretrained(
        path, dtype=torch.float32, **{name: value for name, value in options.items() if name not in of_types}
    )
    return retype(model, config)


def _prepare_type_branch(model: PreTrainedModel, options: ModelOptions, trunk_factor: float) -> None:
    """Gives a new type branch the weights of its trunk, and freezes all but the branch where it is trained alone, and
    the trunk where its rate is 0."""
    has_branch = getattr(model, "type_branch", None) is not None
    if not has_branch and (options.type_trunk_weights or options.train_types_alone):
        asked = f"type_trunk_weights is {options.type_trunk_weights}"
        if options.train_types_alone:
            asked = "train_types_alone is set"
        raise ValueError(
            f'{asked}, but the model has no type branch; add {{"type_trunk": "{TYPE_TRUNKS[0]}"}} to model_options, '
            "and train it on data with types."
        )
    if not has_branch:
        return
    if options.type_trunk_weights:
        load_type_trunk(model, options.type_trunk_weights)
    elif (path := checkpoint_of(options.base)) is None or not CfSamConfig.from_pretrained(path).has_type_branch:
        raise ValueError(
            f"type_trunk is {model.config.type_trunk!r}, but {options.base} has none: it would begin with random "
            "weights. Give type_trunk_weights; examples/tools/convert_efficientnet_lite.py makes them."
        )
    if options.train_types_alone:
        model.requires_grad_(False)
        model.type_branch.requires_grad_(True)
    if not trunk_factor:
        model.type_branch.trunk.requires_grad_(False)


def load_type_trunk(model: CfSamForNucleiSegmentation, path: str | Path) -> None:
    """Loads the weights of the type branch's trunk.

    Args:
        model: with a type branch.
        path: safetensors file with every weight under its name in the model (`type_branch.trunk.first.weight`, ...);
            it may hold others, which are left alone.

    Raises:
        OSError: the file is not there or damaged.
        ValueError: it lacks weights, or has some of other shapes.
    """
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(TYPE_TRUNK_PREFIX)}
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in wanted if name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OSError(f"the type trunk's weights {path} cannot be read: {error}") from error
    if unfit := [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]:
        raise ValueError(f"{path} has no fitting weights for {len(unfit)} of the type trunk's, {unfit[0]} the first.")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(found[name])


def measure_type_levels(model: CfSamForNucleiSegmentation, crops: Sequence[dict[str, torch.Tensor]]) -> None:
    """Tells a new type branch how large its trunk's channels are inside nuclei with types, from the first crops.

    Args:
        model: with a type branch.
        crops: as [`CropDataset`] gives them; `MEASURED_CROPS` of them are looked at.

    Raises:
        ValueError: no nucleus of these crops has a type.
    """
    middle = STRIDE // 2

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i in range(min(MEASURED_CROPS, len(crops))):
            crop = crops[i]
            yield crop["pixel_values"][None], crop["type_labels"][None, middle::STRIDE, middle::STRIDE] > 0

    model.type_branch.measure(batches())


def retype(model: CfSamForNucleiSegmentation, config: CfSamConfig) -> CfSamForNucleiSegmentation:
    """A model with other types, or types read otherwise, and all else of a trained one.

    The task tokens, hyper-networks and refinement of the nuclei and offset maps, of the background, and of types that
    both have by name, keep their weights, as does the type branch where both have the same; what reads the other types
    begins anew.

    Args:
        model: the trained one; left as it is.
        config: its configuration but for the types and what reads them.
    """
    new = CfSamForNucleiSegmentation(config)
    old_maps, new_maps = _map_names(model.config), _map_names(config)
    kept = [(i, old_maps.index(name)) for i, name in enumerate(new_maps) if name in old_maps]
    into, source = (torch.tensor(rows) for rows in zip(*kept, strict=True))
    old_types, new_types = (list(c.type_names.values()) for c in (model.config, config))
    before = model.state_dict()
    with torch.no_grad():
        for name, value in new.state_dict().items():
            if name.startswith("type_branch."):
                if name in TYPE_ROWS and name in before and before[name].shape[1:] == value.shape[1:]:
                    for i, type_name in enumerate(new_types):
                        if type_name in old_types:
                            value[i] = before[name][old_types.index(type_name)]
                elif name in before and before[name].shape == value.shape:
                    value.copy_(before[name])
            elif name.startswith("task_decoder.filters."):
                head, _, tail = name.removeprefix("task_decoder.filters.").partition(".")
                if new_maps[int(head)] in old_maps:
                    value.copy_(before[f"task_decoder.filters.{old_maps.index(new_maps[int(head)])}.{tail}"])
            elif name in ("task_decoder.task_tokens.weight", "refinement.head.1.weight", "refinement.head.1.bias"):
                value[into] = before[name][source]
            elif name == "refinement.head.0.0.weight":
                # It reads features and cues first, then the maps.
                first = value.shape[1] - len(new_maps)
                value[:, :first] = before[name][:, :first]
                value[:, first + into] = before[name][:, first + source]
            else:
                value.copy_(before[name])
    kept_types = old_types if all(getattr(model.config, f) == getattr(config, f) for f in _READING_TYPES) else []
    logger.warning(
        "the data's types replace the base's: begun anew %s; left out %s; kept %s",
        ", ".join(name for name in new_types if name not in kept_types) or "none",
        ", ".join(name for name in old_types if name not in new_types) or "none",
        ", ".join(name for name in new_types if name in kept_types) or "none",
    )
    return new


def _map_names(config: CfSamConfig) -> list[str]:
    """A name for each of the model's maps; those of the types are the types'."""
    # No type has a name of one character more than its own.
    fixed = [f"\0map {i}" for i in range(UNTYPED_MAPS)]
    if not config.num_types or config.has_type_branch:
        return fixed
    return [*fixed, "\0background", *config.type_names.values()]
