"""Training checkpoints: only what trains, in safetensors and JSON (no pickle), written whole or not at all.

A checkpoint is a folder `checkpoint-<step>`. It gets this name when all of it is written, and loses it before any of
it is removed, so that whatever ends the process, a folder of this name is complete.
"""

import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from .ema import ExponentialMovingAverage

_NAME = re.compile(r"checkpoint-(\d+)")
_UNFINISHED = re.compile(r"\.checkpoint-\d+\.(tmp|old)")

TrainingTensors = dict[str, dict[str, torch.Tensor]]


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending."""
    return sorted(int(match[1]) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name)))


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step in `folder`, or `None`."""
    steps = checkpoint_steps(folder)
    return folder / f"checkpoint-{steps[-1]}" if steps else None


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
    """A tensor, detached and contiguous; of a sharded one all of it, for which all processes must call this."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).contiguous()


def write_checkpoint(folder: Path, step: int, tensors: TrainingTensors, facts: dict[str, Any]) -> Path:
    """Writes `folder/checkpoint-<step>`.

    Args:
        folder: of the run.
        step: optimiser steps done.
        tensors: see [`training_tensors`].
        facts: JSON-able, given back by [`restore`].

    Raises:
        OSError: it cannot be written, for instance on a full disk; what was there is as it was.
    """
    final = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, of_file in tensors.items():
            save_file(of_file, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, **facts}, allow_nan=False), encoding="utf-8")
        for path in temporary.iterdir():
            _flush_to_disk(path)
        remove_checkpoint(final)
        os.replace(temporary, final)
        _flush_to_disk(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):
            # The writer of this format has an error class of its own, which names the number in words only.
            found = re.search(r"(?:code:|os error) (\d+)", str(error))
            raise OSError(int(found[1]) if found else None, str(error), str(temporary)) from error
        raise
    return final


def _flush_to_disk(path: Path) -> None:
    """Waits until the disk has it: a name must not be there before the data after the power has gone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint, its name first."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def prune_checkpoints(folder: Path, keep: int, protected: Collection[int] = ()) -> None:
    """Removes all but the last `keep` checkpoints and those of the `protected` steps."""
    for step in checkpoint_steps(folder)[:-keep]:
        if step not in protected:
            remove_checkpoint(folder / f"checkpoint-{step}")


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process has left of checkpoints."""
    for path in folder.glob(".checkpoint-*"):
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """The facts of a checkpoint, with its `step`."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def restore(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> dict[str, Any]:
    """Restores weights, averages and optimiser in place, and returns the checkpoint's facts.

    Raises:
        ValueError: the checkpoint belongs to a model with other trainable parameters.
    """
    trainable = load_file(checkpoint / "trainable.safetensors")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(set(trainable) ^ set(parameters))
    wrong += [n for n in set(trainable) & set(parameters) if trainable[n].shape != parameters[n].shape]
    if wrong:
        raise ValueError(
            f"{checkpoint} is not a checkpoint of this model: {len(wrong)} trainable parameters differ, such as "
            f"{wrong[0]!r}. Give another output folder, or the options that the run was begun with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_as(parameter, trainable[name]))
        restore_averages(checkpoint, ema)
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, state_name = key.rsplit("/", 1)
        # Adam keeps its step counter on the CPU whatever the parameter's device.
        state = value if state_name == "step" else _as(parameters[name], value)
        optimizer.state[parameters[name]][state_name] = state
    return read_facts(checkpoint)


def restore_averages(checkpoint: Path, ema: ExponentialMovingAverage) -> None:
    """Restores the averages alone."""
    for name, average in load_file(checkpoint / "ema.safetensors").items():
        ema.average[name].copy_(_as(ema.average[name], average))
    ema.num_updates = read_facts(checkpoint)["ema_updates"]


def _as(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of another, sharded or laid out in memory as it is."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
