"""Segments whole slides into files, region by region, and records what is done."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow

from ..files.stage import clean_up
from ..model.pipeline_cfsam import checkpoint_name, type_colors
from ..model.result import __version__
from ..outputs.slide_record import slide_record
from ..outputs.slide_table import numbered
from ..outputs.summary import slide_summary_rows
from ..slides.regions import REGION_SIDE, Region
from .record import RunRecord
from .region_borders import COLUMNS, settle
from .region_jobs import run_regions
from .region_store import RegionStore
from .run import Current, Failed, Outcome, made_by
from .slide_plan import SlidePlan, WhereToLook, plan_slide
from .slide_sink import SlideNuclei, SlideSink
from .slide_source import SlideSource, content_of
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
        files: the files by kind.
        waiting_share: the share of the time in which the network waited for pixels or for decoding; None if no region
            was left to do.
    """

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)
    files: Mapping[str, Path] = field(default_factory=dict)
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
    for folder in {sink.folder / job.target.parent for job in jobs}:
        clean_up(folder)
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
    source = job.source
    if not isinstance(source, SlideSource):
        raise TypeError(f"{source.name} is not a slide")
    settings = made_by(pipe, sink.kinds, options) | {"where": where.identity(), "side": side}
    if resume and record.is_current(job, settings):
        yield Current(job, time.perf_counter() - began)
        return
    sink.check(job.target)
    fingerprint = source.fingerprint()
    with source.open() as slide:
        plan = plan_slide(source, slide, pipe, options, where, side)
    regions = plan.regions()
    depends = {name: value for name, value in settings.items() if name != "files"}
    store = RegionStore(sink.folder, job.target, {**depends, "content": content_of(fingerprint), **plan.identity()})
    with store.held(resume=resume):
        waiting_share = None
        for progress in _segment(job, plan, regions, pipe, store, began):
            yield progress
            waiting_share = pipe.network_clock.waiting_share
        nuclei = merged(plan, regions, store, _provenance(plan, pipe))
        files = sink.write(nuclei, job.target)
        rows = slide_summary_rows(nuclei.batches(), nuclei.record)
        record.add(job, fingerprint, settings, files.values(), rows)
        store.remove()
    yield SlideDone(job, time.perf_counter() - began, nuclei.record, rows, files, waiting_share)


def _segment(
    job: Job, plan: SlidePlan, regions: Sequence[Region], pipe: Any, store: RegionStore, began: float
) -> Iterator[SlideProgress]:
    """Segments the regions that are not done yet."""
    todo = [region for region in regions if not store.has(region)]
    areas = {region.name: plan.tissue_mm2(region.core) for region in regions}
    total = sum(areas.values())
    left = sum(areas[region.name] for region in todo)
    count, done, first = len(regions) - len(todo), 0.0, time.perf_counter()
    for region in run_regions(plan, todo, pipe, store) if todo else ():
        count, done = count + 1, done + areas[region.name]
        now = time.perf_counter()
        rate = 60 * done / (now - first)
        yield SlideProgress(job, now - began, count, len(regions), total - left + done, total, rate)


def merged(plan: SlidePlan, regions: Sequence[Region], store: RegionStore, record: Mapping[str, Any]) -> SlideNuclei:
    """Merges the nuclei of a slide whose regions are all done, without holding them in memory.

    Ids count from 1 in the order of the regions and, within a region, of the nuclei's first pixels.

    Args:
        plan: of the slide.
        regions: all its regions.
        store: their files.
        record: the provenance record without the number of nuclei.
    """
    kept = settle(store, regions)
    columns = [name for name in plan.schema.names if name not in COLUMNS]

    def batches() -> Iterator[pyarrow.RecordBatch]:
        for region in regions:
            table = store.read(region, columns).filter(pyarrow.array(kept[region.name]))
            # The metadata of the file is that of the region.
            yield from table.cast(plan.schema).combine_chunks().to_batches()

    count = sum(int(mask.sum()) for mask in kept.values())
    return SlideNuclei(plan, {**record, "nuclei": count}, lambda: numbered(batches()))


def _provenance(plan: SlidePlan, pipe: Any) -> dict[str, Any]:
    pixel = plan.pixel_size
    return slide_record(
        image=plan.source.name,
        image_size=plan.size,
        nuclei=0,
        mpp=None if pixel is None else (pixel.x, pixel.y),
        mpp_source=None if pixel is None else pixel.source,
        type_names=plan.type_names,
        type_colors=type_colors(pipe.model.config),
        checkpoint=checkpoint_name(pipe.model),
        version=__version__,
        tissue_area_um2=plan.tissue.area_um2,
        model_mpp=plan.mpp,
    )
