"""Types for nuclei that another tool has outlined: the model's type maps, read inside the given outlines."""

import contextlib
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..data.polygons import Polygon, paint_pixels, shape_pixels
from ..data.readers.given_nuclei import GivenNuclei, files_of_nuclei, nuclei_of_label_map, read_given_nuclei
from ..model.contours import signed_area
from ..model.pictures import is_grey, read_rgb
from ..model.pixel_size import choose_mpp, read_pixel_size
from ..model.result import DecodedNuclei, NucleiResult
from .collect import Collection
from .record import RunRecord
from .run import Failed, Outcome, run_jobs
from .sink import FileSink
from .sources import ImageSource, Job, file_digest

WITHOUT_MEANING = ("threshold", "decoding")
"""Options of finding outlines, which has been done."""


def type_outlines(
    pipe: Any,
    image: Any,
    outlines: GivenNuclei | np.ndarray | Sequence[Sequence[Polygon]],
    *,
    mpp: float | None = None,
    **options: Any,
) -> NucleiResult:
    """The types of given nuclei, whose outlines stay as they are.

    A nucleus has the type whose probabilities have the largest sum inside its outline, in the model's pixels, as for
    nuclei that the model finds. All maps of the image are in memory at once, about 20 bytes per pixel of the model's.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import cfsam_hf
    >>> from cfsam_hf.data import read_given_nuclei
    >>> from cfsam_hf.inference.given_outlines import type_outlines

    >>> pipe = pipeline("nuclei-segmentation")
    >>> given = read_given_nuclei("tile_cp_masks.png", height=512, width=512)
    >>> result = type_outlines(pipe, "tile.png", given, mpp=0.25)
    ```

    Args:
        pipe: a [`NucleiSegmentationPipeline`] whose model has types.
        image: a path, or an image as (H, W, 3) uint8 RGB.
        outlines: what [`cfsam_hf.data.read_given_nuclei`] returns, a label map (H, W), or for each nucleus its
            polygons, each an exterior ring and its holes, (K, 2) xy in pixels of the image.
        mpp: micrometres per pixel of the image; default: as its file states it, else the model's.
        options: of the pipeline (`batch_size`, `views`, `tile_size`, ...).

    Returns:
        The result, row by row the given nuclei: ids of a label map are kept, and `contours` are the given rings.
        Scores are NaN, since they rate outlines that the model finds. Where outlines overlap, the label map gives a
        pixel to the later one; types and areas are those of the whole outlines.

    Raises:
        ValueError: the model has no types, the label map has another size than the image, or an option has no meaning
            for given outlines.
    """
    from ..model.stages import UNKNOWN_MPP_WARNING, ImageRun

    if not getattr(getattr(pipe.model, "config", None), "num_types", 0):
        raise ValueError("the checkpoint has no types, so it cannot type given outlines")
    if unusable := sorted(set(options) & set(WITHOUT_MEANING)):
        raise ValueError(f"{unusable[0]} has no meaning for outlines that are given")
    stated = None
    if not isinstance(image, np.ndarray):
        stated = read_pixel_size(image)
    mpp, source = choose_mpp(mpp, stated)
    if mpp is None:
        warnings.warn(UNKNOWN_MPP_WARNING.format(pipe.image_processor.mpp), stacklevel=2)
    pixels = read_rgb(image)
    given = _as_given(outlines, pixels.shape[:2])
    maps = pipe.blended_maps(pixels, mpp=mpp, **options)
    types, shares = _elect(given.shapes, maps.types, pixels.shape[:2])
    run = ImageRun(
        decoded=_measured(given, types, shares, pixels.shape[:2]),
        size=pixels.shape[:2],
        mpp=mpp,
        mpp_source=source,
        name=None if isinstance(image, np.ndarray) else Path(image).name,
        is_grey=is_grey(pixels),
    )
    result: NucleiResult = pipe.postprocess(run)
    result.table["score"] = np.nan
    result.table["id"] = given.ids
    result.contours = [
        [_oriented(ring, hole=number > 0) for polygon in shape for number, ring in enumerate(polygon)]
        for shape in given.shapes
    ]
    return result


class OutlineTyper:
    """[`type_outlines`] for one image as a function of the image alone, as [`run_jobs`] takes it.

    Args:
        pipe: the pipeline.
        path: the file of the nuclei, read when the image is there.
        image: the image's own file, None for an image in memory.
    """

    def __init__(self, pipe: Any, path: Path, image: Path | None = None):
        self.pipe, self.path, self.image = pipe, path, image
        self.model = pipe.model
        self.settings = {"outlines": file_digest(path)}
        """What results depend on besides the image, the checkpoint and the options."""

    def __call__(self, image: np.ndarray, *, mpp: float | None = None, **options: Any) -> NucleiResult:
        given = read_given_nuclei(self.path, image.shape[0], image.shape[1], self.image)
        for note in given.notes:
            warnings.warn(f"{self.path}: {note}", stacklevel=2)
        return type_outlines(self.pipe, image, given, mpp=mpp, **options)


