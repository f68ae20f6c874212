"""Adapter files: the trained weights in one safetensors file, and a JSON file that names the base they belong to."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file

# Not named adapter_config.json: transformers and PEFT would treat the folder as one of PEFT's.
ADAPTER_FILE = "cfsam_adapter.json"
WEIGHTS_FILE = "cfsam_adapter.safetensors"
ADAPTER_FORMAT = 1

# Options of transformers' `cached_file`.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

# Checkpoints of the installed package are identified by their name, which is the same on every machine.
_BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"

# The roundings under which two bases count as the same.
HASHED_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BaseIdentity:
    """The frozen model that an adapter belongs to.

    Args:
        name (`str`): Hub id, folder, or name of the checkpoint.
        revision (`str`, *optional*): commit on the Hub.
        hashes (`dict[str, str]`, *optional*): see [`content_hashes`].
    """

    name: str
    revision: str | None = None
    hashes: dict[str, str] | None = None

    def __str__(self) -> str:
        facts = [f"revision {self.revision}"] if self.revision else []
        facts += [f"{name} content {value[:12]}" for name, value in (self.hashes or {}).items()]
        return f"{self.name!r} ({', '.join(facts)})" if facts else repr(self.name)

    @property
    def source(self) -> str | Path:
        """The Hub id or folder to load it from."""
        bundled = _BUNDLED / self.name
        return bundled if bundled.parent == _BUNDLED and bundled.is_dir() else self.name

    @classmethod
    def of(cls, model: Any) -> "BaseIdentity":
        """The identity of the frozen part of a new or just loaded model."""
        info = model.config.checkpoint_info or {}
        training, revision = info.get("training"), info.get("base_revision")
        if info.get("base_model") and not (isinstance(training, Mapping) and training.get("train_encoder")):
            return cls(str(info["base_model"]), None if revision is None else str(revision))
        source = str(getattr(model, "name_or_path", "") or "")
        if source and Path(source).resolve().parent == _BUNDLED:
            return cls(Path(source).name)
        return cls(source or "a model with random weights", getattr(model.config, "_commit_hash", None))


@dataclass(frozen=True)
class AdapterFile:
    """The content of an adapter folder.

    Args:
        name (`str`): the name under which it was saved.
        base (`BaseIdentity`): the model that it belongs to.
        config (`dict`): the fields of `CfSamConfig` that determine the trained parts and the types.
        tensors (`dict[str, torch.Tensor]`): the trained weights by their names in the model.
        folder (`str`): the folder of the files on this machine.
    """

    name: str
    base: BaseIdentity
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    folder: str


def content_hash(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> str:
    """SHA-256 over names, shapes and values, the values rounded to a 16-bit type, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.to(dtype).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def content_hashes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Hashes of frozen weights that identify the base of an adapter, whatever type it is loaded in.

    A base may be loaded as float32, bfloat16 or float16, or stored in float16 and loaded as float32. Rounding twice
    differs from rounding once, so no single hash identifies all of these. There is one hash for each 16-bit type, and
    two bases are the same if either hash agrees (see [`same_content`]).

    Args:
        tensors: the weights by name.

    Returns:
        SHA-256 by name of the type that the values were rounded to.
    """
    return {name: content_hash(tensors, dtype) for name, dtype in HASHED_DTYPES.items()}


def same_content(tensors: Mapping[str, torch.Tensor], hashes: Mapping[str, str]) -> bool:
    """Whether weights are the hashed ones, up to rounding to a 16-bit type."""
    return any(content_hash(tensors, HASHED_DTYPES[name]) == wanted for name, wanted in hashes.items())


def write_adapter(
    folder: str | os.PathLike,
    name: str,
    base: BaseIdentity,
    config: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    processor: Any = None,
) -> None:
    """Writes an adapter folder; the files appear when all of them are complete.

    Args:
        folder (`str` or `os.PathLike`): created if needed; an existing adapter is replaced.
        name, base, config, tensors: see [`AdapterFile`].
        processor (*optional*): a processor whose `save_pretrained` adds its configuration.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Marks the two files as a pair: a crash between their moves can leave an old one beside a new one.
    pair = content_hash(tensors, torch.float32)
    record = {
        "adapter_type": "cfsam",
        "format_version": ADAPTER_FORMAT,
        "name": name,
        "base": asdict(base),
        "weights_hash": pair,
        "config": config,
    }
    metadata = {
        "format": "pt",
        "weights_hash": pair,
        "base_name": base.name,
        "base_revision": base.revision or "",
        "base_hashes": json.dumps(base.hashes),
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".cfsam-") as stage:
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(contiguous, Path(stage) / WEIGHTS_FILE, metadata=metadata)
        (Path(stage) / ADAPTER_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if processor is not None:
            processor.save_pretrained(stage)
        for file in sorted(os.listdir(stage)):
            os.replace(Path(stage) / file, folder / file)


def find_adapter(source: str | os.PathLike, **hub_options) -> str | None:
    """The path of an adapter's JSON file in a folder or Hub repository; `None` if there is none.

    Raises:
        OSError: this cannot be determined: the repository or revision does not exist or is not accessible, or the Hub
            cannot be reached and the file is not in the cache.
    """
    try:
        return cached_file(source, ADAPTER_FILE, **hub_options)
    except OSError as error:
        # The error about a file that is known to be missing has no cause; other errors are raised from one.
        if error.__cause__ is None and error.errno is None:
            return None
        raise


def is_adapter(source: str | os.PathLike, **hub_options) -> bool:
    """Whether to read a source as an adapter of CF-SAM rather than of PEFT.

    This includes folders without any adapter, so that the error of reading them says what is missing.

    Raises:
        OSError: as for [`find_adapter`], unless the cache holds an adapter of PEFT.
    """
    try:
        if find_adapter(source, **hub_options) is not None:
            return True
    except OSError:
        offline = {**hub_options, "force_download": False, "local_files_only": True}
        if cached_file(source, ADAPTER_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **offline) is None:
            raise
        return False
    return os.path.isdir(source) and not os.path.isfile(os.path.join(source, ADAPTER_CONFIG_NAME))


def read_adapter(source: str | os.PathLike, **hub_options) -> AdapterFile:
    """Reads an adapter from a folder or from the Hub.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id.
        hub_options: see `HUB_OPTIONS`.

    Raises:
        OSError: there is no adapter, the Hub cannot be reached or denies access, a file is damaged, or the two files
            belong to different adapters.
        ValueError: the adapter was written by a newer version.
    """
    path = find_adapter(source, **hub_options)
    if path is None:
        raise OSError(f"{source}: there is no {ADAPTER_FILE}; pass a folder that save_adapter wrote.")
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        version, pair = record["format_version"], record["weights_hash"]
        name, base, config = record["name"], BaseIdentity(**record["base"]), record["config"]
        for value, kind in ((version, int), (pair, str), (name, str), (base.name, str), (config, dict)):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r:.60} is not of type {kind.__name__}")
        if not set(base.hashes or {}) <= set(HASHED_DTYPES):
            raise ValueError(f"{base.hashes!r:.60} are not hashes")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OSError(f"{path} is damaged, or was not written by save_adapter ({error!r}); get it again.") from error
    if version > ADAPTER_FORMAT:
        raise ValueError(
            f"{path} has format version {version}, newer than the {ADAPTER_FORMAT} that this version of cfsam_hf "
            "reads; upgrade cfsam_hf."
        )
    weights = cached_file(source, WEIGHTS_FILE, **hub_options)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise OSError(f"{weights} is damaged or cut short; get it again.") from error
    if content_hash(tensors, torch.float32) != pair:
        raise OSError(f"{weights} and {ADAPTER_FILE} belong to different adapters, or one is damaged; get both again.")
    return AdapterFile(name, base, config, tensors, str(Path(path).parent))
