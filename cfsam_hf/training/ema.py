"""An exponential moving average of the trained parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class ExponentialMovingAverage:
    """Keeps `average = d * average + (1 - d) * value` of every trainable parameter, in float32.

    `d` starts small and grows to `decay` (`min(decay, (1 + n) / (10 + n))` after n updates), so that the average
    forgets the random start. Frozen parameters are not copied.

    Args:
        model (`nn.Module`): whose trainable parameters are averaged.
        decay (`float`): in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}.")
        self.decay = decay
        self.num_updates = 0
        self.average = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Adds the model's current values to the averages."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(model.named_parameters())
        for name, average in self.average.items():
            average.lerp_(parameters[name].detach().float(), 1 - decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[nn.Module]:
        """Gives the model the averages within the block, and restores its own values afterwards."""
        parameters = dict(model.named_parameters())
        own = {name: parameters[name].detach().clone() for name in self.average}
        try:
            with torch.no_grad():
                for name, average in self.average.items():
                    parameters[name].copy_(average)
            yield model
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    parameters[name].copy_(value)
