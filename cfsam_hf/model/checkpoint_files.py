"""Where a checkpoint's files are, in a folder or on the Hub, and what can be read of them without loading anything."""

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from safetensors import safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import extract_commit_hash

from .configuration_cfsam import CfSamConfig
from .image_processing_cfsam import CfSamImageProcessor

# Options of `from_pretrained` that locate files, of the configuration and of the weights.
_PLACE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

_PEFT_WEIGHTS = "adapter_model.safetensors"


def read_config(source: str | os.PathLike, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Reads a checkpoint's configuration file, and nothing else.

    Args:
        source: folder or Hub id.
        options: those of `from_pretrained`.

    Returns:
        Its content; `{}` if there is no such file.

    Raises:
        OSError: the checkpoint is not available, or the file is not JSON.
    """
    if _find(source, CONFIG_NAME, _place(options)) is None:
        return {}
    values, _ = CfSamConfig.get_config_dict(source, **_place(options))
    return values if isinstance(values, dict) else {}


def peft_base(source: str | os.PathLike, options: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """The base model of an adapter that PEFT, or transformers' integration of it, saved; None for anything else.

    Args:
        source: folder or Hub id.
        options: those of `from_pretrained`.

    Raises:
        OSError: the adapter names no base, or its weights are pickled.
    """
    place = _place(options)
    if _find(source, CONFIG_NAME, place) is not None:
        return None
    path = _find(source, ADAPTER_CONFIG_NAME, place)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            base = json.load(file)["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"its {ADAPTER_CONFIG_NAME} is damaged or names no base model; get it again") from error
    if not base or not isinstance(base, str):
        raise OSError(f"its {ADAPTER_CONFIG_NAME} names no base model; set base_model_name_or_path to a checkpoint")
    if _find(source, _PEFT_WEIGHTS, place) is None:
        raise OSError(f"it has no {_PEFT_WEIGHTS}; pickled weights are never read, so save the adapter again")
    return base


def weight_shapes(source: str | os.PathLike, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights by name, from the headers of its safetensors files.

    Args:
        source: folder or Hub id.
        options: those of `from_pretrained`.

    Returns:
        `{}` if there are no safetensors files.

    Raises:
        OSError: a file of the index is missing, or not available.
        SafetensorError: a file is damaged.
    """
    place = _place(options)
    single, index_name = (_with_variant(n, options) for n in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    paths = [_find(source, single, place)]
    if paths == [None]:
        index = _find(source, index_name, place)
        if index is None:
            return {}
        try:
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"its {index_name} is damaged; get it again") from error
        paths = [cached_file(source, name, **place) for name in names]
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    return shapes


def saved_image_processor(source: str | os.PathLike) -> CfSamImageProcessor | None:
    """The image processor saved with a checkpoint; None if there is none.

    Raises:
        OSError, ValueError: its file is damaged, or holds a wrong value.
    """
    try:
        return CfSamImageProcessor.from_pretrained(source)
    except OSError as error:
        if "Can't load image processor" in str(error):  # and not, for example, that it is damaged
            return None
        raise


def hub_commit(source: str | os.PathLike, options: Mapping[str, Any]) -> str | None:
    """The commit that a checkpoint was loaded from, read off the path of its configuration in the Hub's cache.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id, already loaded; a folder has no commit.
        options (`dict`): those of `from_pretrained` with which it was loaded.
    """
    if os.path.exists(source):
        return None
    path = _find(source, CONFIG_NAME, {**_place(options), "local_files_only": True, "force_download": False})
    return extract_commit_hash(path, None)


def is_meant_as_path(source: str | os.PathLike) -> bool:
    """Whether a name can only be meant as a path: a Hub id is NAME or OWNER/NAME."""
    text = os.fspath(source)
    return os.path.isabs(text) or text.count("/") > 1 or text.startswith((".", "~"))


def _place(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}


def _find(source: str | os.PathLike, name: str, place: Mapping[str, Any]) -> str | None:
    """The path of one of a checkpoint's files; None if it has no such file."""
    return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **place)


def _with_variant(name: str, options: Mapping[str, Any]) -> str:
    """The name of a file of weights in the variant that is asked for, such as `model.fp16.safetensors`."""
    stem, ending = name.rsplit(".", 1)
    return f"{stem}.{options['variant']}.{ending}" if options.get("variant") else name
