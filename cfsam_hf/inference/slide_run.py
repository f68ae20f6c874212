"""Segments whole slides into files, region by region, and records what is done."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..slides.regions import REGION_SIDE
from .record import RunRecord
from .region_jobs import run_regions
from .run import Current, Failed, Outcome, made_by
from .slide_plan import WhereToLook
from .slide_sink import SlideSink
from .slide_steps import PreparedSlide, finish_slide, prepare_slide, remove_leftovers
from .sources import Job


@dataclass(frozen=True)
class SlideProgress(Outcome):
    """A region of a slide is done; the slide's files are not written yet.

    Attributes:
        regions, total_regions: how many are done, those of an earlier run included, and how many there are.
        mm2, total_mm2: square millimetres of tissue that are done, and in total.
        rate: square millimetres of tissue per minute in this run.
    """

    regions: int
    total_regions: int
    mm2: float
    total_mm2: float
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last region is done at this rate; None before the first."""
        return (self.total_mm2 - self.mm2) / self.rate * 60 if self.rate else None


@dataclass(frozen=True)
class SlideDone(Outcome):
    """A slide whose files are in place.

    Attributes:
        record: the provenance record, with the number of nuclei, the pixel size and the area of the tissue.
        rows: its rows of the summary.
        files: the files by kind, as paths or, where there are none, as URLs.
        waiting_share: the share of the time in which the network waited for pixels or for decoding; None if no region
            was left to do.
    """

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)
    files: Mapping[str, Path | str] = field(default_factory=dict)
    waiting_share: float | None = None


def run_slides(
    jobs: Sequence[Job],
    pipe: Any,
    sink: SlideSink,
    record: RunRecord,
    options: Mapping[str, Any] | None = None,
    *,
    where: WhereToLook | None = None,
    resume: bool = False,
    side: int = REGION_SIDE,
) -> Generator[Outcome, None, None]:
    """Yields the progress and the outcomes of slides in their order; one that fails does not affect the others.

    The nuclei of each region go to a file of their own, hidden in the output folder. When all regions are there, they
    are merged into the slide's files and removed. The outputs are the same however often the run was interrupted.

    Args:
        jobs: slides ([`SlideSource`]) and the names of their results.
        pipe: the pipeline.
        sink: where the results go.
        record: of this run, for the same folder as the sink.
        options: arguments of the pipeline; `mpp` replaces the pixel size that slides state.
        where: where to look for nuclei; default: in the tissue.
        resume: whether to skip slides whose files are complete, and regions that an earlier run finished, if they were
            made from the same content by the same version, checkpoint and options.
        side: approximate width and height of a region, in the model's pixels.

    Raises:
        TypeError, ValueError: an option is unknown or out of its range.
    """
    options, where = dict(options or {}), where or WhereToLook()
    if jobs:
        # Raises for an impossible option, before any work.
        pipe.stream([], **options)
    began = time.perf_counter()
    sink.clean(job.target for job in jobs)
    for job in jobs:
        outcomes = _run_slide(job, pipe, sink, record, options, where, resume, side, began)
        try:
            with closing(outcomes):
                yield from outcomes
        except Exception as error:  # one bad slide must not cost the others
            yield Failed(job, time.perf_counter() - began, error)


def _run_slide(
    job: Job,
    pipe: Any,
    sink: SlideSink,
    record: RunRecord,
    options: Mapping[str, Any],
    where: WhereToLook,
    resume: bool,
    side: int,
    began: float,
) -> Generator[Outcome, None, None]:
    settings = slide_settings(pipe, sink, options, where, side)
    if resume and record.is_current(job, settings):
        remove_leftovers(job, sink)
        yield Current(job, time.perf_counter() - began)
        return
    prepared = prepare_slide(job, pipe, sink, settings, options, where, side)
    start = time.perf_counter()
    with prepared.store.held(resume=resume):
        waiting_share = None
        for progress in _segment(prepared, pipe, began):
            yield progress
            waiting_share = pipe.network_clock.waiting_share
        finished = finish_slide(prepared, pipe, sink)
        seconds = time.perf_counter() - start
        record.add(job, prepared.fingerprint, settings, finished.files.values(), finished.rows, seconds)
        prepared.store.remove()
    seconds = time.perf_counter() - began
    yield SlideDone(job, seconds, finished.record, finished.rows, finished.files, waiting_share)


def _segment(prepared: PreparedSlide, pipe: Any, began: float) -> Iterator[SlideProgress]:
    """Segments the regions that are not done yet."""
    plan, regions, store = prepared.plan, prepared.regions, prepared.store
    todo = [region for region, done in zip(regions, store.done(regions), strict=True) if not done]
    areas = {region.name: plan.tissue_mm2(region.core) for region in regions}
    total = sum(areas.values())
    left = sum(areas[region.name] for region in todo)
    count, done, first = len(regions) - len(todo), 0.0, time.perf_counter()
    for region in run_regions(plan, todo, pipe, store) if todo else ():
        count, done = count + 1, done + areas[region.name]
        now = time.perf_counter()
        rate = 60 * done / (now - first)
        yield SlideProgress(prepared.job, now - began, count, len(regions), total - left + done, total, rate)


def slide_settings(
    pipe: Any, sink: SlideSink, options: Mapping[str, Any], where: WhereToLook, side: int
) -> dict[str, Any]:
    """Everything but the slide that its results depend on, as JSON-able values."""
    return made_by(pipe, sink.kinds, options) | {"where": where.identity(), "side": side}
