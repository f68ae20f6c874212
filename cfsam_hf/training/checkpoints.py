"""Training checkpoints: only what trains, in safetensors and JSON (no pickle), written whole or not at all.

A checkpoint is a folder `checkpoint-<step>`. It gets this name after everything has been written and loses it before
anything is removed, so a folder of this name is complete however the process ended. `SHA256SUMS` in it (the format of
`sha256sum`) reveals damage that happened later.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..files.atomic import atomic_folder, remove_folder
from .ema import ExponentialMovingAverage

logger = logging.getLogger(__name__)

STATE_NAME, SUMS_NAME = "state.json", "SHA256SUMS"

_NAME = re.compile(r"checkpoint-(\d+)")
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/]+)")

TrainingTensors = dict[str, dict[str, torch.Tensor]]


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending; none of them is read."""
    return sorted(int(match[1]) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name)))


def latest_checkpoint(folder: Path) -> Path | None:
    """The undamaged checkpoint with the highest step in `folder`; `None` if there are no checkpoints.

    A warning names each damaged checkpoint that is skipped.

    Raises:
        OSError: there are checkpoints, and every one of them is damaged.
    """
    damage = []
    for step in reversed(checkpoint_steps(folder)):
        path = folder / f"checkpoint-{step}"
        try:
            check_checkpoint(path)
        except OSError as error:
            damage.append(str(error))
            continue
        for text in damage:
            logger.warning("%s; the run resumes from %s instead", text, path.name)
        return path
    if damage:
        raise OSError(
            f"{damage[0]}, and {folder} has no undamaged checkpoint. Restore the files from a backup, or remove the "
            "checkpoint folders to train from the start."
        )
    return None


def check_checkpoint(checkpoint: Path) -> None:
    """Compares every file of a checkpoint with the checksums that were written with it.

    Raises:
        OSError: a file is missing, unreadable or altered. The message names it.
    """
    sums = checkpoint / SUMS_NAME
    try:
        lines = [_SUM_LINE.fullmatch(line) for line in sums.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise OSError(f"{sums} is missing, so {checkpoint.name} is damaged or from an earlier version") from error
    except (OSError, UnicodeDecodeError) as error:
        raise OSError(f"{sums} is damaged ({error})") from error
    expected = {match[2]: match[1] for match in lines if match}
    if len(expected) < len(lines) or STATE_NAME not in expected:
        raise OSError(f"{sums} is damaged (not every line is a checksum and a file name)")
    for name, checksum in expected.items():
        try:
            found = _sha256(checkpoint / name)
        except OSError as error:
            raise OSError(f"{checkpoint / name} is missing or cannot be read ({error.strerror})") from error
        if found != checksum:
            raise OSError(f"{checkpoint / name} is damaged (its SHA-256 differs from the one in {SUMS_NAME})")


def set_aside_later_checkpoints(folder: Path, step: int) -> None:
    """Renames the checkpoints after `step` to `checkpoint-<n>.damaged`, so that new ones can take their names."""
    for later in checkpoint_steps(folder):
        if later > step:
            path = folder / f"checkpoint-{later}"
            aside = path.with_name(f"{path.name}.damaged")
            remove_folder(aside)
            os.replace(path, aside)


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> TrainingTensors:
    """The tensors of a checkpoint by file. Where parameters are sharded, all processes must call this together.

    The optimiser's are named `parameter name/state name`, independent of the order of its groups.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        "trainable": {name: whole_tensor(p) for name, p in model.named_parameters() if p.requires_grad},
        "ema": {name: whole_tensor(average) for name, average in ema.average.items()},
        "optimizer": {
            f"{names[id(parameter)]}/{key}": whole_tensor(torch.as_tensor(value))
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
        },
    }


def whole_tensor(value: torch.Tensor) -> torch.Tensor:
    """A tensor, detached and contiguous. A sharded one is gathered, for which all processes must call this."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).contiguous()


def write_checkpoint(folder: Path, step: int, tensors: TrainingTensors, facts: dict[str, Any]) -> Path:
    """Writes `folder/checkpoint-<step>`.

    Args:
        folder: of the run.
        step: number of completed optimiser steps.
        tensors: see [`training_tensors`].
        facts: JSON-able values, which [`restore`] returns.

    Raises:
        OSError: it cannot be written, for instance because the disk is full; an older checkpoint of this step stays.
    """
    final = folder / f"checkpoint-{step}"
    try:
        with atomic_folder(final) as working:
            for name, of_file in tensors.items():
                save_file(of_file, working / f"{name}.safetensors")
            text = json.dumps({"step": step, **facts}, allow_nan=False)
            (working / STATE_NAME).write_text(text, encoding="utf-8")
            written = sorted(working.iterdir())
            lines = [f"{_sha256(path)}  {path.name}\n" for path in written]
            (working / SUMS_NAME).write_text("".join(lines), encoding="utf-8")
    except SafetensorError as error:
        # This format's writer raises its own error class, which holds the system's error number only as text.
        found = re.search(r"(?:code:|os error) (\d+)", str(error))
        raise OSError(int(found[1]) if found else None, str(error), str(final)) from error
    return final


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune_checkpoints(folder: Path, keep: int, protected: Collection[int] = ()) -> None:
    """Removes all but the last `keep` checkpoints and those of the `protected` steps."""
    for step in checkpoint_steps(folder)[:-keep]:
        if step not in protected:
            remove_folder(folder / f"checkpoint-{step}")


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """The facts of a checkpoint, with its `step`.

    Raises:
        OSError: the file is missing or damaged.
    """
    path = checkpoint / STATE_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path} is damaged ({error})") from error


def restore(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> dict[str, Any]:
    """Restores weights, averages and optimiser in place, and returns the checkpoint's facts.

    Raises:
        OSError: a file is missing or cannot be read; [`check_checkpoint`] finds every kind of damage.
        ValueError: the checkpoint belongs to a model with other trainable parameters.
    """
    facts = read_facts(checkpoint)
    trainable = _load(checkpoint / "trainable.safetensors")
    states = _load(checkpoint / "optimizer.safetensors")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(set(trainable) ^ set(parameters))
    wrong += [n for n in set(trainable) & set(parameters) if trainable[n].shape != parameters[n].shape]
    if wrong:
        raise ValueError(
            f"{checkpoint} is not a checkpoint of this model: {len(wrong)} trainable parameters differ, such as "
            f"{wrong[0]!r}. Give another output folder, or the options that the run was started with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_as(parameter, trainable[name]))
        restore_averages(checkpoint, ema)
    for key, value in states.items():
        name, state_name = key.rsplit("/", 1)
        # Adam keeps its step counter on the CPU whatever the parameter's device.
        state = value if state_name == "step" else _as(parameters[name], value)
        optimizer.state[parameters[name]][state_name] = state
    return facts


def restore_averages(checkpoint: Path, ema: ExponentialMovingAverage) -> None:
    """Restores the averages alone.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    for name, average in _load(checkpoint / "ema.safetensors").items():
        ema.average[name].copy_(_as(ema.average[name], average))
    ema.num_updates = read_facts(checkpoint)["ema_updates"]


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(f"{path} is damaged ({error})") from error


def _as(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of another one, with the same sharding and memory layout."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
