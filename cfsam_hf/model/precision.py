"""Mixed precision: which number format the network computes in, and where bfloat16 pays.

Bfloat16 is fast only on hardware that multiplies it natively. Other processors convert every operand to float32 and
back, which makes the network about 2.5 times slower than float32 alone.
"""

from pathlib import Path

import torch

AUTO = "auto"
"""Bfloat16 where the hardware has it natively, else the model's own type."""

CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16", "svebf16"})
"""Features in /proc/cpuinfo, of x86 and of ARM, with which a processor multiplies bfloat16 natively."""

CUDA_CAPABILITY = (8, 0)
"""The first compute capability (Ampere) with bfloat16 in its tensor cores."""


def native_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device multiplies bfloat16 natively; False where that is unknown.

    Args:
        device: of the network.
        cpuinfo: the kernel's description of the processor.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY
    if device.type != "cpu":
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    # All processors of a machine have the same features.
    named = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    flags = next(named, [])
    return not CPU_FLAGS.isdisjoint(flags)


def resolve_autocast(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """The type to run the network in, as `torch.autocast` takes it.

    Args:
        dtype: a floating type or its name, `"auto"`, or `None`.
        device: of the network.

    Returns:
        None for the model's own type.

    Raises:
        ValueError: it is not a floating type.
    """
    if dtype is None:
        return None
    if dtype == AUTO:
        return torch.bfloat16 if native_bfloat16(device) else None
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ValueError(f"autocast_dtype must be 'auto' or a floating type such as 'bfloat16', got {dtype!r}")
    return resolved


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `resolve_autocast` reads.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
