"""What the engine ray costs, how soon it is back after a machine is lost, and what its driver holds in memory.

    python examples/benchmarks/cluster.py overhead
    python examples/benchmarks/cluster.py recovery
    python examples/benchmarks/cluster.py memory --regions 1000000 --stand-in

It needs the extra `cluster`. The slide is the one that comes with the package, or any other (`--slide`).
"""

import argparse
import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np

from cfsam_hf.commands.messages import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, regions in (("overhead", overhead, 30), ("recovery", recovery, 200), ("memory", memory, 10**6)):
        command = commands.add_parser(name, help=run.__doc__)
        command.add_argument("--regions", type=int, default=regions, help=f"at most (default: {regions:,})")
        command.add_argument("--side", type=int, default=600, help="of a region in pixels (default: 600)")
        command.add_argument("--slide", type=Path, help="default: the slide that comes with the package")
        command.add_argument("--rounds", type=int, default=1, help="of overhead (default: 1)")
        command.add_argument("--stand-in", action="store_true", help="memory without Ray: its calls return at once")
        command.set_defaults(run=run)
    args = parser.parse_args()
    with errors_in_one_line():
        args.run(args)


def overhead(args: argparse.Namespace) -> None:
    """seconds of one worker of two threads, and of two of one thread, beside the plain loop"""
    import torch
    from transformers import pipeline

    import cfsam_hf  # noqa: F401 (registers the pipeline)
    from cfsam_hf.inference.cluster.connection import ClusterOptions, connected
    from cfsam_hf.inference.cluster.engine import run_slides_on_ray
    from cfsam_hf.inference.slide_run import run_slides

    torch.set_num_threads(2)
    pipe = pipeline("nuclei-segmentation", device="cpu")
    ways = {"plain loop, two threads": run_slides}
    for workers, threads in ((1, 2), (2, 1)):
        cluster = ClusterOptions(workers=workers, cpus_per_worker=threads)
        ways[f"ray, {workers} x {threads} threads"] = partial(run_slides_on_ray, cluster=cluster)
    first = None
    print("engine | regions | first to last region, s | the same, CPU s | all, s | same table as the first")
    for _ in range(args.rounds):
        for name, run in ways.items():
            # Ray runs before the clock starts, as it does on a cluster; its workers load the model after that.
            with connected(ClusterOptions()) if run is not run_slides else contextlib.nullcontext():
                began, times, cpu = time.perf_counter(), [], []
                for outcome in outcomes(args, pipe, run):
                    if hasattr(outcome, "regions"):
                        times.append(time.perf_counter())
                        cpu.append(cpu_seconds())
                    else:
                        table = outcome.files["table"].read_bytes()
                total = time.perf_counter() - began
            first = first or table
            span, work = times[-1] - times[0], cpu[-1] - cpu[0]
            print(f"{name} | {len(times)} | {span:.1f} | {work:.1f} | {total:.1f} | {table == first}", flush=True)


def recovery(args: argparse.Namespace) -> None:
    """when regions are done after SIGKILL of one of two machines (a new one joins at once)"""
    import ray
    from ray.cluster_utils import Cluster
    from transformers import pipeline

    import cfsam_hf  # noqa: F401 (registers the pipeline)
    from cfsam_hf.inference.cluster.connection import ClusterOptions
    from cfsam_hf.inference.cluster.engine import run_slides_on_ray

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = machines.add_node(num_cpus=1)
    ray.init(address=machines.address, log_to_driver=False)
    pipe = pipeline("nuclei-segmentation", device="cpu")
    run = partial(run_slides_on_ray, cluster=ClusterOptions(workers=2, cpus_per_worker=1))
    times: list[float] = []
    killed = None
    for outcome in outcomes(args, pipe, run):
        if not hasattr(outcome, "regions"):
            continue
        times.append(time.perf_counter())
        if len(times) == 12:
            machines.remove_node(second, allow_graceful=False)
            killed = time.perf_counter()
            machines.add_node(num_cpus=1)
    assert killed is not None
    print("seconds from the kill to each later region:", *(f"{t - killed:.0f}" for t in times[12:]))
    # Regions differ in their windows, so single intervals say little.
    means = np.add.reduceat(np.diff(times), range(11, len(times) - 1, 10)) / 10
    print("seconds for a region, mean of each ten after the kill:", *(f"{mean:.1f}" for mean in means[:-1]))
    ray.shutdown()
    machines.shutdown()


