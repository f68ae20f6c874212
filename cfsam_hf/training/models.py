"""The model that a recipe trains, for the types of the data: random weights, a pretrained SAM, or a checkpoint."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from ..baselines.unet import UNetConfig, UNetForNucleiSegmentation
from ..bases.bundled import or_bundled
from ..model.checkpoint import check_place, naming_checkpoint
from ..model.configuration_cfsam import TYPE_TRUNKS, CfSamConfig
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.processing_cfsam import CfSamProcessor, saved_image_processor
from ..model.type_branch import STRIDE, LiteTrunk
from .architectures import tiny_config
from .finer_maps import with_finer_maps
from .recipe import ModelOptions, Recipe

logger = logging.getLogger(__name__)

# Bases without weights.
RANDOM_BASES = ("tiny", "unet")

# In a file of trunk weights, names start with one of these: those of a type branch's own trunk, and of a shared one.
TYPE_TRUNK_PREFIX = "type_branch.trunk."
SHARED_TRUNK_PREFIX = "trunk."

# Weights of the type branch that have a row for each type.
TYPE_ROWS = ("type_branch.classify.weight", "type_branch.classify.bias")

# The crops on which the channels of a new type branch are measured: some 6,000 nuclei of CoNSeP.
MEASURED_CROPS = 64

# The number of maps before those of the background and the types.
UNTYPED_MAPS = 3


# Options of the part that reads types.
_READING_TYPES = ("type_trunk", "type_dim")

# The learned tokens of the styles: one row for each, after that of the neutral style.
STYLE_ROWS = "style.tokens.weight"
NEUTRAL_ROW = 0


def build_model(recipe: Recipe, data_types: Sequence[str]) -> PreTrainedModel:
    """The model to train, with all other parameters frozen.

    A CF-SAM base that knows all types of the data keeps its types and their order, so data without types, or with only
    some of them, can train it further. If the data have other types, the model gets the types of the data: the weights
    for the nuclei and offset maps and for types of the same name stay, and those for other types get new values (the
    log says which). If the option `type_trunk` differs from the base's, all weights for types get new values. If the
    option `styles` differs, styles of the same name stay, and new ones begin as the neutral style. With a larger
    `map_upscale`, all parts of a cell begin with the value that the base gives the cell before it is interpolated.

    Args:
        recipe: names the base and its options.
        data_types: names of the data's types, in the order that a new model gets; empty without types.

    Raises:
        ValueError: the model's configuration has no such option; a trained U-Net lacks a type; a type trunk would keep
            random weights; or the recipe gives weights for a type branch, or trains it alone, and there is none.
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
    """Recomputes encoder layers in the backward pass, which saves memory."""
    # transformers before 5.23 uses another name.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def build_processor(recipe: Recipe, config: CfSamConfig | UNetConfig) -> CfSamProcessor:
    """The processor that is saved with the model. It takes the decoding (with the weights of scores) of a CF-SAM base,
    and its windows if these are fitted to the image and the recipe sets none."""
    checkpoint, base = checkpoint_of(recipe.model.base), None
    if checkpoint is not None:
        base = saved_image_processor(checkpoint)
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
    """Folder or Hub id of a CF-SAM base, or folder of a U-Net; `None` for random weights and plain SAMs."""
    if base in RANDOM_BASES:
        return None
    base = or_bundled(base)
    return base if is_unet(base) or _kind(base) == CfSamConfig.model_type else None


def is_unet(base: str) -> bool:
    """Whether a base is the U-Net that CF-SAM is compared with: random weights, or the folder of a trained one."""
    return base == "unet" or (Path(base).is_dir() and _kind(base) == UNetConfig.model_type)


def _kind(base: str) -> str | None:
    """The model type of a folder or Hub id; raises OSError that names it if there is no such checkpoint."""
    with naming_checkpoint(base):
        check_place(base)
        return CfSamConfig.get_config_dict(base)[0].get("model_type")


def check_options(recipe: Recipe) -> None:
    """Refuses model options that the configuration does not have.

    A configuration accepts any name as an attribute, so a mistyped option would have no effect.

    Raises:
        ValueError: names the unknown options.
    """
    options, config_class = recipe.model.settings(), UNetConfig if is_unet(recipe.model.base) else CfSamConfig
    known = {field.name for field in fields(config_class)} - {"id2label", "label2id", "num_types", "train_encoder"}
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"model_options has {', '.join(unknown)}, which {config_class.__name__} does not have. Types come from "
            "the data, and train_encoder is a value of the recipe itself."
        )


