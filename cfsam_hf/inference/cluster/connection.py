"""Ray for one run: a cluster that is joined, or one on this machine that is started and stopped."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

DEFAULT_CPUS = 2


@dataclass(frozen=True)
class ClusterOptions:
    """
    Which Ray does the work, and with how many workers of which size.

    Attributes:
        address: of a running cluster, such as `"auto"` or `"10.0.0.1:6379"`. None: a Ray on this machine is started
            and stopped.
        workers: number of workers, each with a copy of the model. None: as many as the cluster has room for.
        gpus_per_worker: GPUs of a worker, or its share of one. None: 1 if the cluster has GPUs, else 0.
        cpus_per_worker: CPUs of a worker, which are also its threads. None: 2, or 1 if no machine has 2.

    Raises:
        ValueError: a number is out of its range.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}: it must be at least 1")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ValueError(f"cpus_per_worker is {self.cpus_per_worker}: it must be at least 1")
        gpus = self.gpus_per_worker
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError(f"gpus_per_worker is {gpus}: it must be a share of a GPU, or a whole number")


@dataclass(frozen=True)
class WorkerSize:
    """
    The workers of a run.

    Attributes:
        count: how many there are.
        cpus, gpus: what each has.
    """

    count: int
    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        """The torch device of a worker."""
        return "cuda" if self.gpus else "cpu"


def require_ray() -> ModuleType:
    """
    The module `ray`.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('the engine ray needs Ray; install it with pip install "cfsam_hf[cluster]"') from error
    module: ModuleType = ray
    return module


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Any]:
    """
    Joins or starts Ray and leaves it when the block ends; a program that is connected already stays so.

    Yields:
        The module `ray`.

    Raises:
        ImportError: Ray is not installed.
        OSError: the cluster cannot be reached; the message names its address.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _own_signals():
        if options.address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            try:
                ray.init(address=options.address, **quiet)
            except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise OSError(f"no Ray cluster could be joined at {options.address!r}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_size(ray: Any, options: ClusterOptions) -> WorkerSize:
    """
    The workers of a run on a cluster.

    Args:
        ray: the module, connected.
        options: what is wanted.

    Raises:
        ValueError: no machine of the cluster has room for one worker, and their number is not given.
    """
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
    cpus = options.cpus_per_worker
    if cpus is None:
        # Machines that join later may be larger than those that are there.
        largest_cpus = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        cpus = DEFAULT_CPUS if options.workers else max(1, min(DEFAULT_CPUS, largest_cpus))
    # 1 / .1 is 10 workers, whatever the rounding of floats says.
    room = [
        min(int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0) / gpus + 1e-6) if gpus else 2**31)
        for node in nodes
    ]
    count = options.workers or sum(room)
    if not count:
        largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        raise ValueError(
            f"no machine of the cluster has room for a worker of {cpus} CPUs and {gpus:g} GPUs; the largest has "
            f"{largest.get('CPU', 0):g} CPUs and {largest.get('GPU', 0):g} GPUs. Give smaller workers, or their "
            "number if machines will join later"
        )
    return WorkerSize(count, cpus, gpus)
