"""One region of a slide, from its pixels to the table of its nuclei.

What the regions of a slide share is a [`SlidePlan`], small data that can be pickled. [`run_regions`] is the loop of
one process; an engine that spreads regions over machines calls [`run_region`] with the same plan and gets the same
files.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
import pyarrow

from ..model.pictures import is_grey
from ..model.result import DecodedNuclei, NucleiResult
from ..model.stages import ImageRun, read_ahead
from ..outputs.slide_table import nuclei_batch
from ..slides import Slide
from ..slides.regions import Region
from .region_borders import BorderState, border_columns, border_states
from .region_store import RegionStore
from .slide_plan import SlidePlan
from .write_behind import WriteBehind

# Regions that are read while the network works on earlier ones, and tables that wait to be written.
REGIONS_AHEAD = 1
WRITES_AHEAD = 1


def read_region(plan: SlidePlan, region: Region, slide: Slide) -> ImageRun:
    """A region's pixels, ready for the pipeline.

    Raises:
        OSError: the slide is damaged or cannot be read; the message names it.
    """
    image = region.image
    x, y, _, _ = plan.grid.level0(image)
    pixels = slide.read_scaled(x, y, image.width, image.height, plan.grid.scale)
    return ImageRun(
        image=pixels,
        size=pixels.shape[:2],
        model_size=pixels.shape[:2],
        name=plan.source.name,
        is_grey=is_grey(pixels),
        tiling=plan.grid.tiling,
        part=plan.grid.part(region),
    )


def region_table(plan: SlidePlan, region: Region, decoded: DecodedNuclei) -> pyarrow.Table:
    """The region's own nuclei, and those of its neighbours that may be needed to settle the border.

    Args:
        plan: the slide's plan.
        region: the region.
        decoded: the nuclei in its `inside` box, in the model's pixels of that box.

    Returns:
        Rows in the order of the nuclei, with the columns of [`SlidePlan.schema`] and those of
        [`cfsam_hf.inference.region_borders`].
    """
    corner = np.array([region.inside.x0, region.inside.y0])
    states = border_states(decoded, region, plan.grid)
    kept = (states != BorderState.FOREIGN) & (decoded.scores >= plan.threshold)
    # Areas are tested last, for the remaining nuclei alone, since the test is slow.
    kept[kept] = plan.wants((decoded.centroids[kept] + corner) * plan.grid.scale)
    own = decoded.select(kept)
    states = states[kept]
    result = NucleiResult.from_decoded(own, mpp=plan.mpp, type_names=plan.type_names)
    x, y, _, _ = plan.grid.level0(region.inside)
    batch = nuclei_batch(result, plan.schema, offset=(x, y), scale=plan.grid.scale)
    table = pyarrow.Table.from_batches([batch], plan.schema)
    for name, column in border_columns(own, states, region).items():
        table = table.append_column(name, column)
    return table


def run_region(plan: SlidePlan, region: Region, pipe: Any, store: RegionStore, slide: Slide | None = None) -> None:
    """Segments one region and writes its file, independently of all other regions.

    Args:
        plan: the slide's plan.
        region: the region.
        pipe: the pipeline.
        store: where the file goes.
        slide: the slide, open; default: it is opened for this region.

    Raises:
        OSError, ValueError: the slide cannot be read, or the file cannot be written.
    """
    for _ in run_regions(plan, [region], pipe, store, slide):
        pass


def run_regions(
    plan: SlidePlan, regions: Iterable[Region], pipe: Any, store: RegionStore, slide: Slide | None = None
) -> Generator[Region, None, None]:
    """Segments regions one after the other and yields each when its file is written.

    While the network processes a region, the next one is read and the previous one is written.

    Args:
        plan: the slide's plan.
        regions: the regions to segment.
        pipe: the pipeline.
        store: where the files go.
        slide: the slide, open; default: it is opened here.

    Raises:
        OSError, ValueError: a region failed. The files of other regions remain.
    """
    pending: deque[Region] = deque()

    def write(region: Region, decoded: DecodedNuclei) -> Region:
        store.write(region, region_table(plan, region, decoded))
        return region

    with WriteBehind[Region](WRITES_AHEAD) as writer:
        runs = pipe.predict_runs(_read(plan, regions, pending, slide), progress=False, **plan.options)
        with closing(runs):
            for run in runs:
                region = pending.popleft()
                if run.error is not None:
                    raise run.error
                yield from writer.submit(write, region, run.take_decoded())
                del run
        yield from writer.finish()


def _read(
    plan: SlidePlan, regions: Iterable[Region], pending: deque[Region], opened: Slide | None
) -> Iterator[ImageRun]:
    """Reads the regions' pixels ahead, in order, and appends each region to `pending`; stops at an unreadable one."""

    def runs() -> Iterator[ImageRun]:
        with plan.source.open() if opened is None else nullcontext(opened) as slide:
            for region in regions:
                pending.append(region)
                try:
                    yield read_region(plan, region, slide)
                except Exception as error:
                    yield ImageRun(error=error)
                    return

    return read_ahead(runs(), REGIONS_AHEAD)
