"""Runs jobs through a pipeline into a sink, with a record of what is done."""

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files.stage import clean_up
from ..model.pixel_size import PixelSize, choose_mpp, disagreement
from ..model.precision import dtype_name, resolve_autocast
from ..model.result import NucleiResult, __version__
from ..outputs.summary import summary_rows
from .record import RunRecord, checkpoint_identity
from .sink import FileSink
from .sources import Job
from .write_behind import WriteBehind

# Images that wait to be written, each with its pixels in memory.
WRITES_AHEAD = 1
# Options that change the speed or refuse images, and not the nuclei.
WITHOUT_INFLUENCE = ("batch_size", "max_pixels", "progress", "timeout")


@dataclass(frozen=True)
class Outcome:
    """How a job ended: [`Done`], [`Failed`] or [`Current`].

    Attributes:
        job: the job.
        seconds: when it ended, in seconds since the run began. Several jobs are in progress at once, so that no job
            has a duration of its own.
    """

    job: Job
    seconds: float


@dataclass(frozen=True)
class Done(Outcome):
    """A job whose files are in place.

    Attributes:
        result: the image's nuclei.
        files: the files by kind.
    """

    result: NucleiResult
    files: dict[str, Path]


@dataclass(frozen=True)
class Failed(Outcome):
    """A job that failed and wrote nothing.

    Attributes:
        error: what went wrong.
    """

    error: Exception


@dataclass(frozen=True)
class Current(Outcome):
    """A job that was skipped because its results are complete and current."""


@dataclass(frozen=True)
class _Loaded:
    """A job whose image has been read, with the pixel size that it states and its fingerprint from before."""

    job: Job
    image: np.ndarray
    stated: PixelSize | None
    fingerprint: dict[str, Any]


@dataclass(frozen=True)
class _Unreadable:
    """A job whose image could not be read."""

    job: Job
    error: Exception


def run_jobs(
    jobs: Sequence[Job],
    pipe: Any,
    sink: FileSink,
    record: RunRecord,
    options: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
) -> Generator[Outcome, None, None]:
    """Yields the outcomes of the jobs in their order; a job that fails does not affect the others.

    While the network works on an image, the next one is read and the previous one is written, each in a thread. Close
    the iterator if you leave it early (`contextlib.closing`): the image being written is finished then.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from transformers import pipeline
    >>> import cfsam_hf
    >>> from cfsam_hf.inference import FileSink, RunRecord, collect_images, run_jobs

    >>> out = Path("out")
    >>> found = collect_images(["tiles"], out)
    >>> pipe = pipeline("nuclei-segmentation")
    >>> with RunRecord(out) as record:
    ...     for outcome in run_jobs(found.jobs, pipe, FileSink(out), record, {"mpp": 0.25}):
    ...         print(outcome.job.source.name, type(outcome).__name__)
    ```

    Args:
        jobs: the images and the names of their results.
        pipe: a [`NucleiSegmentationPipeline`], or any function of an image that returns a [`NucleiResult`]. The
            attribute `settings` of a function, if it has one, holds what its results depend on besides the options.
        sink: where the results go.
        record: of this run, for the same folder as the sink. Its `finish` writes the summary.
        options: arguments of the pipeline. Without `mpp`, the pixel size that an image's file states is used.
        resume: whether to skip jobs whose results are complete and current.
    """
    options = dict(options or {})
    settings_of_run = made_by(pipe, sink.kinds, options)
    began = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - began

    for folder in {sink.folder / job.target.parent for job in jobs}:
        clean_up(folder)
    todo = []
    for job in jobs:
        if resume and record.is_current(job, settings_of_run | job.settings()):
            yield Current(job, seconds())
        else:
            todo.append(job)

    def write(loaded: _Loaded, result: NucleiResult) -> Outcome:
        job = loaded.job
        result.image_name = job.source.name
        if loaded.stated is not None and options.get("mpp") is None:
            result.mpp_source = loaded.stated.source
        try:
            files = sink.write(result, loaded.image, job.target, record.other_targets(job), job.placement)
            settings = settings_of_run | job.settings()
            record.add(job, loaded.fingerprint, settings, files.values(), summary_rows(result))
        except Exception as error:  # one bad image in a folder of thousands must not cost the rest
            return Failed(job, seconds(), error)
        return Done(job, seconds(), result, files)

    read: deque[_Loaded | _Unreadable] = deque()
    with WriteBehind[Outcome](WRITES_AHEAD) as writer:

        def fail(job: Job, error: Exception) -> Outcome:
            return Failed(job, seconds(), error)

        def submit_unreadable() -> Iterator[Outcome]:
            while read and isinstance(unreadable := read[0], _Unreadable):
                read.popleft()
                yield from writer.submit(fail, unreadable.job, unreadable.error)

        for result in _results(pipe, _read(todo, sink, options, read), options):
            yield from submit_unreadable()
            loaded = read.popleft()
            if isinstance(result, Exception):
                yield from writer.submit(fail, loaded.job, result)
            else:
                yield from writer.submit(write, loaded, result)
            del loaded, result
        yield from submit_unreadable()
        yield from writer.finish()


def made_by(pipe: Any, kinds: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the image that results depend on, as JSON-able values."""
    given = {name: value for name, value in options.items() if value is not None and name not in WITHOUT_INFLUENCE}
    if dtype := resolve_autocast(given.pop("autocast_dtype", None), getattr(pipe, "device", torch.device("cpu"))):
        given["autocast_dtype"] = dtype_name(dtype)
    settings = {"mpp": None, "threshold": None, "views": 1, **given, **getattr(pipe, "settings", {})}
    identity = {"version": __version__, "checkpoint": checkpoint_identity(pipe), "files": sorted(kinds)}
    return {**identity, **settings}


def _read(
    jobs: Sequence[Job], sink: FileSink, options: Mapping[str, Any], read: deque[_Loaded | _Unreadable]
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Images with their micrometres per pixel, each when the network can take it; all jobs are noted in `read`."""
    warned = False
    for job in jobs:
        try:
            sink.check(job.target)
            fingerprint = job.source.fingerprint()
            image, stated = job.source.read(), job.source.pixel_size()
            given = options.get("mpp")
            if given is not None and not warned and (sentence := disagreement(given, stated)):
                warned = True
                warnings.warn(f"{job.source.name}: {sentence}", stacklevel=2)
            mpp, _ = choose_mpp(given, stated)
        except Exception as error:
            read.append(_Unreadable(job, error))
        else:
            read.append(_Loaded(job, image, stated, fingerprint))
            yield image, mpp


def _results(
    pipe: Any, images: Iterator[tuple[np.ndarray, float | None]], options: Mapping[str, Any]
) -> Iterator[NucleiResult | Exception]:
    """Results or errors in the order of the images."""
    if not hasattr(pipe, "stream"):
        # Any function of one image is accepted.
        for image, mpp in images:
            try:
                result = pipe(image, **{**options, "mpp": mpp})
            except Exception as error:
                result = error
            yield result
        return
    sizes: deque[float | None] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for image, mpp in images:
            sizes.append(mpp)
            yield image

    # The pipeline asks for an image's pixel size when it has the image.
    each = iter(sizes.popleft, object())
    with contextlib.closing(pipe.stream(pixels(), **{**options, "mpp": each})) as results:
        yield from results