def memory(args: argparse.Namespace) -> None:
    """peak memory of the driver while simulated regions pass, 500 a slide"""
    from cfsam_hf.inference.cluster import engine
    from cfsam_hf.inference.cluster.connection import ClusterOptions
    from cfsam_hf.inference.sources import Job

    engine.SlideClerk, engine.RegionWorker = SimulatedClerk, SimulatedWorker  # type: ignore[misc, assignment]
    engine.without_weights, engine.slide_settings = lambda pipe: None, lambda *_: {}
    if args.stand_in:
        engine.connected = lambda options: contextlib.nullcontext(StandIn())
    jobs = [Job(PurePath(str(i)), PurePath(str(i))) for i in range(args.regions // 500)]  # type: ignore[arg-type]
    count, began = 0, time.perf_counter()
    run = engine.run_slides_on_ray(
        jobs, SimulatedPipe(), SimulatedSink(), SimulatedRecord(), cluster=ClusterOptions(workers=2, cpus_per_worker=1)
    )
    step = max(args.regions // 10, 1)
    for outcome in run:
        if isinstance(outcome, engine.SlideProgress):
            count += 1
            if count % step == 0:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"{count:,} regions, {time.perf_counter() - began:.0f} s, {peak:.0f} MiB", flush=True)


class StandIn:
    """What the engine uses of Ray; every call returns at once."""

    class exceptions:
        RayTaskError = RayActorError = type("RayError", (Exception,), {})

    def put(self, value: Any) -> Any:
        return Reference(value)

    def get(self, reference: Any) -> Any:
        return reference.value

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> Any:
        return references[:num_returns], references[num_returns:]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: Handle(kind())))


class Reference:
    """Refers to a value."""

    def __init__(self, value: Any):
        self.value = value


class Handle:
    """An actor in this process."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        return SimpleNamespace(
            remote=lambda *args: Reference(method(*(a.value if isinstance(a, Reference) else a for a in args)))
        )


class SimulatedPipe:
    """Takes any option."""

    def stream(self, images: list[Any], **options: Any) -> None:
        pass


class SimulatedSink:
    """Writes nothing."""

    def alone(self) -> Any:
        return contextlib.nullcontext()

    def clean(self, targets: Any) -> None:
        pass


class SimulatedStore:
    """Holds nothing."""

    def held(self, *, resume: bool) -> Any:
        return contextlib.nullcontext()

    def remove(self) -> None:
        pass


class SimulatedRecord:
    """Keeps nothing."""

    def add(self, *values: Any) -> None:
        pass


class SimulatedClerk:
    """Plans slides of 500 regions."""

    def start(self) -> str:
        return "here"

    def plan(self, job: Any, work: Any) -> Any:
        from cfsam_hf.inference.cluster.worker import SlideBrief

        return bytes(10**6), SlideBrief({}, SimulatedStore(), np.ones(500), np.zeros(500, bool))

    def merge(self, prepared: Any, work: Any) -> Any:
        from cfsam_hf.inference.slide_steps import FinishedSlide

        return FinishedSlide({}, [], {})


class SimulatedWorker:
    """Does regions in no time."""

    def start(self, pipe: list[Any], device: str, threads: int) -> str:
        return "here"

    def segment(self, key: str, prepared: list[Any], number: int) -> float:
        return 0.0


def outcomes(args: argparse.Namespace, pipe: Any, run: Any) -> Iterator[Any]:
    """The outcomes of a slide of so many regions."""
    from cfsam_hf.inference import Job, RunRecord
    from cfsam_hf.inference.slide_plan import WhereToLook
    from cfsam_hf.inference.slide_sink import SlideSink
    from cfsam_hf.inference.slide_source import SlideSource
    from cfsam_hf.slides.bundled import demo_slide

    path = args.slide or demo_slide()
    with tempfile.TemporaryDirectory() as folder:
        roi = Path(folder) / "roi.geojson"
        source = SlideSource(path, path.name)
        roi.write_text(area_of(source, args, pipe.image_processor.mpp))
        with RunRecord(Path(folder)) as record:
            yield from run(
                [Job(source, PurePath("slide"))],
                pipe,
                SlideSink(Path(folder), ["table"]),
                record,
                where=WhereToLook(roi=roi),
                side=args.side,
            )


def area_of(source: Any, args: argparse.Namespace, mpp: float) -> str:
    """The rectangle, as GeoJSON, of the first regions of a slide: full rows of its grid."""
    with source.open() as slide:
        width, height = slide.size
        scale = mpp / slide.pixel_size.mpp
    columns = max(1, round(width / scale / args.side))
    bottom = min(height, max(1, args.regions // columns) * args.side * scale - 4)
    ring = [[0, 0], [width, 0], [width, bottom], [0, bottom], [0, 0]]
    return f'{{"type": "Polygon", "coordinates": [{ring}]}}'


def cpu_seconds() -> float:
    """CPU seconds of this process and all below it so far, those of living ones included."""
    ticks, total = os.sysconf("SC_CLK_TCK"), 0
    parents, times = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            values = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            parents[int(folder.name)] = int(values[1])
            times[int(folder.name)] = sum(map(int, values[11:15]))
    for pid, spent in times.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        total += spent if above == os.getpid() else 0
    return total / ticks


if __name__ == "__main__":
    main()