def _unet(base: str, type_names: dict[int, str], options: dict[str, Any]) -> UNetForNucleiSegmentation:
    if base in RANDOM_BASES:
        return UNetForNucleiSegmentation(UNetConfig(id2label=type_names, **options))
    model = UNetForNucleiSegmentation.from_pretrained(base, dtype=torch.float32, **options)
    known = model.config.type_names.values()
    if others := [name for name in type_names.values() if name not in known]:
        raise ValueError(
            f"the U-Net {base} does not know {', '.join(others)} of the data's types, and cannot learn new ones; it "
            f"knows {', '.join(known) or 'none'}."
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
    keeps_heads = is_known and (reads_alike or not known) and config.styles == base_config.styles
    if keeps_heads and config.map_upscale == base_config.map_upscale:
        return CfSamForNucleiSegmentation.from_pretrained(path, dtype=torch.float32, **options)
    # Class weights belong to the types of the base; an option can set those of the new ones.
    of_new_parts = {"map_upscale"} if keeps_heads else {"type_loss_weights", "styles", "map_upscale", *_READING_TYPES}
    model = CfSamForNucleiSegmentation.from_pretrained(
        path, dtype=torch.float32, **{name: value for name, value in options.items() if name not in of_new_parts}
    )
    if config.map_upscale != base_config.map_upscale:
        model = with_finer_maps(model, config.map_upscale)
    return model if keeps_heads else retype(model, config)


def _prepare_type_branch(model: PreTrainedModel, options: ModelOptions, trunk_factor: float) -> None:
    """Loads a new trunk; freezes everything except the type branch if it is trained alone, and the trunk if its
    learning rate is 0."""
    trunk = trunk_of(model)
    if getattr(model, "type_branch", None) is None and options.train_types_alone:
        raise ValueError(
            f'train_types_alone is set, but the model has no type branch; add {{"type_trunk": "{TYPE_TRUNKS[0]}"}} to '
            "model_options, and train it on data with types."
        )
    if trunk is None and options.type_trunk_weights:
        raise ValueError(
            f"type_trunk_weights is {options.type_trunk_weights}, but the model has no type branch and no "
            f'detail_trunk; add {{"detail_trunk": "{TYPE_TRUNKS[0]}"}} to model_options, or '
            f'{{"type_trunk": "{TYPE_TRUNKS[0]}"}} and train it on data with types.'
        )
    if trunk is None:
        return
    if options.type_trunk_weights:
        load_type_trunk(model, options.type_trunk_weights)
    elif not _has_same_trunk(checkpoint_of(options.base), model.config):
        name = "type_trunk" if model.config.detail_trunk is None else "detail_trunk"
        raise ValueError(
            f"{name} is {getattr(model.config, name)!r}, but {options.base} has none, so its weights would be random. "
            "Give type_trunk_weights; examples/tools/convert_efficientnet_lite.py makes such a file."
        )
    if options.train_types_alone:
        model.requires_grad_(False)
        model.type_branch.requires_grad_(True)
    if not trunk_factor:
        trunk.requires_grad_(False)


def trunk_of(model: PreTrainedModel) -> LiteTrunk | None:
    """The trunk that a model shares between outlines and types, or that of its type branch alone."""
    shared = getattr(model, "trunk", None)
    return shared if shared is not None else getattr(getattr(model, "type_branch", None), "trunk", None)


def _has_same_trunk(path: str | None, config: CfSamConfig) -> bool:
    """Whether the CF-SAM checkpoint that training starts from has weights for the trunk of the new configuration."""
    if path is None:
        return False
    base = CfSamConfig.from_pretrained(path)
    return base.detail_trunk is not None if config.detail_trunk is not None else base.has_type_branch


def load_type_trunk(model: CfSamForNucleiSegmentation, path: str | Path) -> None:
    """Loads the weights of the trunk, whether outlines and types share it or the type branch has it for itself.

    Args:
        model: with a trunk.
        path: safetensors file with every weight of a trunk of either kind under its name in the model
            (`type_branch.trunk.first.weight` or `trunk.first.weight`, ...); other weights in it are ignored.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: weights are missing or have other shapes.
    """
    trunk = trunk_of(model)
    wanted = {} if trunk is None else trunk.state_dict()
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            shared = any(name.startswith(SHARED_TRUNK_PREFIX) for name in names)
            prefix = SHARED_TRUNK_PREFIX if shared else TYPE_TRUNK_PREFIX
            found = {name: file.get_tensor(prefix + name) for name in wanted if prefix + name in names}
    except (OSError, SafetensorError) as error:
        raise OSError(f"the type trunk's weights {path} cannot be read: {error}") from error
    if unfit := [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]:
        raise ValueError(
            f"{path} lacks {len(unfit)} weights of the trunk, or has them in another shape: {prefix}{unfit[0]}"
        )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(found[name])


def needs_type_levels(model: PreTrainedModel, options: ModelOptions) -> bool:
    """Whether the type branch's trunk is to be measured before training: it has new weights, or the branch is new."""
    if getattr(model, "type_branch", None) is None:
        return False
    path = checkpoint_of(options.base)
    is_new = path is None or not CfSamConfig.from_pretrained(path).has_type_branch
    return bool(options.type_trunk_weights) or is_new


def measure_type_levels(model: CfSamForNucleiSegmentation, crops: Any) -> None:
    """Measures, on the first crops, the channels of a new type branch's trunk inside nuclei with types.

    Args:
        model: with a type branch.
        crops: as [`CropDataset`] returns them; `MEASURED_CROPS` of them are used.

    Raises:
        ValueError: no nucleus in these crops has a type.
    """
    middle = STRIDE // 2

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i in range(min(MEASURED_CROPS, len(crops))):
            crop = crops[i]
            yield crop["pixel_values"][None], crop["type_labels"][None, middle::STRIDE, middle::STRIDE] > 0

    if model.type_branch is None:
        raise ValueError("the model has no type branch to measure.")
    model.type_branch.measure(batches(), model.trunk)


def retype(model: CfSamForNucleiSegmentation, config: CfSamConfig) -> CfSamForNucleiSegmentation:
    """A copy of a trained model with other types or styles, or with another part that reads types.

    The task tokens, hyper-networks and refinement of the nuclei and offset maps, of the background, and of types with
    the same name keep their weights, and so does the type branch if both models have the same kind. Weights for other
    types get new values. A style of the same name keeps its token; a new one begins with that of the neutral style.

    Args:
        model: the trained model, which stays unchanged.
        config: its configuration, with other types or styles, or another part that reads types; `map_upscale` is the
            model's.
    """
    new = CfSamForNucleiSegmentation(config)
    old_maps, new_maps = _map_names(model.config), _map_names(config)
    kept = [(i, old_maps.index(name)) for i, name in enumerate(new_maps) if name in old_maps]
    into, source = (torch.tensor(rows) for rows in zip(*kept, strict=True))
    old_types, new_types = (list(c.type_names.values()) for c in (model.config, config))
    before, parts = model.state_dict(), config.map_upscale**2
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
            elif name.startswith("style.") and model.style is None:
                # Styles that no one has trained begin as they are in a new model, which does not use them yet.
                pass
            elif name == STYLE_ROWS:
                rows = [_style_row(style, model.config.styles) for style in config.styles]
                value.copy_(before[name][[NEUTRAL_ROW, *rows]])
            elif name == "task_decoder.task_tokens.weight":
                value[into] = before[name][source]
            elif name in ("refinement.head.1.weight", "refinement.head.1.bias"):
                value.unflatten(0, (-1, parts))[into] = before[name].unflatten(0, (-1, parts))[source]
            elif name == "refinement.head.0.0.weight":
                # Its input consists of features and cues, followed by the parts of the maps.
                first = value.shape[1] - len(new_maps) * parts
                value[:, :first] = before[name][:, :first]
                old_columns = before[name][:, first:].unflatten(1, (-1, parts))
                value[:, first:].unflatten(1, (-1, parts))[:, into] = old_columns[:, source]
            else:
                value.copy_(before[name])
    if model.config.styles != config.styles:
        new_styles = [style for style in config.styles if style not in model.config.styles]
        logger.info("styles: %s; new: %s", ", ".join(config.styles) or "none", ", ".join(new_styles) or "none")
    kept_types = old_types if all(getattr(model.config, f) == getattr(config, f) for f in _READING_TYPES) else []
    if kept_types == old_types == new_types:
        return new
    logger.warning(
        "the data's types replace the base's: new %s; removed %s; kept %s",
        ", ".join(name for name in new_types if name not in kept_types) or "none",
        ", ".join(name for name in old_types if name not in new_types) or "none",
        ", ".join(name for name in new_types if name in kept_types) or "none",
    )
    return new


def _style_row(style: str, known: Sequence[str]) -> int:
    """The row from which a style begins: its own if the base knows it, else that of the neutral style."""
    return NEUTRAL_ROW + 1 + known.index(style) if style in known else NEUTRAL_ROW


def _map_names(config: CfSamConfig) -> list[str]:
    """A name for each map of the model; a type's map has the type's name."""
    # No type name contains this character.
    fixed = [f"\0map {i}" for i in range(UNTYPED_MAPS)]
    if not config.num_types or config.has_type_branch:
        return fixed
    return [*fixed, "\0background", *config.type_names.values()]
