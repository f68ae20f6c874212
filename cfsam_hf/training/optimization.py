"""Optimiser groups and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn

from .recipe import OptimizationOptions

# Key under which a group stores its learning rate at the peak of the schedule.
PEAK = "peak_lr"


def parameter_groups(model: nn.Module, options: OptimizationOptions) -> list[dict[str, Any]]:
    """Groups for AdamW: no weight decay on norms, biases, tokens and scalars; separate rates for SAM's mask decoder
    and the trunk, which are pretrained.

    Args:
        model (`nn.Module`): only parameters with `requires_grad` are used.
        options: learning rate, its factors for these parts, and weight decay.
    """
    factors = {"mask_decoder.": options.mask_decoder_factor, "trunk.": options.type_trunk_factor}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith(("task_tokens.weight", "style.tokens.weight", "pos_embed"))
        part = next((part for part in factors if f".{part}" in f".{name}"), "")
        groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": options.learning_rate * factors.get(part, 1.0),
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def make_optimizer(model: nn.Module, options: OptimizationOptions) -> torch.optim.AdamW:
    """AdamW over the groups; each group stores its peak rate as `peak_lr`."""
    groups = parameter_groups(model, options)
    for group in groups:
        group[PEAK] = group["lr"]
    return torch.optim.AdamW(groups, betas=(options.beta1, options.beta2))


def cosine_with_warmup(step: int, warmup_steps: int, total_steps: int, floor: float = 0.01) -> float:
    """Factor on the learning rate at `step`: linear from 0 to 1, then a half cosine from 1 down to `floor`.

    >>> [round(cosine_with_warmup(s, 10, 110), 3) for s in (0, 5, 10, 60, 110)]
    [0.1, 0.6, 1.0, 0.505, 0.01]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, options: OptimizationOptions) -> None:
    """Sets the learning rate of every group, which depends only on the step."""
    factor = cosine_with_warmup(step, options.warmup_steps, options.steps, options.final_rate)
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * factor
