"""The steps of a slide before and after its regions, which every engine takes: they need no weights.

[`prepare_slide`] decides what is to be done, the engine segments the regions, and [`finish_slide`] merges them into
the slide's files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from ..model.pipeline_cfsam import checkpoint_name, type_colors
from ..model.result import __version__
from ..outputs.slide_record import slide_record
from ..outputs.slide_table import numbered
from ..outputs.summary import slide_summary_rows
from ..slides.regions import Region
from .region_borders import COLUMNS, settle
from .region_store import RegionStore
from .slide_plan import SlidePlan, WhereToLook, plan_slide
from .slide_sink import SlideNuclei, SlideSink
from .slide_source import SlideSource, content_of
from .sources import Job


@dataclass(frozen=True)
class PreparedSlide:
    """A slide whose regions can be segmented. It can be pickled.

    Attributes:
        job: the slide and the name of its results.
        fingerprint: of the slide's files.
        settings: everything but the slide that its results depend on, as JSON-able values.
        plan: how it is segmented.
        regions: all its regions, in raster order.
        store: where the files of finished regions go.
    """

    job: Job
    fingerprint: Mapping[str, Any]
    settings: Mapping[str, Any]
    plan: SlidePlan
    regions: Sequence[Region]
    store: RegionStore


@dataclass(frozen=True)
class FinishedSlide:
    """A slide whose files are in place.

    Attributes:
        record: the provenance record.
        rows: its rows of the summary.
        files: the files by kind, as paths or, where there are none, as URLs.
    """

    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path | str]


def prepare_slide(
    job: Job,
    pipe: Any,
    sink: SlideSink,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    where: WhereToLook,
    side: int,
) -> PreparedSlide:
    """Reads a slide once to identify it, and decides where to look for nuclei.

    Args:
        job: the slide ([`SlideSource`]) and the name of its results.
        pipe: the pipeline; its weights are not used.
        sink: where the results go.
        settings: everything but the slide that the results depend on.
        options: arguments of the pipeline.
        where: where to look for nuclei.
        side: about how wide and high a region is, in the model's pixels.

    Raises:
        OSError, ValueError: the slide cannot be read, states no pixel size or has no tissue, or a file of other origin
            is where its results go.
    """
    source = job.source
    if not isinstance(source, SlideSource):
        raise TypeError(f"{source.name} is not a slide")
    sink.check(job.target)
    fingerprint = source.fingerprint()
    with source.open() as slide:
        plan = plan_slide(source, slide, pipe, options, where, side)
    regions = plan.regions()
    depends = {name: value for name, value in settings.items() if name != "files"}
    store = sink.store(job.target, {**depends, "content": content_of(fingerprint), **plan.identity()})
    return PreparedSlide(job, fingerprint, settings, plan, regions, store)


def finish_slide(prepared: PreparedSlide, pipe: Any, sink: SlideSink) -> FinishedSlide:
    """Merges the files of a slide's regions, all of them there, into the slide's files.

    Args:
        prepared: the slide.
        pipe: the pipeline; its weights are not used.
        sink: where the results go.

    Raises:
        OSError: a file cannot be read or written.
    """
    with prepared.store.at_hand(prepared.regions) as store:
        nuclei = merged(prepared.plan, prepared.regions, store, _provenance(prepared.plan, pipe))
        files = sink.write(nuclei, prepared.job.target)
        rows = slide_summary_rows(nuclei.batches(), nuclei.record)
    return FinishedSlide(nuclei.record, rows, files)


def remove_leftovers(job: Job, sink: SlideSink) -> None:
    """Removes the region files of a slide whose results are complete: a run killed right after its last file leaves
    them. Nothing happens while another run is segmenting the slide.

    Args:
        job: the slide and the name of its results.
        sink: where the results are.
    """
    with suppress(OSError), sink.store(job.target, {}).held(resume=False) as store:
        store.remove()


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
