"""The files of a checkpoint, in a folder or on the Hub, and the checks before it is loaded.

Every fault is reported in one sentence that names the checkpoint.

A checkpoint comes from a stranger: its code is never run, pickled weights are never read, and sizes in its
configuration are compared with its weights before memory is allocated for them.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import extract_commit_hash

from .adapter_files import ADAPTER_FILE
from .configuration_cfsam import CfSamConfig

# Models whose weights can be loaded: this one and the one that it refines.
READABLE_TYPES = (CfSamConfig.model_type, "sam")

NO_CONFIG = f"it has no {CONFIG_NAME}, or an empty one; a checkpoint is a folder with this file and weights"

# Options of `from_pretrained` that locate files, of the configuration and of the weights.
_PLACE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

_PEFT_WEIGHTS = "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

# Fields of the configuration that no name and no shape of a weight depends on.
_NOT_ARCHITECTURE = (
    "model_type", "type_colors", "mpp", "train_encoder", "train_mask_decoder", "nuclei_loss", "loss_weights",
    "type_loss_weights", "checkpoint_info", "format_version", "refinement_dilations", "type_dropout",
)  # fmt: skip

# The configuration's parts, each an object in the file; "" is the configuration itself.
_SECTIONS = {
    "": CfSamConfig,
    "vision_config": SamVisionConfig,
    "prompt_encoder_config": SamPromptEncoderConfig,
    "mask_decoder_config": SamMaskDecoderConfig,
}
# Fields that say how often a module is repeated. Each repetition has weights of its own.
_COUNTS = ("num_hidden_layers", "num_types", "num_multimask_outputs", "iou_head_depth", "num_point_embeddings")
# Fields that other sizes are divided by.
_DIVISORS = ("num_attention_heads", "patch_size", "attention_downsample_rate")
# Fields by which a configuration chooses code, and what they may name.
_IMPLEMENTATIONS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
_OWN_IMPLEMENTATIONS = ("eager", "sdpa")
# Below these numbers a wrong configuration does no harm; loading the weights reports the mismatch.
_HARMLESS_COUNT, _HARMLESS_SIZE, _HARMLESS_VALUES = 1_000, 2**16, 2**27


@contextmanager
def naming_checkpoint(source: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of reading a checkpoint into one sentence each, which names the checkpoint.

    Several libraries take part in reading, and their errors often do not name the checkpoint.

    Args:
        source: folder or Hub id.

    Raises:
        OSError: a file is missing, damaged or not available.
        ValueError, TypeError: a value is wrong or does not fit.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"checkpoint {source}: its safetensors file is damaged or cut short; get it again") from error
    except StrictDataclassError as error:
        raise ValueError(f"checkpoint {source}: its {CONFIG_NAME} is wrong: {_one_line(error)}") from error
    except OSError as error:
        text = _one_line(error)
        if "valid JSON" in text:
            text += " Get it again, or repair it."
        if not is_meant_as_path(source) and not os.path.exists(source):
            text = f"there is no such folder here, and the Hub could not provide it: {text}"
        raise OSError(_named(source, text)) from error
    except (ValueError, TypeError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(_named(source, _one_line(error))) from error


def check_source(
    source: str | os.PathLike, options: Mapping[str, Any], build: Callable[[Any], nn.Module] | None = None
) -> dict[str, Any]:
    """Checks a checkpoint before its weights are read.

    Args:
        source: folder or Hub id. For an adapter that PEFT saved, its base is checked.
        options: options of `from_pretrained`.
        build (*optional*): makes the model of a `CfSamConfig`; then the sizes are checked, see [`check_sizes`].

    Returns:
        The content of its configuration file; `{}` for a folder without one if the configuration is passed.

    Raises:
        OSError: it is a file, or has no configuration.
        ValueError: it is another kind of model, or has impossible sizes; pickled weights are requested.
    """
    if options.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False: pickled weights are never read; save them as safetensors first.")
    check_place(source)
    base = peft_base(source, options)
    if base is not None:
        # Its revision and folder in a repository are not those of the adapter.
        others = ("revision", "subfolder")
        return check_source(base, {name: value for name, value in options.items() if name not in others}, build)
    values = read_config(source, options)
    if not values:
        if options.get("config") is None:
            raise OSError(NO_CONFIG)
        return {}
    check_type(values)
    check_implementations(values)
    if os.path.isdir(source) and not options.get("subfolder"):
        _check_weight_files(source)
    if build is not None:
        check_sizes(source, values, options, build)
    return values


def check_type(values: Mapping[str, Any], types: Sequence[str] = READABLE_TYPES) -> None:
    """Raises ValueError if the type in a configuration file is none of `types`, the first of which is CF-SAM's."""
    kind = values.get("model_type")
    if kind in types:
        return
    text = f"its {CONFIG_NAME} names no model_type" if kind is None else f"it is a model of type {shown(kind)}"
    hint = ""
    if SamConfig.model_type in types:
        hint = " (or one of a SAM, to adapt)"
    elif kind == SamConfig.model_type:
        hint = ", which `cfsam finetune` or examples/train.py makes of a SAM"
    raise ValueError(f"{text}; a CF-SAM checkpoint is needed{hint}")


