"""`cfsam segment`: images in, label maps, polygons, tables, pictures and a summary out."""

import argparse
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..cli import EXIT_FAILED, EXIT_OK, describe, one_line, say
from ..export import (
    staged_folder,
    summary_rows,
    type_styles,
    write_coco,
    write_csv,
    write_geojson,
    write_instance_map,
    write_overlay,
    write_summary,
    write_table,
)
from ..image_io_cfsam import DEFAULT_MAX_PIXELS, read_rgb
from ..nuclei_cfsam import NucleiResult
from .inputs import ImageJob, collect_images
from .loading import load_pipeline

# The pixel size of the demo picture is not recorded. Its colonic nuclei, about 12 to 16 px across, are 6 to 8 µm at
# this value, as they should be.
DEMO_MPP = 0.5
DEMO_NAME = "immunohistochemistry"
# What is written for each image, where it carries a provenance record.
ENDINGS = ("_instances.tif", ".geojson", ".parquet", "_overlay.png", "_coco.json")
SEARCHED_BYTES = 2**16


def run_segment(args: argparse.Namespace) -> int:
    """Does what the parsed arguments of `cfsam segment` say; returns the exit status."""
    output = Path(args.output)
    _check_writable(output)
    if args.demo:
        jobs, problems = [ImageJob(Path(f"{DEMO_NAME}.png"), f"{DEMO_NAME}.png", PurePath(DEMO_NAME))], []
        read, mpp = _read_demo, args.mpp or DEMO_MPP
        _explain_demo(mpp, assumed=args.mpp is None)
    else:
        jobs, problems = collect_images(args.inputs, output)
        read, mpp = (lambda job: read_rgb(job.path, args.max_pixels or DEFAULT_MAX_PIXELS)), args.mpp
    for problem in problems:
        say(f"error: {problem}")
    if not jobs:
        return EXIT_FAILED
    with _warnings_as_lines():
        pipe = load_pipeline(args.checkpoint, args.device)
        failed = segment_images(
            pipe,
            jobs,
            output,
            read,
            {"mpp": mpp, "batch_size": args.batch_size, "max_pixels": args.max_pixels},
            overlay=args.overlay,
            also=args.also,
            debug=args.debug,
        )
    return EXIT_FAILED if failed or problems else EXIT_OK


def segment_images(
    pipe: Callable[..., NucleiResult],
    jobs: Sequence[ImageJob],
    output: Path,
    read: Callable[[ImageJob], np.ndarray],
    options: dict[str, Any],
    *,
    overlay: bool = True,
    also: Sequence[str] = (),
    debug: bool = False,
) -> int:
    """Does the jobs one after another; one that fails has a line on stderr and leaves no file.

    Args:
        pipe: the pipeline; called with an image and `options`.
        jobs: the images.
        output: the folder of the results.
        read: gives a job's image as (H, W, 3) uint8 RGB.
        options: arguments of the pipeline.
        overlay: whether to write the picture.
        also: further forms, of "csv" and "coco".
        debug: whether to print tracebacks.

    Returns:
        How many jobs failed. `summary.csv` holds all that succeeded, also after an interruption.
    """
    rows: list[dict[str, Any]] = []
    failed = 0
    try:
        for position, job in enumerate(jobs, start=1):
            start = time.perf_counter()
            try:
                check_replaceable(output, job.target)
                image = read(job)
                result = pipe(image, **options)
                result.image_name = job.name
                shown = write_outputs(result, image, output, job.target, overlay=overlay, also=also)
                rows += summary_rows(result)
            except Exception as error:
                # One bad image in a folder of thousands must not cost the rest; what it was is told in a line.
                failed += 1
                if debug:
                    traceback.print_exc()
                text = describe(error)
                named = str(job.path) in text or repr(str(job.path)) in text
                say(f"error: {text if named else f'{job.path}: {text}'}")
                continue
            counter = f"[{position}/{len(jobs)}] " if len(jobs) > 1 else ""
            seconds = time.perf_counter() - start
            print(
                f"{counter}{one_line(job.name)}: {_counts(result)}, {seconds:.1f} s -> {one_line(str(shown))}",
                flush=True,
            )
    finally:
        if rows:
            write_summary(rows, output / "summary.csv")
    if rows:
        print(f"summary of {len(jobs) - failed} image{'s' * (len(jobs) - failed > 1)} -> {output / 'summary.csv'}")
    if failed:
        say(f"{failed} of {len(jobs)} images could not be done")
    return failed


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
        return b"cfsam_hf" in head or b"cfsam_hf" in file.read()


def write_outputs(
    result: NucleiResult,
    image: np.ndarray,
    output: Path,
    target: PurePath,
    *,
    overlay: bool = True,
    also: Sequence[str] = (),
) -> Path:
    """Writes all files of one image, all of them or none.

    Args:
        result: the image's nuclei.
        image: (H, W, 3) uint8 RGB.
        output: the folder of the results.
        target: the files' common beginning, relative to `output`.
        overlay, also: as in [`segment_images`].

    Returns:
        The file that a person would open first.

    Raises:
        OSError: a file cannot be written.
    """
    folder = output / target.parent
    with staged_folder(folder) as stage:
        name = target.name
        write_instance_map(result, stage / f"{name}_instances.tif")
        write_geojson(result, stage / f"{name}.geojson")
        write_table(result, stage / f"{name}.parquet")
        if "csv" in also:
            write_csv(result, stage / f"{name}_nuclei.csv")
        if "coco" in also:
            write_coco(result, stage / f"{name}_coco.json")
        if overlay:
            write_overlay(result, image, stage / f"{name}_overlay.png")
    return folder / (f"{name}_overlay.png" if overlay else f"{name}.geojson")


def _counts(result: NucleiResult) -> str:
    """For example "412 nuclei (epithelial 300, inflammatory 112)"."""
    total = "1 nucleus" if len(result) == 1 else f"{len(result):,} nuclei"
    if not result.type_names or not len(result):
        return total
    count = result.table["type"].value_counts()
    return f"{total} ({', '.join(f'{s.name} {int(count.get(s.type_id, 0)):,}' for s in type_styles(result))})"


def _check_writable(output: Path) -> None:
    """Fails before the work rather than after it.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".cfsam-"):
            pass
    except FileExistsError as error:
        raise OSError(f"{output}: is a file; -o needs a folder") from error
    except OSError as error:
        raise OSError(
            f"{output}: cannot write here ({error.strerror or error}); choose another folder with -o"
        ) from error


def _read_demo(job: ImageJob) -> np.ndarray:
    # Imported here: the demo alone needs it.
    from skimage import data

    return data.immunohistochemistry()


def _explain_demo(mpp: float, *, assumed: bool) -> None:
    print(
        "Demo: scikit-image's immunohistochemistry picture, colonic glands stained with haematoxylin and DAB.\n"
        "This is real tissue but NOT H&E, which the models are trained on: do not read anything into the types.\n"
        + (
            f"Its pixel size is not recorded; {mpp:g} µm is assumed from the size of its nuclei (--mpp changes that)."
            if assumed
            else f"Pixel size: {mpp:g} µm, as given."
        ),
        flush=True,
    )


@contextmanager
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
