"""The options of `cfsam segment` that spread slides over a cluster."""

import argparse
from typing import TYPE_CHECKING

from .options import positive
from .terminal import UsageError

if TYPE_CHECKING:
    from ..files.remote_folder import RemoteFolder
    from ..inference.cluster.connection import ClusterOptions

PLAIN, RAY = "plain", "ray"
SIZES = ("address", "workers", "gpus_per_worker", "cpus_per_worker")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--engine` and the options of the engine `ray`."""
    group = parser.add_argument_group(
        "many machines",
        "With --engine ray, the regions of slides are spread over a Ray cluster, and every image is processed as a "
        "slide. All machines must see the slides, OUT and this package under the same paths. The results are those of "
        "the plain engine.",
    )
    group.add_argument(
        "--engine",
        choices=(PLAIN, RAY),
        default=PLAIN,
        help="plain: one image after the other in this process; ray: needs the extra [cluster] (default: plain)",
    )
    group.add_argument(
        "--address",
        help="a running Ray cluster: auto, or HOST:PORT (default: start Ray on this machine)",
    )
    group.add_argument(
        "--workers",
        type=positive(int),
        metavar="N",
        help="workers, each with a copy of the model (default: as many as the cluster has room for)",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=gpus,
        metavar="F",
        help="GPUs of a worker, such as 1, or 0.5 for two workers that share a GPU (default: 1 if the cluster has "
        "GPUs, else 0)",
    )
    group.add_argument(
        "--cpus-per-worker",
        type=positive(int),
        metavar="N",
        help="CPUs, and threads, of a worker (default: 2, or 1 if no machine has 2)",
    )


def gpus(text: str) -> float:
    """An argparse type: a number of GPUs, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def cluster_options(args: argparse.Namespace) -> "ClusterOptions | None":
    """The cluster of the arguments, None for the plain engine.

    Raises:
        UsageError: options do not fit together.
        ImportError: Ray is not installed.
        ValueError: a number is out of its range.
    """
    given = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    if args.engine == PLAIN:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise UsageError(f"--{option} is an option of --engine {RAY}")
        return None
    for name in ("device", "outlines", "offsets", "page"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} cannot be used with --engine {RAY}")
    from ..inference.cluster.connection import ClusterOptions, require_ray

    require_ray()
    return ClusterOptions(**given)


def remote_folder(args: argparse.Namespace) -> "RemoteFolder | None":
    """The folder that the argument `-o` names by a URL, None for a path.

    Raises:
        UsageError: the engine writes to paths only.
        ImportError: the package for the URL's protocol is not installed.
        ValueError: the protocol is unknown.
    """
    from ..files.remote_folder import RemoteFolder, is_remote

    if not is_remote(args.output):
        return None
    if args.engine != RAY:
        raise UsageError(f"-o {args.output} is a URL, which needs --engine {RAY}")
    return RemoteFolder(args.output)
