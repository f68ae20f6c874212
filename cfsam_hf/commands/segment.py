"""`cfsam segment`: images in, label maps, polygons, tables, pictures and a summary out."""

import argparse
import contextlib
import os
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..drawing.overlay import write_overlay
from ..files.atomic import staged_folder
from ..files.writable import check_writable
from ..inference.done import DoneRecord, checkpoint_identity, fingerprint
from ..model.pictures import DEFAULT_MAX_PIXELS, read_rgb
from ..model.result import NucleiResult
from ..model.version import __version__
from ..outputs import (
    SUMMARY_COLUMNS,
    summary_rows,
    type_styles,
    write_coco,
    write_csv,
    write_geojson,
    write_instance_map,
    write_summary,
    write_table,
)
from .inputs import ImageJob, as_options, collect_images
from .loading import load_pipeline
from .messages import describe, one_line
from .options import add_autocast_option, add_views_option, positive, setting, share
from .terminal import EXIT_FAILED, EXIT_OK, UsageError, say

# The pixel size of the demo picture is not recorded. Its colonic nuclei, about 12 to 16 px across, are 6 to 8 µm at
# this value, as they should be.
DEMO_MPP = 0.5
DEMO_NAME = "immunohistochemistry"
# It is another stain than the bundled checkpoint knows, so it is less sure of its nuclei.
DEMO_DECODING = {"nuclei_threshold": 0.3, "minimum_score": 0}
# What is written for each image, where it carries a provenance record.
ENDINGS = ("_instances.tif", ".geojson", ".parquet", "_overlay.png", "_coco.json")
SEARCHED_BYTES = 2**16
# Images that wait to be written, each with its picture in memory.
WRITES_AHEAD = 1


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam segment` and its options."""
    parser = subparsers.add_parser(
        "segment",
        help="find the nuclei in images",
        description=(
            "Finds the nuclei in images and writes, for each image NAME.*, OUT/NAME_instances.tif (label map), "
            "NAME.geojson (polygons, for QuPath), NAME.parquet (table), NAME_overlay.png (picture), and one "
            "OUT/summary.csv with counts and densities per type."
        ),
        epilog=(
            "A folder is searched with its sub-folders, which are mirrored below OUT; a pattern in quotes is mirrored "
            "from its first wildcard on. Label maps (X_instances.*) and overlays (X_overlay.*) beside an image X are "
            "left out. Images of one name but different endings keep them: a.png and a.tif give a.png.geojson "
            "and a.tif.geojson. An image that cannot be done has a line on stderr, the others are done all the same, "
            "and the exit status is 1."
        ),
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image file, folder of images, or quoted pattern")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the results; made if needed")
    parser.add_argument("--demo", action="store_true", help="take a tissue picture that comes with scikit-image")
    parser.add_argument(
        "--mpp", type=positive(float), help="pixel size of the images in micrometres (default: as the checkpoint's)"
    )
    parser.add_argument(
        "--checkpoint", help="folder or Hugging Face Hub id of a CF-SAM model (default: the bundled one)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=positive(int), metavar="N", help="tiles per step (default: chosen by device)"
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the overlay picture (default: yes)",
    )
    parser.add_argument(
        "--also",
        action="append",
        choices=("csv", "coco"),
        default=[],
        help="write NAME_nuclei.csv or NAME_coco.json too; can be repeated",
    )
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="P",
        help="leave out nuclei with a score (probability that the outline overlaps a true nucleus with IoU > .5) "
        "below P (default: 0; those below the checkpoint's minimum_score are left out anyway)",
    )
    parser.add_argument(
        "--decoding",
        nargs="+",
        type=setting,
        metavar="NAME=VALUE",
        help="thresholds in place of the checkpoint's, such as nuclei_threshold=0.3 minimum_score=0 where faint "
        "nuclei are missed (an unknown name lists them all)",
    )
    add_views_option(parser)
    add_autocast_option(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out images whose results in OUT are complete and were made by the same version, checkpoint and "
        "options from the same file",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive(int),
        metavar="N",
        help="refuse larger images (default: 268,435,456 = 16,384 squared)",
    )
    parser.add_argument(
        "--page",
        type=positive(int),
        metavar="N",
        help="page of TIFF files (frame of animations) that hold several pictures, counted from 1; these are refused "
        "otherwise",
    )
    parser.add_argument("--verbose", action="store_true", help="say at the end how long the network waited")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam segment` say; returns the exit status."""
    if args.demo == bool(args.inputs):
        raise UsageError("give INPUT files or folders, or --demo" + (", not both" if args.demo else ""))
    output = Path(args.output)
    check_writable(output)
    decoding = dict(args.decoding) if args.decoding else None
    if args.demo:
        jobs, problems = [ImageJob(Path(f"{DEMO_NAME}.png"), f"{DEMO_NAME}.png", PurePath(DEMO_NAME))], []
        read, mpp = _read_demo, args.mpp or DEMO_MPP
        if decoding is None and args.checkpoint is None:
            decoding = DEMO_DECODING
        _explain_demo(mpp, assumed=args.mpp is None, lowered=decoding is DEMO_DECODING)
    else:
        jobs, problems = collect_images(args.inputs, output)
        limit = args.max_pixels or DEFAULT_MAX_PIXELS
        read, mpp = (lambda job: read_rgb(job.path, limit, page=args.page)), args.mpp
    for problem in problems:
        say(f"error: {problem}")
    if not jobs:
        return EXIT_FAILED
    with _warnings_as_lines():
        pipe = load_pipeline(args.checkpoint, args.device)
        options = {"mpp": mpp, "batch_size": args.batch_size, "max_pixels": args.max_pixels}
        if args.threshold is not None:
            options["threshold"] = args.threshold
        if args.views is not None:
            options["views"] = args.views
        if args.autocast is not None:
            options["autocast_dtype"] = args.autocast
        if decoding is not None:
            options["decoding"] = decoding
        failed = segment_images(
            pipe,
            jobs,
            output,
            read,
            options,
            overlay=args.overlay,
            also=args.also,
            page=args.page,
            resume=args.resume,
            missing=len(problems),
            verbose=args.verbose,
            debug=args.debug,
        )
    return EXIT_FAILED if failed or problems else EXIT_OK


def segment_images(
    pipe: Any,
    jobs: Sequence[ImageJob],
    output: Path,
    read: Callable[[ImageJob], np.ndarray],
    options: dict[str, Any],
    *,
    overlay: bool = True,
    also: Sequence[str] = (),
    page: int | None = None,
    resume: bool = False,
    missing: int = 0,
    verbose: bool = False,
    debug: bool = False,
) -> int:
    """Does the jobs one after another; one that fails has a line on stderr and leaves no file.

    While the network works on an image, the next is read and the last is written, each in a thread.

    Args:
        pipe: the pipeline.
        jobs: the images.
        output: the folder of the results.
        read: gives a job's image as (H, W, 3) uint8 RGB.
        options: arguments of the pipeline.
        overlay: whether to write the picture.
        also: further forms, of "csv" and "coco".
        page: the page that `read` takes, of which the results depend.
        resume: whether to leave out images whose results are complete and current.
        missing: how many inputs could not even be found.
        verbose: whether to say how long the network waited.
        debug: whether to print tracebacks.

    Returns:
        How many jobs failed. `summary.csv` holds every image whose results are in the folder, those of earlier runs
        too, also after an interruption.

    Raises:
        FileExistsError: there is a `summary.csv` of someone else.
    """
    summary = output / "summary.csv"
    check_own_summary(summary)
    done = DoneRecord(output)
    made_by = {
        "version": __version__,
        "checkpoint": checkpoint_identity(pipe),
        "mpp": options.get("mpp"),
        "threshold": options.get("threshold"),
        "views": options.get("views", 1),
        # Only where they are given: what was done before there were these options stays current.
        **{name: options[name] for name in ("decoding", "autocast_dtype") if name in options},
        "page": page,
        "files": sorted({*also, *(["overlay"] if overlay else [])}),
    }
    todo = [job for job in jobs if not (resume and done.is_current(job.target, job.path, made_by))]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} images are done already", flush=True)
    report = _Report(todo, debug=debug)

    def write(job: ImageJob, image: np.ndarray, source: dict[str, Any], result: NucleiResult) -> None:
        result.image_name = job.name
        files = write_outputs(result, image, output, job.target, overlay=overlay, also=also)
        done.add(job.target, source, made_by, files, summary_rows(result))
        report.success(job, result, files[-1] if overlay else files[1])

    begun: deque = deque()
    try:
        # One thread writes and reports, so that everything is told in the order of the jobs.
        with ThreadPoolExecutor(1, "cfsam-write") as writer:
            waiting: deque = deque()

            def submit(task: Callable, *arguments) -> None:
                waiting.append(writer.submit(task, *arguments))
                while len(waiting) > WRITES_AHEAD:
                    waiting.popleft().result()

            def images() -> Iterator[np.ndarray]:
                for job in todo:
                    try:
                        check_replaceable(output, job.target)
                        source = fingerprint(job.path)
                        image = read(job)
                    except Exception as error:
                        begun.append((job, None, None, error))
                    else:
                        begun.append((job, image, source, None))
                        yield image

            def submit_unreadable() -> None:
                while begun and begun[0][3] is not None:
                    job, *_, error = begun.popleft()
                    submit(report.failure, job, error)

            try:
                for result in _stream(pipe, images(), options):
                    submit_unreadable()
                    job, image, source, _ = begun.popleft()
                    if isinstance(result, Exception):
                        submit(report.failure, job, result)
                    else:
                        submit(report.attempt, job, write, job, image, source, result)
                    del image, result
                submit_unreadable()
                while waiting:
                    waiting.popleft().result()
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise
    finally:
        rows = done.rows(job.target for job in jobs)
        if rows:
            write_summary(rows, summary)
    if rows:
        count = len({row["image"] for row in rows})
        earlier = count - (len(jobs) - report.failed)
        note = f" ({earlier} of earlier runs)" if earlier > 0 else ""
        print(f"summary of {count} image{'s' * (count > 1)}{note} -> {summary}")
    clock = getattr(pipe, "network_clock", None)
    if verbose and todo and clock is not None:
        print(
            f"network: busy for {clock.busy:.1f} s, waited for {100 * clock.waiting_share:.1f} % of the time between "
            "its first tile and its last"
        )
    if report.failed or missing:
        say(f"{report.failed + missing} of {len(jobs) + missing} images could not be done")
    return report.failed


class _Report:
    """Lines about the images as they are done."""

    def __init__(self, jobs: Sequence[ImageJob], *, debug: bool):
        self._position = {job.target: position for position, job in enumerate(jobs, start=1)}
        self._debug = debug
        self._begin = time.perf_counter()
        self.failed = 0

    def attempt(self, job: ImageJob, task: Callable, *arguments) -> None:
        """Runs the task, or tells why it failed."""
        try:
            task(*arguments)
        except BrokenPipeError:
            raise
        except Exception as error:
            # One bad image in a folder of thousands must not cost the rest; what it was is told in a line.
            self.failure(job, error)

    def success(self, job: ImageJob, result: NucleiResult, shown: Path) -> None:
        """Says how many nuclei there are, and the seconds since the first image was begun: several are worked on at
        once, so that no image has a time of its own."""
        total = len(self._position)
        counter = f"[{self._position[job.target]}/{total}] " if total > 1 else ""
        clock = f"{'at ' * (total > 1)}{time.perf_counter() - self._begin:.1f} s"
        print(f"{counter}{one_line(job.name)}: {_counts(result)}, {clock} -> {one_line(str(shown))}", flush=True)

    def failure(self, job: ImageJob, error: Exception) -> None:
        """Says what went wrong, in a line."""
        self.failed += 1
        if self._debug:
            traceback.print_exception(error)
        text = as_options(describe(error, " (--debug shows where)"))
        named = str(job.path) in text or repr(str(job.path)) in text
        say(f"error: {text if named else f'{job.path}: {text}'}")


def _stream(pipe: Any, images: Iterator[np.ndarray], options: dict[str, Any]) -> Iterator[NucleiResult | Exception]:
    """Results or errors in the order of the images."""
    if hasattr(pipe, "stream"):
        with contextlib.closing(pipe.stream(images, **options)) as results:
            yield from results
        return
    # Any function of one image will do.
    for image in images:
        try:
            result = pipe(image, **options)
        except Exception as error:
            result = error
        yield result


def check_own_summary(path: Path) -> None:
    """Makes sure that a summary that is there may be replaced.

    Raises:
        FileExistsError: it has other columns than ours.
    """
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(SUMMARY_COLUMNS):
                raise FileExistsError(f"{path} is there and was not written by cfsam; choose another folder with -o")


def check_replaceable(output: Path, target: PurePath) -> None:
    """Makes sure that no file of someone else lies where an image's results go, such as labels drawn by hand.

    Files of an earlier run carry this software's name near their beginning or end, whatever their format.

    Args:
        output: the folder of the results.
        target: the results' common beginning, relative to `output`.

    Raises:
        FileExistsError: there is such a file.
    """
    for ending in ENDINGS:
        path = output / target.parent / f"{target.name}{ending}"
        if path.exists() and not _is_own(path):
            raise FileExistsError(f"{path} is there and was not written by cfsam; choose another folder with -o")


def _is_own(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(SEARCHED_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - SEARCHED_BYTES))
        # There is nobody's work in an empty file.
        return not head or b"cfsam_hf" in head or b"cfsam_hf" in file.read()


def write_outputs(
    result: NucleiResult,
    image: np.ndarray,
    output: Path,
    target: PurePath,
    *,
    overlay: bool = True,
    also: Sequence[str] = (),
) -> list[Path]:
    """Writes all files of one image, all of them or none.

    Args:
        result: the image's nuclei.
        image: (H, W, 3) uint8 RGB.
        output: the folder of the results.
        target: the files' common beginning, relative to `output`.
        overlay, also: as in [`segment_images`].

    Returns:
        The files, the label map first, the polygons second, and the overlay last.

    Raises:
        OSError: a file cannot be written.
    """
    folder = output / target.parent
    with staged_folder(folder) as stage:
        name = target.name
        writers = {f"{name}_instances.tif": write_instance_map, f"{name}.geojson": write_geojson}
        writers[f"{name}.parquet"] = write_table
        if "csv" in also:
            writers[f"{name}_nuclei.csv"] = write_csv
        if "coco" in also:
            writers[f"{name}_coco.json"] = write_coco
        for file, write in writers.items():
            write(result, stage / file)
        files = [folder / file for file in writers]
        if overlay:
            write_overlay(result, image, stage / f"{name}_overlay.png")
            files.append(folder / f"{name}_overlay.png")
    return files


def _counts(result: NucleiResult) -> str:
    """For example "412 nuclei (epithelial 300, inflammatory 112)"."""
    total = "1 nucleus" if len(result) == 1 else f"{len(result):,} nuclei"
    if not result.type_names or not len(result):
        return total
    count = result.table["type"].value_counts()
    return f"{total} ({', '.join(f'{s.name} {int(count.get(s.type_id, 0)):,}' for s in type_styles(result))})"


def _read_demo(job: ImageJob) -> np.ndarray:
    # Imported here: the demo alone needs it.
    from skimage import data

    return data.immunohistochemistry()


def _explain_demo(mpp: float, *, assumed: bool, lowered: bool) -> None:
    print(
        "Demo: scikit-image's immunohistochemistry picture, colonic glands stained with haematoxylin and DAB.\n"
        "This is real tissue but NOT H&E, which the models are trained on: do not read anything into the types.\n"
        + (
            f"Its pixel size is not recorded; {mpp:g} µm is assumed from the size of its nuclei (--mpp changes that)."
            if assumed
            else f"Pixel size: {mpp:g} µm, as given."
        )
        + ("\nFor this stain thresholds are lowered (--decoding changes that)." if lowered else ""),
        flush=True,
    )


@contextlib.contextmanager
def _warnings_as_lines():
    """Shows each distinct warning meant for users once, as a line; others not at all."""
    seen = set()

    def show(message, category, filename, lineno, file=None, line=None):
        # The pipeline speaks to people who write Python; here the same thing is an option.
        text = one_line(" ".join(str(message).split())).replace("pass mpp=...", "give --mpp")
        if issubclass(category, (UserWarning, RuntimeWarning)) and text not in seen:
            seen.add(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
