"""The record of the software, the source and the hardware that produced a result."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from ..model.result import __version__

PACKAGE = Path(__file__).resolve().parents[1]


def environment(device: str, processes: int = 1) -> dict[str, Any]:
    """A JSON-ready record of versions, source and hardware.

    Args:
        device: torch device of the computation.
        processes: number of processes that shared the work.

    Returns:
        The record. `commit` is None if the package does not run from a git checkout; `uncommitted_changes` says
        whether the files of the checkout differ from the commit.
    """
    commit, changed = source_commit()
    hardware = [processor_name(), f"{torch.get_num_threads()} threads a process"]
    if torch.device(device).type == "cuda":
        hardware.append(torch.cuda.get_device_name(device))
    return {
        "cfsam_hf": __version__,
        "commit": commit,
        "uncommitted_changes": changed,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "hardware": ", ".join(hardware),
        "processes": processes,
    }


def source_commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that holds the package, and whether files differ from it; None without a checkout."""
    # A package that is installed inside another project's checkout is not part of that checkout.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return (commit or None), (None if changes is None else bool(changes))


def processor_name() -> str:
    """The processor's model if the system reports it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        # Without this, reading would rewrite the index of a checkout that others use.
        variables = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=30, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
