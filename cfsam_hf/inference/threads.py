"""How many threads the network gets: one for each physical core that this process may use.

Two threads on one core share its arithmetic units, so hyper-threads only wait for each other. A container may be
allowed less than the cores that it sees; threads beyond that are stopped in turn, and all others wait for them.
"""

import math
import os
from pathlib import Path

import torch

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""If the user sets one of these, that choice stands."""


def physical_cores(system: Path = Path("/")) -> int:
    """The number of physical cores that this process may use: those of its CPU affinity, within the container's quota.

    Args:
        system: root of the file system with the kernel's `sys`.
    """
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = list(range(os.cpu_count() or 1))
    cores = {_core(system / f"sys/devices/system/cpu/cpu{cpu}/topology", cpu) for cpu in cpus}
    return max(1, math.ceil(min(len(cores), _quota(system / "sys/fs/cgroup"))))


def _core(topology: Path, cpu: int) -> tuple[str, ...]:
    """What the hyper-threads of a core have in common; the CPU's own number where the kernel does not say."""
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(cpu),)


def _quota(cgroup: Path) -> float:
    """CPUs that the container's quota allows, for both versions of cgroups."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    return float(quota) / float(period) if quota.isdecimal() and period.isdecimal() and int(period) else math.inf


def use_physical_cores() -> int:
    """Lowers torch's threads to the number of physical cores, unless the environment decides (`VARIABLES`).

    For programs that own their process; a library does not decide this for others.

    Returns:
        The number of threads that torch now uses.
    """
    if not any(os.environ.get(name) for name in VARIABLES):
        cores = physical_cores()
        if cores < torch.get_num_threads():
            torch.set_num_threads(cores)
    return torch.get_num_threads()
