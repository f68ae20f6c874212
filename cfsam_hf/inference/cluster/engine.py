"""The engine that spreads the regions of slides over a cluster; it gives the files of the plain loop.

The driver holds numbers, Ray the rest: a clerk plans a slide on some machine, the plan lies in Ray's object store,
workers fetch it with the first region of the slide, and a clerk merges the slide as soon as its regions are there.
Workers and clerks are actors, which Ray places. No more regions are under way than there are workers, and no more
slides than [`slides_ahead`] says.
"""

import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...slides.regions import REGION_SIDE
from ..record import RunRecord
from ..run import Current, Failed, Outcome
from ..slide_plan import WhereToLook
from ..slide_run import SlideDone, SlideProgress, slide_settings
from ..slide_sink import SlideSink
from ..slide_steps import FinishedSlide, PreparedSlide, remove_leftovers
from ..sources import Job
from .connection import ClusterOptions, WorkerSize, connected, worker_size
from .crew import Crew, Member
from .region_queue import TRIES, OpenSlide, RegionQueue
from .worker import RegionWorker, SlideBrief, SlideClerk, SlideWork, without_weights

WORKERS_PER_CLERK = 2
# Seconds without any event after which the driver looks again whether a region may be tried where it has failed.
LOOKS_AGAIN = 10.0


def slides_ahead(workers: int) -> int:
    """Slides that are planned or in progress at once: enough that small ones pass big ones."""
    return max(8, 2 * workers)


def run_slides_on_ray(
    jobs: Sequence[Job],
    pipe: Any,
    sink: SlideSink,
    record: RunRecord,
    options: Mapping[str, Any] | None = None,
    *,
    where: WhereToLook | None = None,
    resume: bool = False,
    side: int = REGION_SIDE,
    cluster: ClusterOptions | None = None,
) -> Generator[Outcome, None, None]:
    """
    Yields the progress and the outcomes of slides as they come; one that fails does not affect the others.

    The files are those of [`cfsam_hf.inference.slide_run.run_slides`], to the last bit on CPUs if that loop has as
    many threads as a worker, however many workers there are and whatever was killed. A region that fails is tried
    again, on another machine if there is one; after three tries its slide fails, the slide's other regions are done
    all the same, and a resumed run has only that region to do.

    Example:

    ```python
    >>> from pathlib import Path, PurePath
    >>> from transformers import pipeline
    >>> import cfsam_hf
    >>> from cfsam_hf.inference import Job, RunRecord
    >>> from cfsam_hf.inference.cluster.connection import ClusterOptions
    >>> from cfsam_hf.inference.cluster.engine import run_slides_on_ray
    >>> from cfsam_hf.inference.slide_sink import SlideSink
    >>> from cfsam_hf.inference.slide_source import SlideSource

    >>> out = Path("/shared/out")
    >>> jobs = [Job(SlideSource(path, path.name), PurePath(path.stem)) for path in Path("/shared/slides").iterdir()]
    >>> pipe = pipeline("nuclei-segmentation", device="cpu")
    >>> with RunRecord(out) as record:
    ...     for outcome in run_slides_on_ray(jobs, pipe, SlideSink(out), record, cluster=ClusterOptions("auto")):
    ...         print(outcome.job.source.name, type(outcome).__name__)
    ```

    Args:
        jobs: slides ([`SlideSource`]) and the names of their results. All machines see them under the same paths.
        pipe: the pipeline, on the CPU; each worker gets a copy.
        sink: where the results go, a folder that all machines see.
        record: of this run, for the same folder as the sink.
        options, where, resume, side: as for the plain loop.
        cluster: which Ray does the work; default: one on this machine.

    Raises:
        ImportError: Ray is not installed.
        OSError: another run on a cluster writes into the same folder, the cluster cannot be reached, or no worker can
            start.
        TypeError, ValueError: an option is unknown or out of its range, or the cluster has no room for a worker.
    """
    options, where, cluster = dict(options or {}), where or WhereToLook(), cluster or ClusterOptions()
    if not jobs:
        return
    # Raises for an impossible option, before any work.
    pipe.stream([], **options)
    settings = slide_settings(pipe, sink, options, where, side)
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(sink.alone())
        sink.clean(job.target for job in jobs)
        todo: deque[Job] = deque()
        for job in jobs:
            if resume and record.is_current(job, settings):
                remove_leftovers(job, sink)
                yield Current(job, time.perf_counter() - began)
            else:
                todo.append(job)
        if not todo:
            return
        ray = stack.enter_context(connected(cluster))
        size = worker_size(ray, cluster)
        work = SlideWork(without_weights(pipe), sink, settings, options, where, side, resume)
        run = _Run(ray, todo, work, record, began)
        stack.callback(run.release)
        run.start(pipe, size)
        yield from run.outcomes()


