"""Training checkpoints: only what trains, in safetensors and JSON (no pickle), written whole or not at all."""

import json
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .ema import ExponentialMovingAverage

_NAME = re.compile(r"checkpoint-(\d+)")


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step in `folder`, or `None`."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return max(found)[1] if found else None


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state by `parameter name/state name`, independent of the order of its groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value).detach().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def save_training_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage,
    facts: dict,
    keep: int = 2,
) -> Path:
    """Writes `folder/checkpoint-<step>` and removes all but the last `keep` checkpoints.

    Args:
        folder (`Path`): of the run.
        step (`int`): optimiser steps done.
        model, optimizer, ema: the state; of the model only parameters with `requires_grad` are written.
        facts (`dict`): JSON-able, given back by [`load_training_state`].
        keep (`int`): number of checkpoints that stay.
    """
    final = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    trainable = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trainable, temporary / "trainable.safetensors")
    averages = {name: average.contiguous() for name, average in ema.average.items()}
    save_file(averages, temporary / "ema.safetensors")
    save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": step, "ema_updates": ema.num_updates, **facts}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    steps = sorted(int(m[1]) for path in folder.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name)))
    for old in steps[:-keep] if keep else []:
        shutil.rmtree(folder / f"checkpoint-{old}")
    return final


def load_training_state(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> dict:
    """Restores what [`save_training_state`] wrote, in place, and returns its facts with `step`.

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
            parameter.copy_(trainable[name])
    for name, average in load_file(checkpoint / "ema.safetensors").items():
        ema.average[name].copy_(average)
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        name, state_name = key.rsplit("/", 1)
        # Adam keeps its step counter on the CPU whatever the parameter's device.
        device = "cpu" if state_name == "step" else parameters[name].device
        optimizer.state[parameters[name]][state_name] = value.to(device)
    facts = json.loads((checkpoint / "state.json").read_text())
    ema.num_updates = facts["ema_updates"]
    return facts