def check_implementations(values: Mapping[str, Any]) -> None:
    """Raises ValueError if a configuration file asks for an implementation of attention other than PyTorch's.

    transformers takes any other name for a repository of kernels on the Hub, whose code it downloads and runs.
    """
    for section in _SECTIONS:
        part = values.get(section) if section else values
        if not isinstance(part, Mapping):
            continue
        for name in _IMPLEMENTATIONS:
            if part.get(name) not in (None, *_OWN_IMPLEMENTATIONS):
                raise ValueError(
                    f"its {CONFIG_NAME} is wrong: {name} is {shown(part[name])}; use one of "
                    f"{', '.join(_OWN_IMPLEMENTATIONS)}, or remove it"
                )


def check_place(source: str | os.PathLike, needs_config: bool = False) -> None:
    """Raises OSError if a name cannot be that of a checkpoint, without reading a file.

    Args:
        source: folder or Hub id.
        needs_config: whether a folder must have its own configuration.
    """
    if os.path.isfile(source):
        raise OSError("it is a file; pass the folder that holds it")
    if is_meant_as_path(source) and not os.path.isdir(source):
        raise OSError("there is no such folder; pass a checkpoint's folder or its Hub id")
    if os.path.isfile(os.path.join(source, ADAPTER_FILE)):
        raise OSError(
            "it is an adapter without its base; load it with CfSamForNucleiSegmentation.from_adapter (and save the "
            "whole model with save_pretrained)"
        )
    if needs_config and os.path.isdir(source) and not os.path.isfile(os.path.join(source, CONFIG_NAME)):
        raise OSError(NO_CONFIG)


def check_kind(config: Any) -> None:
    """Raises ValueError if a model's configuration is not that of a model of nuclei."""
    if not hasattr(config, "pad_multiple"):
        kind, name = getattr(config, "model_type", None), getattr(config, "name_or_path", "") or "this"
        raise ValueError(f"{name} is a model of type {shown(kind)}; a CF-SAM checkpoint is needed")


def check_sizes(
    source: str | os.PathLike, values: Mapping[str, Any], options: Mapping[str, Any], build: Callable[[Any], nn.Module]
) -> None:
    """Compares the sizes in a configuration with the checkpoint's weights, of which only the headers are read.

    A configuration that does not belong to the weights could otherwise ask for any amount of memory and time.

    Args:
        source: folder or Hub id.
        values: the content of its configuration file.
        options: options of `from_pretrained`. If they hold a configuration, it is checked instead of the file.
        build: makes the model of a `CfSamConfig`.

    Raises:
        OSError: the weights are damaged.
        ValueError: the configuration holds an impossible value, or describes a model that is far larger than the
            weights.
    """
    config = options.get("config")
    if isinstance(config, CfSamConfig):
        values = config.to_dict()
    shapes = weight_shapes(source, options)
    if not shapes or not values:
        return
    check_values(values, shapes.values())
    try:
        with torch.device("meta"), init.no_init_weights():
            if values.get("model_type") == SamConfig.model_type:
                model: nn.Module = SamModel(SamConfig.from_dict(dict(values)))
            else:
                model = build(config if isinstance(config, CfSamConfig) else CfSamConfig.from_dict(dict(values)))
    except (ValueError, TypeError, OSError, StrictDataclassError):
        raise
    except Exception as error:
        # Libraries raise many kinds of errors for unexpected values.
        raise ValueError(f"its {CONFIG_NAME} is wrong: {type(error).__name__}: {_one_line(error)}") from error
    needed, found = sum(value.numel() for value in model.state_dict().values()), sum(map(_numel, shapes.values()))
    if needed > max(2 * found, _HARMLESS_VALUES):
        raise ValueError(
            f"its {CONFIG_NAME} describes a model of {needed:,} values, but its weights hold {found:,}; get it again"
        )


