"""The library part of training: averaging, checkpoints, optimiser groups, the tiny architecture.

The loop itself is `examples/train.py`.
"""

from .architectures import tiny_config
from .checkpoints import latest_checkpoint, load_training_state, save_training_state
from .ema import ExponentialMovingAverage
from .optimization import cosine_with_warmup, parameter_groups

__all__ = [
    "ExponentialMovingAverage",
    "cosine_with_warmup",
    "latest_checkpoint",
    "load_training_state",
    "parameter_groups",
    "save_training_state",
    "tiny_config",
]