@dataclass
class _Slide:
    """A slide on the driver.

    Attributes:
        job: the slide.
        prepared: reference to its pickled `PreparedSlide`.
        brief: what the driver needs of it.
        held: its store is ours until this is closed.
        first: when its first region began.
        mm2, new_mm2: square millimetres that are done, and those that this run has done.
        count: regions that are done.
        seconds: of work on its regions in this run.
    """

    job: Job
    prepared: Any
    brief: SlideBrief
    held: ExitStack
    first: float
    mm2: float
    count: int
    new_mm2: float = 0.0
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return self.job.target.as_posix()


@dataclass(eq=False)
class _Step:
    """A plan or a merge.

    Attributes:
        method: of the clerk.
        argument: of the method.
        then: gives the outcomes when it is done, from its result.
        failed: gives the outcomes when it has failed for good, from its error.
        tries: that have failed.
    """

    method: str
    argument: Any
    then: Callable[[Any], Iterator[Outcome]]
    failed: Callable[[Exception], Iterator[Outcome]]
    tries: int = 0


class _Run:
    """The driver's loop: one handler for each reference that Ray may finish."""

    def __init__(self, ray: Any, todo: deque[Job], work: SlideWork, record: RunRecord, began: float):
        self.ray, self.todo, self.work, self.record, self.began = ray, todo, work, record, began
        self.queue = RegionQueue()
        self.steps: deque[_Step] = deque()
        self.planning = 0
        self._handlers: dict[Any, Callable[[], Iterator[Outcome]]] = {}

    def start(self, pipe: Any, size: WorkerSize) -> None:
        """Starts workers and clerks."""
        ray = self.ray
        self._work = ray.put(self.work)
        spread = {"scheduling_strategy": "SPREAD"}
        worker = ray.remote(RegionWorker).options(num_cpus=size.cpus, num_gpus=size.gpus, **spread)
        # Clerks take no CPU from the workers.
        clerk = ray.remote(SlideClerk).options(num_cpus=0, **spread)
        self.workers = Crew(worker.remote, ([ray.put(pipe)], size.device, size.cpus), size.count)
        self.clerks = Crew(clerk.remote, (), math.ceil(size.count / WORKERS_PER_CLERK))
        for crew in (self.clerks, self.workers):
            for member in crew.members:
                self._begin(crew, member)

    def outcomes(self) -> Iterator[Outcome]:
        """Runs until every slide has an outcome."""
        limit = slides_ahead(len(self.workers.members))
        while self.todo or self.planning or self.queue:
            while self.todo and self.planning + len(self.queue) < limit:
                self._plan(self.todo.popleft())
            self._dispatch()
            ready, _ = self.ray.wait(list(self._handlers), num_returns=1, timeout=LOOKS_AGAIN)
            for reference in ready:
                yield from self._handlers.pop(reference)()

    def release(self) -> None:
        """Lets other runs have the slides that are not done."""
        for opened in self.queue:
            opened.item.held.close()

    def _seconds(self) -> float:
        return time.perf_counter() - self.began

    def _value(self, reference: Any) -> Any:
        """A finished result; raises what the function raised, not Ray's form of it."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None

    def _has_died(self, error: Exception) -> bool:
        return isinstance(error, self.ray.exceptions.RayActorError)

    def _begin(self, crew: Crew, member: Member) -> None:
        reference = crew.begin(member)
        self._handlers[reference] = partial(self._begun, crew, member, reference)

    def _begun(self, crew: Crew, member: Member, reference: Any) -> Iterator[Outcome]:
        try:
            crew.joined(member, self._value(reference))
        except Exception as error:
            if crew.failed(member, error):
                self._begin(crew, member)
        yield from ()

    def _free(self, crew: Crew, member: Member, error: Exception | None = None) -> None:
        """Has a member ready for more work, or replaced if it has died."""
        if error is not None and self._has_died(error):
            self._begin(crew, member)
        else:
            crew.idle.append(member)

    def _dispatch(self) -> None:
        """Gives each idle clerk a step and each idle worker a region."""
        while self.steps and self.clerks.idle:
            clerk, step = self.clerks.idle.popleft(), self.steps.popleft()
            reference = getattr(clerk.handle, step.method).remote(step.argument, self._work)
            self._handlers[reference] = partial(self._stepped, clerk, step, reference)
        nodes = self.workers.nodes
        for _ in range(len(self.workers.idle)):
            worker = self.workers.idle.popleft()
            found = self.queue.take(worker.node, nodes)
            if found is None:
                self.workers.idle.append(worker)
                continue
            opened, number = found
            slide: _Slide = opened.item
            reference = worker.handle.segment.remote(slide.key, [slide.prepared], number)
            self._handlers[reference] = partial(self._segmented, worker, opened, number, reference)

    def _stepped(self, clerk: Member, step: _Step, reference: Any) -> Iterator[Outcome]:
        try:
            value = self._value(reference)
        except Exception as error:
            self._free(self.clerks, clerk, error)
            step.tries += 1
            if step.tries < TRIES and (self._has_died(error) or isinstance(error, OSError)):
                self.steps.append(step)
            else:
                yield from step.failed(error)
            return
        self._free(self.clerks, clerk)
        yield from step.then(value)

    def _plan(self, job: Job) -> None:
        self.planning += 1
        self.steps.append(_Step("plan", job, partial(self._planned, job), partial(self._not_planned, job)))

    def _not_planned(self, job: Job, error: Exception) -> Iterator[Outcome]:
        self.planning -= 1
        yield Failed(job, self._seconds(), error)

    def _planned(self, job: Job, planned: tuple[bytes, SlideBrief]) -> Iterator[Outcome]:
        self.planning -= 1
        prepared, brief = planned
        held = ExitStack()
        try:
            held.enter_context(brief.store.held(resume=self.work.resume))
        except Exception as error:  # one bad slide must not cost the others
            yield Failed(job, self._seconds(), error)
            return
        done, now = brief.done, time.perf_counter()
        # The driver's own copy, which is not lost with the clerk's machine.
        reference = self.ray.put(prepared)
        slide = _Slide(job, reference, brief, held, now, float(brief.areas[done].sum()), int(done.sum()))
        opened = OpenSlide(slide, np.flatnonzero(~done))
        self.queue.add(opened)
        yield from self._conclude(opened)

    def _segmented(self, worker: Member, opened: OpenSlide, number: int, reference: Any) -> Iterator[Outcome]:
        slide: _Slide = opened.item
        node = worker.node
        try:
            slide.seconds += self._value(reference)
        except Exception as error:
            self._free(self.workers, worker, error)
            opened.fail(number, node, error)
        else:
            self._free(self.workers, worker)
            opened.succeed(number)
            slide.count += 1
            slide.mm2 += float(slide.brief.areas[number])
            slide.new_mm2 += float(slide.brief.areas[number])
            rate = 60 * slide.new_mm2 / (time.perf_counter() - slide.first)
            total = float(slide.brief.areas.sum())
            count = len(slide.brief.areas)
            yield SlideProgress(slide.job, self._seconds(), slide.count, count, slide.mm2, total, rate)
        yield from self._conclude(opened)

    def _conclude(self, opened: OpenSlide) -> Iterator[Outcome]:
        """Has a slide merged whose regions are all done, or ends it."""
        if not opened.is_finished:
            return
        slide: _Slide = opened.item
        if opened.failed:
            self._end(opened)
            yield Failed(slide.job, self._seconds(), self._failure(opened))
            return
        then, failed = partial(self._merged, opened), partial(self._not_merged, opened)
        # Before plans, which only make more work.
        self.steps.appendleft(_Step("merge", slide.prepared, then, failed))

    def _not_merged(self, opened: OpenSlide, error: Exception) -> Iterator[Outcome]:
        self._end(opened)
        yield Failed(opened.item.job, self._seconds(), error)

    def _merged(self, opened: OpenSlide, finished: FinishedSlide) -> Iterator[Outcome]:
        slide: _Slide = opened.item
        files, settings = finished.files.values(), self.work.settings
        try:
            self.record.add(slide.job, slide.brief.fingerprint, settings, files, finished.rows, slide.seconds)
            slide.brief.store.remove()
        except Exception as error:
            yield from self._not_merged(opened, error)
            return
        self._end(opened)
        yield SlideDone(slide.job, self._seconds(), finished.record, finished.rows, finished.files)

    def _end(self, opened: OpenSlide) -> None:
        self.queue.remove(opened)
        opened.item.held.close()

    def _failure(self, opened: OpenSlide) -> OSError:
        """The error of a slide with regions that have failed for good: it names them."""
        slide: _Slide = opened.item
        numbers = sorted(opened.failed)
        prepared: PreparedSlide = pickle.loads(self.ray.get(slide.prepared))
        places = []
        for region in (prepared.regions[number] for number in numbers[:3]):
            x0, y0, x1, y1 = map(round, prepared.plan.grid.level0(region.core))
            places.append(f"{region.name} (x {x0} to {x1}, y {y0} to {y1})")
        first = opened.failed[numbers[0]]
        return OSError(
            f"{slide.job.source.name}: {len(numbers)} of {len(slide.brief.areas)} regions failed in each of {TRIES} "
            f"tries: {'region' if len(numbers) == 1 else 'regions'} {', '.join(places)}"
            f"{', ...' if len(numbers) > 3 else ''}: {' '.join(str(first).split())}; the others are kept for a "
            "resumed run"
        )