def check_values(values: Mapping[str, Any], shapes: Collection[Sequence[int]], file: str = CONFIG_NAME) -> None:
    """Raises ValueError for values of a configuration file that no model with these weights can have.

    Args:
        values: the content of the file.
        shapes: the shapes of the weights.
        file: the name of the file.
    """
    counts, sizes = len(shapes), sum(map(_numel, shapes))
    if not isinstance(values.get("id2label") or {}, Mapping):
        raise ValueError(f"its {file} is wrong: id2label is not an object that names the types by id")
    for section, kind in _SECTIONS.items():
        part = values.get(section) if section else values
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"its {file} is wrong: {section} is {shown(part)}, not an object")
        for name in sorted(set(kind.__dataclass_fields__) & set(part)):
            field, value = f"{section}.{name}" if section else name, part[name]
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, bool) or not isinstance(number, int):
                    continue
                most = max(counts, _HARMLESS_COUNT) if name in _COUNTS else max(sizes, _HARMLESS_SIZE)
                if number > most or (name in _DIVISORS and number < 1):
                    raise ValueError(
                        f"its {file} is wrong: {field} is {shown(number)}, which does not fit its weights "
                        f"({counts:,} tensors, {sizes:,} values)"
                    )
        if isinstance(labels := part.get("num_labels"), int) and labels > max(counts, _HARMLESS_COUNT):
            raise ValueError(f"its {file} is wrong: num_labels is {shown(labels)}")
        act = part.get("hidden_act")
        if act is not None and (not isinstance(act, str) or act not in ACT2FN):
            raise ValueError(f"its {file} is wrong: {section}.hidden_act is {shown(act)}, an unknown activation")


def check_weights(
    info: Mapping[str, Any], values: Mapping[str, Any], config: CfSamConfig, allow_mismatched: bool
) -> None:
    """Makes sure that every weight that should come from the checkpoint did.

    Args:
        info: transformers' loading info: `missing_keys`, `mismatched_keys`, ...
        values: the content of the checkpoint's configuration file.
        config: the configuration that the model was built with.
        allow_mismatched: whether weights of other shapes, and then also missing ones, may be newly initialised.

    Raises:
        ValueError: weights have other shapes.
        OSError: weights are missing. Those of the adapters and heads may be missing from a SAM, and those of parts
            that `config` has and the checkpoint's own configuration has not.
    """
    if allow_mismatched:
        return
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} of its weights do not fit; {name} is {tuple(found)} instead of {tuple(wanted)}. Pass "
            "the configuration that it was made with, or ignore_mismatched_sizes=True to initialise them"
        )
    missing = set(info["missing_keys"])
    if values.get("model_type") != CfSamConfig.model_type:
        missing = {name for name in missing if name.startswith("sam.") and ".adapter." not in name}
    elif _architecture(CfSamConfig.from_dict(dict(values))) != _architecture(config):
        return
    if missing:
        raise OSError(
            f"{len(missing)} of the weights that the model needs are missing, such as {min(missing)}; get it again"
        )


def find_file(source: str | os.PathLike, name: str, options: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """The path of one of a checkpoint's files; None if it has no such file.

    Args:
        source: folder or Hub id.
        name: the name of the file.
        options: options of `from_pretrained`.

    Raises:
        OSError: the checkpoint is not available.
    """
    return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **_place(options))


