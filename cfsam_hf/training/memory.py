"""The peak memory of training, on a GPU or of the process."""

import gc
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from the memory in use now: create it before the model, and `reset` it after the model is built.

    On a GPU it measures PyTorch's tensors. On a CPU it measures the process's resident memory beyond what it held at
    the start (libraries and tiles), without the processes that make crops. Only Linux can reset a peak; elsewhere, and
    where that is forbidden, an earlier peak counts too.

    Args:
        device: where the model trains.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.reset()
        gc.collect()
        self._before = 0 if self._on_gpu else _kilobytes("VmRSS")

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def reset(self) -> None:
        """Forgets the peak so far, such as that of loading; the start of the measurement stays the same."""
        gc.collect()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            CLEAR.write_text("5")
        except OSError:
            return

    def megabytes(self) -> float:
        """The peak since the last `reset`, in 10^6 bytes."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return max(0, _kilobytes("VmHWM") - self._before) * 1024 / 1e6


def _kilobytes(field: str) -> int:
    """A field of the process's status in kB (1024 bytes); on systems without one, the peak since it started."""
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    try:
        import resource
    except ImportError as error:
        raise RuntimeError(f"{sys.platform} does not report how much memory a process uses.") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
