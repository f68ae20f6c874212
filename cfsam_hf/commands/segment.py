"""`cfsam segment`: finds the nuclei in images and writes label maps, polygons, tables, pictures and a summary."""

import argparse
import contextlib
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from .cluster_options import add_cluster_options, cluster_options, remote_folder
from .demo import DEMO_TEXT, TYPES_TEXT, demo_collection, demo_place
from .loading import apply_backend, load_pipeline, precision_note
from .options import (
    add_autocast_option,
    add_backend_option,
    add_debug_option,
    add_mpp_option,
    add_offsets_option,
    add_outlines_option,
    add_style_option,
    add_views_option,
    check_backend,
    positive,
    setting,
    share,
)
from .segment_report import SegmentReport, warnings_as_lines
from .slide_options import add_slide_options, restricts, where_to_look
from .terminal import EXIT_FAILED, EXIT_OK, UsageError, say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..inference import Collection, Outcome


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares `cfsam segment` and its options."""
    parser = subparsers.add_parser(
        "segment",
        help="find the nuclei in images",
        description=(
            "Finds the nuclei in images and writes, for each image NAME.*, OUT/NAME_instances.tif (label map), "
            "NAME.geojson (polygons, for QuPath), NAME.parquet (table), NAME_overlay.png (picture), and one "
            "OUT/summary.csv with counts and densities per type. For a whole slide it writes NAME.parquet "
            "(GeoParquet), NAME.geojson, or NAME.geojson.gz for many nuclei, NAME_overview.png and "
            "NAME_tissue.geojson."
        ),
        epilog=(
            "A folder is searched with its sub-folders, which are mirrored below OUT; a pattern in quotes is mirrored "
            "from its first wildcard on. Results of earlier runs are never treated as images, in any folder. Images "
            "with the same name and different endings keep them: a.png and a.tif give a.png.geojson and "
            "a.tif.geojson. If an image fails, stderr has a line about it, the other images are segmented, and the "
            "exit status is 1. A second run replaces all files of an image; several runs may write into one folder "
            "at the same time. In summary.csv, a name that a spreadsheet would run as a formula begins with an "
            "apostrophe."
        ),
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image or slide, folder of them, or quoted pattern")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder for the results; created if needed"
    )
    parser.add_argument(
        "--demo", action="store_true", help="segment a part of the H&E slide that comes with the package"
    )
    add_mpp_option(parser)
    parser.add_argument(
        "--checkpoint",
        help="cfsam-tiny or cfsam-tiny-open, which are bundled, or the folder or Hugging Face Hub id of a CF-SAM "
        "model (default: cfsam-tiny)",
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=positive(int), metavar="N", help="tiles per step (default: depends on the device)"
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
        choices=("csv", "coco", "roi", "labels"),
        default=[],
        help="also write NAME_nuclei.csv, NAME_coco.json or NAME_rois.zip (for ImageJ) of images, or "
        "NAME_labels.ome.tif of slides (a pyramid of the label map; images always get theirs); can be repeated",
    )
    parser.add_argument(
        "--threshold",
        type=share,
        metavar="P",
        help="leave out nuclei with a score (probability that the outline overlaps a true nucleus with IoU > .5) "
        "below P (default: 0; nuclei below the checkpoint's minimum_score are always left out)",
    )
    parser.add_argument(
        "--decoding",
        nargs="+",
        type=setting,
        metavar="NAME=VALUE",
        help="thresholds that replace those of the checkpoint, such as nuclei_threshold=0.3 minimum_score=0 if faint "
        "nuclei are missed (an unknown name lists all names)",
    )
    add_views_option(parser)
    add_style_option(parser)
    add_autocast_option(parser)
    add_backend_option(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images whose results in OUT are complete and were made from the same file by the same version, "
        "checkpoint and options, and the regions of slides that an interrupted run has done",
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
        help="page of TIFF files (frame of animations) that hold several pictures, counted from 1; without it such "
        "files are refused",
    )
    add_outlines_option(parser)
    add_offsets_option(parser)
    add_slide_options(parser)
    add_cluster_options(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="report at the end for how long the network was busy and idle (images)"
    )
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `cfsam segment` with its parsed arguments and returns the exit status."""
    from ..bases.bundled import DEFAULT_CHECKPOINT
    from ..files.writable import check_writable
    from ..inference import DEFAULT_KINDS, FileSink, RunRecord, run_jobs
    from ..inference.collect import split_slides
    from ..inference.remote_output import RemoteRecord, RemoteSlideSink
    from ..inference.slide_run import run_slides
    from ..inference.slide_sink import DEFAULT_SLIDE_KINDS, SLIDE_KINDS, SlideSink
    from ..inference.threads import use_physical_cores
    from ..model.pipeline_cfsam import checkpoint_name
    from ..model.pixel_size import check_mpp

    if args.demo == bool(args.inputs):
        raise UsageError("give INPUT files or folders, or --demo" + (", not both" if args.demo else ""))
    if args.demo and (args.offsets or args.outlines):
        raise UsageError("--offsets and --outlines are for images of yours, not for the demo")
    if args.outlines and (args.threshold is not None or args.decoding):
        raise UsageError("--threshold and --decoding have no meaning for --outlines, which are given")
    if restricts(args) and (args.outlines or args.offsets):
        raise UsageError("--tissue, --roi and --exclude are for slides, --outlines and --offsets for images")
    cluster = cluster_options(args)
    if cluster is not None and args.backend not in (None, "torch"):
        raise UsageError("--backend is for this machine alone; the workers of a cluster use torch")
    check_backend(args)
    if args.mpp is not None:
        check_mpp(args.mpp, "--mpp")
    where = where_to_look(args) if restricts(args) or not args.demo else demo_place()
    remote = remote_folder(args)
    output = Path(args.output)
    if remote is None:
        check_writable(output)
    collection, outlines = (demo_collection(), None) if args.demo else _collect(args, output)
    if args.demo:
        print(DEMO_TEXT, flush=True)
    for note in collection.notes:
        say(f"note: {note}")
    for problem in collection.problems:
        say(f"error: {problem}")
    if not collection.jobs:
        return EXIT_FAILED
    images, slides = (
        split_slides(collection.jobs, mpp=args.mpp, all_slides=restricts(args) or cluster is not None)
        if outlines is None
        else (collection.jobs, [])
    )
    kinds = [kind for kind in DEFAULT_KINDS if args.overlay or kind != "overlay"] + args.also
    slide_kinds = [*DEFAULT_SLIDE_KINDS, *(kind for kind in args.also if kind in SLIDE_KINDS)]
    slide_sink = SlideSink(output, slide_kinds) if remote is None else RemoteSlideSink(remote, slide_kinds)
    report = SegmentReport(len(collection.jobs), debug=args.debug)
    with warnings_as_lines():
        record = RunRecord(output) if remote is None else RemoteRecord(remote)
        use_physical_cores()
        # The workers of a cluster get copies of it, each on its own device.
        pipe = load_pipeline(args.checkpoint, args.device if cluster is None else "cpu")
        precision = precision_note(args.autocast, pipe) if cluster is None else None
        if precision:
            say(f"note: {precision}")
        if args.demo and checkpoint_name(pipe.model) == DEFAULT_CHECKPOINT:
            print(TYPES_TEXT, flush=True)
        apply_backend(args.backend, pipe, args.onnx)
        with record:
            run_images: Callable[..., Generator[Outcome, None, None]] = run_jobs
            run_all_slides: Callable[..., Generator[Outcome, None, None]] = run_slides
            if cluster is not None:
                from ..inference.cluster.engine import run_slides_on_ray

                run_all_slides = partial(run_slides_on_ray, cluster=cluster)
            if outlines is not None:
                from ..inference.given_outlines import run_outline_jobs

                run_images = partial(run_outline_jobs, outlines=outlines)
            options = _pipeline_options(args)
            for outcomes in (
                run_images(images, pipe, FileSink(output, kinds), record, options, resume=args.resume),
                run_all_slides(slides, pipe, slide_sink, record, options, where=where, resume=args.resume),
            ):
                with contextlib.closing(outcomes):
                    for outcome in outcomes:
                        report.show(outcome)
    if cluster is not None:
        from ..inference.cluster.cohort_files import write_cohort

        write_cohort(slide_sink.place, record.entries, report.errors, str(remote or output.resolve().name))
    report.finish(record.images, record.summary, missing=len(collection.problems))
    clock = getattr(pipe, "network_clock", None)
    if args.verbose and images and report.position and clock is not None:
        print(
            f"network: busy for {clock.busy:.1f} s, waited for {100 * clock.waiting_share:.1f} % of the time between "
            "its first tile and its last"
        )
    return EXIT_FAILED if report.failed or collection.problems else EXIT_OK


def _collect(args: argparse.Namespace, output: Path) -> "tuple[Collection, dict[PurePath, Path] | None]":
    """The images, and the file of given outlines for each, by its target."""
    from ..inference import collect_images, place_jobs
    from ..model.pictures import DEFAULT_MAX_PIXELS

    found = collect_images(args.inputs, output, page=args.page, max_pixels=args.max_pixels or DEFAULT_MAX_PIXELS)
    outlines = None
    if args.outlines:
        from ..inference.given_outlines import pair_outlines

        found, outlines = pair_outlines(found, Path(args.outlines))
    return found if args.offsets is None else place_jobs(found, args.offsets), outlines


def _pipeline_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the pipeline that the arguments give."""
    given = {
        "threshold": args.threshold,
        "views": args.views,
        "style": args.style,
        "autocast_dtype": args.autocast,
        "decoding": dict(args.decoding or {}) or None,
    }
    return {
        "mpp": args.mpp,
        "batch_size": args.batch_size,
        "max_pixels": args.max_pixels,
        **{name: value for name, value in given.items() if value is not None},
    }
