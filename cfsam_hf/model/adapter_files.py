"""Adapter files: what was trained, in one safetensors file, beside a JSON file that names the base it belongs to."""

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
from transformers.utils import cached_file

# Not PEFT's adapter_config.json: transformers and PEFT would take the folder for one of theirs.
ADAPTER_FILE = "cfsam_adapter.json"
WEIGHTS_FILE = "cfsam_adapter.safetensors"
ADAPTER_FORMAT = 1

# What transformers' `cached_file` takes.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

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


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as it was read.

    Args:
        name (`str`): under which it was saved.
        base (`BaseIdentity`): the model it belongs to.
        config (`dict`): the fields of `CfSamConfig` that the trained parts and types follow from.
        tensors (`dict[str, torch.Tensor]`): the trained weights by their names in the model.
        folder (`str`): where the files lie on this machine.
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
    """The hashes of frozen weights by which an adapter knows its base again, whatever type they are loaded in.

    A base may be loaded as float32, bfloat16 or float16, or stored in float16 and loaded as float32. No single hash
    survives all of that, since rounding twice is not rounding once; so there is one for each 16-bit type, and two
    bases are the same if either agrees (see [`same_content`]).

    Args:
        tensors: the weights by name.

    Returns:
        SHA-256 by name of the type that the values were rounded to.
    """
    return {name: content_hash(tensors, dtype) for name, dtype in HASHED_DTYPES.items()}


def same_content(tensors: Mapping[str, torch.Tensor], hashes: Mapping[str, str]) -> bool:
    """Whether weights are, but for rounding to a 16-bit type, the ones that the hashes were taken of."""
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
        folder (`str` or `os.PathLike`): made if needed; an adapter that is there is replaced.
        name, base, config, tensors: see [`AdapterFile`].
        processor (*optional*): a processor whose `save_pretrained` adds its configuration.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Marks the two files as a pair, should a crash between their moves leave an old one beside a new one.
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
    """Path of the JSON file of an adapter in a folder or Hub repository; `None` where there is none.

    Raises:
        OSError: it is not known whether there is one: no such repository or revision, no right to see it, or the Hub
            cannot be reached and the file was not fetched before.
    """
    try:
        return cached_file(source, ADAPTER_FILE, **hub_options)
    except OSError as error:
        # What is known to be missing has no cause; whatever hindered the look at it is the cause.
        if error.__cause__ is None and error.errno is None:
            return None
        raise


def read_adapter(source: str | os.PathLike, **hub_options) -> AdapterFile:
    """Reads an adapter folder, of this machine or of the Hub.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id.
        hub_options: see `HUB_OPTIONS`.

    Raises:
        OSError: no adapter is there, the Hub cannot be reached or refuses, or a file is damaged or not of the same
            adapter as the other.
        ValueError: the adapter was written by a newer version.
    """
    path = find_adapter(source, **hub_options)
    if path is None:
        raise OSError(f"{source}: no {ADAPTER_FILE} there, so it is no folder that save_adapter wrote.")
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        version, pair = record["format_version"], record["weights_hash"]
        name, base, config = record["name"], BaseIdentity(**record["base"]), record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"{path}: damaged, or not written by save_adapter ({error!r}); get it again.") from error
    if version > ADAPTER_FORMAT:
        raise ValueError(
            f"{path} has format version {version}, newer than the {ADAPTER_FORMAT} that this version of cfsam_hf "
            "reads; upgrade cfsam_hf."
        )
    weights = cached_file(source, WEIGHTS_FILE, **hub_options)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise OSError(f"{weights}: damaged or cut short; get it again.") from error
    if content_hash(tensors, torch.float32) != pair:
        raise OSError(f"{weights} and {ADAPTER_FILE} beside it are not of the same adapter, or one is damaged.")
    return AdapterFile(name, base, config, tensors, str(Path(path).parent))
