"""What a checkpoint must be to be loaded; whatever is wrong with one is told in a sentence with its name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from .adapter_files import ADAPTER_FILE
from .configuration_cfsam import CfSamConfig

# Weights are read of checkpoints of this model and of the model that it refines.
READABLE_TYPES = (CfSamConfig.model_type, "sam")

# Options of `from_pretrained` that say where files are, for the configuration as for the weights.
_PLACE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

_NO_CONFIG = f"there is no {CONFIG_NAME}, or nothing in it; a checkpoint is a folder with it and weights"

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

# Fields of the configuration on which no weight's name or shape depends.
_NOT_ARCHITECTURE = (
    "model_type", "type_colors", "mpp", "train_encoder", "train_mask_decoder", "nuclei_loss", "loss_weights",
    "type_loss_weights", "checkpoint_info", "format_version", "refinement_dilations", "type_dropout",
)  # fmt: skip


@contextmanager
def naming_checkpoint(source: str | os.PathLike) -> Iterator[None]:
    """Gives the errors of reading a checkpoint its name, in one sentence each.

    Reading goes through several libraries with kinds of errors of their own, many of which do not name the checkpoint.

    Args:
        source: folder or Hub id.

    Raises:
        OSError: something is missing, damaged or not to be had.
        ValueError, TypeError: something does not fit.
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
            text += " Get it again, or mend it."
        if not is_meant_as_path(source) and not os.path.exists(source):
            text = f"there is no such folder here, and the Hub could not give it: {text}"
        raise OSError(_named(source, text)) from error
    except (ValueError, TypeError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(_named(source, _one_line(error))) from error


def check_source(source: str | os.PathLike, options: dict[str, Any]) -> dict[str, Any]:
    """Looks at a checkpoint before its weights are read.

    Args:
        source: folder or Hub id.
        options: those of `from_pretrained`.

    Returns:
        What its configuration file holds; `{}` for a folder without one, where the configuration is passed.

    Raises:
        OSError: it is a file, or has no configuration.
        ValueError: it is another kind of model, or has a newer format; pickled weights are asked for.
    """
    if options.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False: pickled weights are never read; save them as safetensors first.")
    check_place(source)
    place = {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}
    values, _ = CfSamConfig.get_config_dict(source, **place)
    if not isinstance(values, dict) or not values:
        if options.get("config") is None:
            raise OSError(_NO_CONFIG)
        return {}
    kind = values.get("model_type")
    if kind not in READABLE_TYPES:
        raise ValueError(
            f"it is a model of type {kind!r}; a CF-SAM checkpoint, or a SAM one (of type 'sam') to adapt, is needed"
        )
    if os.path.isdir(source) and "subfolder" not in place:
        _check_weight_files(source)
    return values


def check_place(source: str | os.PathLike, needs_config: bool = False) -> None:
    """Raises OSError where a name is none of a checkpoint's folder, as far as can be seen without reading a file.

    Args:
        source: folder or Hub id.
        needs_config: whether a folder must have its own configuration.
    """
    if os.path.isfile(source):
        raise OSError("it is a file; pass the folder that it lies in")
    if is_meant_as_path(source) and not os.path.isdir(source):
        raise OSError("there is no such folder; pass a checkpoint's folder or the Hub id of one")
    if os.path.isfile(os.path.join(source, ADAPTER_FILE)):
        raise OSError(
            "it is an adapter without its base; load it with CfSamForNucleiSegmentation.from_adapter (and save all of "
            "it with save_pretrained)"
        )
    if needs_config and os.path.isdir(source) and not os.path.isfile(os.path.join(source, CONFIG_NAME)):
        raise OSError(_NO_CONFIG)


def check_kind(config: Any) -> None:
    """Raises ValueError where a model's configuration is not that of a model of nuclei."""
    if not hasattr(config, "pad_multiple"):
        kind, name = getattr(config, "model_type", None), getattr(config, "name_or_path", "") or "this"
        raise ValueError(f"{name} is a model of type {kind!r}, not one of nuclei; give a CF-SAM checkpoint")


def is_meant_as_path(source: str | os.PathLike) -> bool:
    """Whether a name can only be meant as a path: a Hub id is NAME or OWNER/NAME."""
    text = os.fspath(source)
    return os.path.isabs(text) or text.count("/") > 1 or text.startswith((".", "~"))


def _check_weight_files(folder: str | os.PathLike) -> None:
    names = sorted(os.listdir(folder))
    if any(name.endswith(".safetensors") for name in names):
        return
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise OSError(
            f"its weights are pickled ({pickles[0]}), which are never read since they can run any code; ask for "
            "model.safetensors, or save them with save_pretrained where they come from"
        )
    raise OSError("there is no model.safetensors in it; get it again, weights and all")


def check_weights(info: dict[str, Any], values: dict[str, Any], config: CfSamConfig, allow_mismatched: bool) -> None:
    """Makes sure that every weight that should come from the checkpoint did.

    Args:
        info: transformers' loading info: `missing_keys`, `mismatched_keys`, ...
        values: what the checkpoint's configuration file holds.
        config: the configuration that the model was made with.
        allow_mismatched: whether weights of other shapes may begin anew; then missing ones may, too.

    Raises:
        ValueError: there are weights of other shapes.
        OSError: weights are missing. Those of a SAM's adapters and heads may be, and those of parts that `config` has
            and the checkpoint's own configuration has not.
    """
    if allow_mismatched:
        return
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} of its weights do not fit, {name} is {tuple(found)} in place of {tuple(wanted)}; give "
            "it the configuration that it was made with, or pass ignore_mismatched_sizes=True to begin those anew"
        )
    missing = set(info["missing_keys"])
    if values.get("model_type") != CfSamConfig.model_type:
        missing = {name for name in missing if name.startswith("sam.") and ".adapter." not in name}
    elif _architecture(CfSamConfig.from_dict(values)) != _architecture(config):
        return
    if missing:
        raise OSError(f"its weights lack {len(missing)} that the model needs, {min(missing)} the first; get it again")


def _architecture(config: CfSamConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CfSamConfig.__annotations__ if name not in _NOT_ARCHITECTURE}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _named(source: str | os.PathLike, text: str) -> str:
    return text if str(source) in text else f"checkpoint {source}: {text}"


def hub_commit(source: str | os.PathLike, options: dict[str, Any]) -> str | None:
    """The commit that a checkpoint was loaded from, told by the place of its configuration in the Hub's cache.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id, already loaded; a folder has no commit.
        options (`dict`): those of `from_pretrained` with which it was loaded.
    """
    if os.path.exists(source):
        return None
    place = {name: options[name] for name in _PLACE_OPTIONS if options.get(name) is not None}
    place = {**place, "local_files_only": True, "force_download": False}
    path = cached_file(source, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **place)
    return extract_commit_hash(path, None)
