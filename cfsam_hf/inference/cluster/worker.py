"""The actors of a cluster: clerks plan and merge slides, workers segment their regions."""

import copy
import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...slides import Slide
from ..allocator import keep_freed_memory
from ..region_jobs import run_region
from ..region_store import RegionStore
from ..slide_plan import WhereToLook
from ..slide_sink import SlideSink
from ..slide_steps import FinishedSlide, PreparedSlide, finish_slide, prepare_slide
from ..sources import Job


@dataclass(frozen=True)
class SlideBrief:
    """
    What the driver keeps of a prepared slide; the rest stays in Ray's object store.

    Attributes:
        fingerprint: of the slide's files.
        store: where the files of finished regions go.
        areas: (N,) square millimetres of tissue of each region.
        done: (N,) bool, the regions that an earlier run has done.
    """

    fingerprint: Mapping[str, Any]
    store: RegionStore
    areas: np.ndarray
    done: np.ndarray


def without_weights(pipe: Any) -> Any:
    """A pipeline that can plan and merge slides, small when it is pickled."""
    light = copy.copy(pipe)
    names = ("config", "name_or_path", "adapter_folder")
    light.model = SimpleNamespace(**{name: getattr(pipe.model, name, None) for name in names})
    return light


@dataclass(frozen=True)
class SlideWork:
    """
    What planning and merging need, for every slide of a run.

    Attributes:
        pipe: the pipeline [`without_weights`].
        sink: where the results go.
        settings: everything but the slide that the results depend on.
        options: arguments of the pipeline.
        where: where to look for nuclei.
        side: about how wide and high a region is, in the model's pixels.
        resume: whether regions that an earlier run has done are kept.
    """

    pipe: Any
    sink: SlideSink
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    where: WhereToLook
    side: int
    resume: bool


def machine() -> str:
    """The id of the machine on which an actor runs."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


class SlideClerk:
    """An actor that plans and merges slides. It holds no model; a worker's GPU would wait for it."""

    def start(self) -> str:
        """The id of the machine that it runs on."""
        return machine()

    def plan(self, job: Job, work: SlideWork) -> tuple[bytes, SlideBrief]:
        """Prepares a slide and pickles that, since the driver only passes it on; errors are those of
        [`prepare_slide`]."""
        prepared = prepare_slide(job, work.pipe, work.sink, work.settings, work.options, work.where, work.side)
        areas = [prepared.plan.tissue_mm2(region.core) for region in prepared.regions]
        done = prepared.store.done(prepared.regions) if work.resume else [False] * len(areas)
        brief = SlideBrief(prepared.fingerprint, prepared.store, np.array(areas), np.array(done))
        return pickle.dumps(prepared), brief

    def merge(self, prepared: bytes, work: SlideWork) -> FinishedSlide:
        """Merges a slide whose regions are all done; errors are those of [`finish_slide`]."""
        return finish_slide(pickle.loads(prepared), work.pipe, work.sink)


class RegionWorker:
    """An actor with a copy of the model, which keeps the slide of its latest region open."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._key: str | None = None
        self._prepared: PreparedSlide | None = None
        self._slide: Slide | None = None

    def start(self, pipe: list[Any], device: str, threads: int) -> str:
        """
        Loads the model.

        Args:
            pipe: one reference to the pipeline, which is on the CPU, in a list.
            device: where it computes.
            threads: of torch.

        Returns:
            The id of the machine that the worker runs on.
        """
        import ray
        import torch

        keep_freed_memory()
        torch.set_num_threads(threads)
        self._pipe = ray.get(pipe[0])
        self._pipe.model.to(device)
        self._pipe.device = torch.device(device)
        return machine()

    def segment(self, key: str, prepared: list[Any], number: int) -> float:
        """
        Segments a region and writes its file.

        Args:
            key: of the slide in this run.
            prepared: a reference to its pickled `PreparedSlide`, in a list so that Ray does not fetch it each time.
            number: of the region.

        Returns:
            The seconds that it took.

        Raises:
            OSError, ValueError: the region cannot be read or its file cannot be written.
        """
        began = time.perf_counter()
        try:
            slide, of = self._open(key, prepared)
            run_region(of.plan, of.regions[number], self._pipe, of.store, slide)
        except BaseException:
            # A file that a share has lost is opened again for the next region.
            self._close()
            raise
        return time.perf_counter() - began

    def _open(self, key: str, prepared: list[Any]) -> tuple[Slide, PreparedSlide]:
        if key != self._key or self._slide is None or self._prepared is None:
            import ray

            self._close()
            opened: PreparedSlide = pickle.loads(ray.get(prepared[0]))
            self._prepared, self._slide, self._key = opened, opened.plan.source.open(), key
        return self._slide, self._prepared

    def _close(self) -> None:
        slide, self._key, self._slide, self._prepared = self._slide, None, None, None
        if slide is not None:
            with suppress(OSError):
                slide.close()