def read_config(source: str | os.PathLike, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Reads a checkpoint's configuration file alone.

    Args:
        source: folder or Hub id.
        options: options of `from_pretrained`.

    Returns:
        Its content; `{}` if there is no such file.

    Raises:
        OSError: the checkpoint is not available, or the file is not JSON.
    """
    if find_file(source, CONFIG_NAME, options) is None:
        return {}
    try:
        values, _ = CfSamConfig.get_config_dict(source, **_place(options))
    except RecursionError as error:
        raise OSError(f"its {CONFIG_NAME} is nested too deeply; get it again") from error
    return values if isinstance(values, dict) else {}


def peft_base(source: str | os.PathLike, options: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """The base model of an adapter that PEFT, or transformers' integration of it, saved; None for anything else.

    Args:
        source: folder or Hub id.
        options: options of `from_pretrained`.

    Raises:
        OSError: the adapter names no base, or its weights are pickled.
    """
    if find_file(source, CONFIG_NAME, options) is not None:
        return None
    path = find_file(source, ADAPTER_CONFIG_NAME, options)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            base = json.load(file)["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"its {ADAPTER_CONFIG_NAME} is damaged or names no base model; get it again") from error
    if not base or not isinstance(base, str):
        raise OSError(f"its {ADAPTER_CONFIG_NAME} names no base model; set base_model_name_or_path to a checkpoint")
    if find_file(source, _PEFT_WEIGHTS, options) is None:
        raise OSError(f"it has no {_PEFT_WEIGHTS}; pickled weights are never read, so save the adapter again")
    return base


def weight_shapes(source: str | os.PathLike, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights by name, from the headers of its safetensors files.

    Args:
        source: folder or Hub id.
        options: options of `from_pretrained`.

    Returns:
        `{}` if there are no safetensors files.

    Raises:
        OSError: a file of the index is missing, or not available.
        SafetensorError: a file is damaged.
    """
    single, index_name = (_with_variant(n, options) for n in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    paths = [find_file(source, single, options)]
    if paths == [None]:
        index = find_file(source, index_name, options)
        if index is None:
            return {}
        try:
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"its {index_name} is damaged; get it again") from error
        paths = [cached_file(source, name, **_place(options)) for name in names]
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    return shapes


def hub_commit(source: str | os.PathLike, options: Mapping[str, Any]) -> str | None:
    """The commit that a checkpoint was loaded from, taken from the path of its configuration in the Hub's cache.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id, already loaded; a folder has no commit.
        options (`dict`): options of `from_pretrained` with which it was loaded.
    """
    if os.path.exists(source):
        return None
    path = find_file(source, CONFIG_NAME, {**options, "local_files_only": True, "force_download": False})
    return extract_commit_hash(path, None)


def is_meant_as_path(source: str | os.PathLike) -> bool:
    """Whether a name can only be a path: a Hub id is NAME or OWNER/NAME."""
    text = os.fspath(source)
    return os.path.isabs(text) or text.count("/") > 1 or text.startswith((".", "~"))


def _check_weight_files(folder: str | os.PathLike) -> None:
    names = sorted(os.listdir(folder))
    if any(name.endswith(".safetensors") for name in names):
        return
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise OSError(
            f"its weights are pickled ({pickles[0]}) and are never read, because a pickle can run any code; get "
            "model.safetensors, or save the weights with save_pretrained on the machine that made them"
        )
    raise OSError("it has no model.safetensors; get it again with its weights")


def _place(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}


def _with_variant(name: str, options: Mapping[str, Any]) -> str:
    """The name of a file of weights in the requested variant, such as `model.fp16.safetensors`."""
    stem, ending = name.rsplit(".", 1)
    return f"{stem}.{options['variant']}.{ending}" if options.get("variant") else name


def _architecture(config: CfSamConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CfSamConfig.__annotations__ if name not in _NOT_ARCHITECTURE}


def _numel(shape: Sequence[int]) -> int:
    number = 1
    for size in shape:
        number *= size
    return number


def shown(value: Any) -> str:
    """A value for a message: a short name as it is, anything else as Python writes it, cut to 60 characters."""
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 60:
        return value
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"too large a {type(value).__name__} to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _named(source: str | os.PathLike, text: str) -> str:
    return text if str(source) in text else f"checkpoint {source}: {text}"