def pair_outlines(collection: Collection, outlines: Path) -> tuple[Collection, dict[PurePath, Path]]:
    """The jobs with outlines, and the file of the outlines of each, by the job's target.

    Images that are themselves the outlines of another one are not among the jobs; images without outlines are reported
    as problems.

    Args:
        collection: the images.
        outlines: a file, of the only image; or a folder with a file for each, under the names of
            [`cfsam_hf.data.readers.given_nuclei.files_of_nuclei`]. Sub-folders are those of the images.

    Raises:
        ValueError: a file is given for several images.
        OSError: there is no such file or folder.
    """
    paths = {job.target: job.source.path for job in collection.jobs if isinstance(job.source, ImageSource)}
    if outlines.is_file():
        found = dict.fromkeys(paths.values(), outlines)
    elif outlines.is_dir():
        found = {}
        for parent in {target.parent for target in paths}:
            folder = outlines / parent if (outlines / parent).is_dir() else outlines
            found |= files_of_nuclei(folder, [path for target, path in paths.items() if target.parent == parent])
    else:
        raise FileNotFoundError(f"{outlines}: no such file or folder")
    given = {file.resolve() for file in found.values()}
    jobs = [job for job in collection.jobs if job.target in paths and paths[job.target].resolve() not in given]
    if outlines.is_file() and len(jobs) > 1:
        raise ValueError(
            f"{outlines} holds the outlines of one image, not of {len(jobs)}; give a folder of such files"
        )
    problems = [
        f"{job.source.name}: {outlines} holds no outlines and no label map for this image"
        for job in jobs
        if paths[job.target] not in found
    ]
    kept = [job for job in jobs if paths[job.target] in found]
    pairs = {job.target: found[paths[job.target]] for job in kept}
    return Collection(kept, [*collection.problems, *problems], collection.notes), pairs


def run_outline_jobs(
    jobs: Sequence[Job],
    pipe: Any,
    sink: FileSink,
    record: RunRecord,
    options: Mapping[str, Any] | None = None,
    *,
    outlines: Mapping[PurePath, Path],
    resume: bool = False,
) -> Generator[Outcome, None, None]:
    """Yields the outcomes of the jobs in their order, each typed inside the outlines that belong to its image.

    Args:
        jobs: the images and the names of their results.
        pipe: a [`NucleiSegmentationPipeline`].
        sink, record, options, resume: as for [`run_jobs`].
        outlines: the file of the outlines of each job, by its target, as [`pair_outlines`] finds them.
    """
    began = time.perf_counter()
    for job in jobs:
        try:
            source = job.source.path if isinstance(job.source, ImageSource) else None
            typer = OutlineTyper(pipe, outlines[job.target], source)
        except OSError as error:
            yield Failed(job, time.perf_counter() - began, error)
            continue
        with contextlib.closing(run_jobs([job], typer, sink, record, options, resume=resume)) as outcomes:
            for outcome in outcomes:
                yield replace(outcome, seconds=time.perf_counter() - began)


def _as_given(outlines: GivenNuclei | np.ndarray | Sequence[Sequence[Polygon]], size: tuple[int, int]) -> GivenNuclei:
    if isinstance(outlines, GivenNuclei):
        return outlines
    if isinstance(outlines, np.ndarray):
        if outlines.shape != size or not np.issubdtype(outlines.dtype, np.integer) or outlines.min(initial=0) < 0:
            raise ValueError(
                f"outlines are {outlines.dtype} {outlines.shape}: a label map must be {size} whole numbers from 0 on, "
                "as the image is"
            )
        return nuclei_of_label_map(outlines)
    return GivenNuclei(outlines, np.arange(1, len(outlines) + 1, dtype=np.int64))


def _elect(
    shapes: Sequence[Sequence[Polygon]], maps: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Types (N,) 1..T and shares (N, T) of all types, from the maps (T + 1, h, w) of an image of `size` (H, W)."""
    height, width = maps.shape[1:]
    scale = np.array([width / size[1], height / size[0]])
    flat = maps[1:].reshape(len(maps) - 1, -1)
    votes = np.empty((len(shapes), len(flat)))
    for row, shape in enumerate(shapes):
        scaled = [[ring * scale for ring in polygon] for polygon in shape]
        votes[row] = flat[:, _pixels(scaled, height, width)].sum(axis=1, dtype=np.float64)
    total = votes.sum(axis=1, keepdims=True)
    # Where no type has any probability they share it equally.
    shares = np.where(total > 0, votes, 1) / np.where(total > 0, total, len(flat))
    return votes.argmax(axis=1) + 1, shares


def _pixels(shape: Sequence[Polygon], height: int, width: int) -> np.ndarray:
    """The flat indices of the pixels in a shape; of one between the centres of pixels, the pixel that it lies on."""
    pixels = shape_pixels(shape, height, width)
    if len(pixels):
        return pixels
    exterior = shape[0][0]
    column, row = np.clip((exterior.min(axis=0) + exterior.max(axis=0)) // 2, 0, (width - 1, height - 1)).astype(int)
    return np.array([row * width + column])


def _measured(given: GivenNuclei, types: np.ndarray, shares: np.ndarray, size: tuple[int, int]) -> DecodedNuclei:
    """The nuclei in the pixels of the image of `size` (height, width)."""
    height, width = size
    pixels = [_pixels(shape, height, width) for shape in given.shapes]
    drawn, positions, _ = paint_pixels(pixels, height, width)
    places = [np.divmod(indices, width) for indices in pixels]
    boxes = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in places]
    return DecodedNuclei(
        instance_map=np.concatenate([[0], given.ids[positions]]).astype(np.int32)[drawn],
        type_ids=types,
        type_probabilities=shares[np.arange(len(types)), types - 1],
        scores=np.ones(len(types)),
        boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4),
        centroids=np.array([(x.mean() + 0.5, y.mean() + 0.5) for y, x in places]).reshape(-1, 2),
        areas=np.array([len(indices) for indices in pixels], dtype=np.int64),
        probabilities=shares.astype(np.float32),
    )


def _oriented(ring: np.ndarray, hole: bool) -> np.ndarray:
    """A ring without its repeated last point; exteriors have positive area, holes negative."""
    if len(ring) > 1 and np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    return ring[::-1] if (signed_area(ring) >= 0) == hole else ring
