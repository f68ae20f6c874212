"""`cfsam finetune`: trains a checkpoint's adapter on the user's annotations and scores it before and after."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .messages import describe, one_line, printable
from .options import add_debug_option, add_mpp_option, positive, share
from .terminal import EXIT_FAILED, EXIT_OK, say


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam finetune` and its options."""
    parser = subparsers.add_parser(
        "finetune",
        help="train a checkpoint's adapter on your own annotations",
        description=(
            "Trains the adapter of a checkpoint (the encoder stays frozen) on images with QuPath's GeoJSON exports or "
            "label maps, holds some images out, and scores the checkpoint on them before and after. Writes "
            "OUT/adapter (the trained part), OUT/model (the whole model, for cfsam segment --checkpoint OUT/model), "
            "OUT/finetune.md and .json (scores and settings), OUT/before_after.png, OUT/before and OUT/after (scores "
            "with intervals, and per tile) and OUT/report.html (curves)."
        ),
        epilog=(
            "The same command resumes an interrupted run from its last checkpoint. In QuPath: File, Export objects as "
            "GeoJSON, one file per image, named like the image. The classes of the nuclei are the types; annotations "
            "of the class Region* bound the area in which all nuclei are outlined, Ignore* excludes areas; an image "
            "without nuclei needs an export too. The input is checked before anything is written. The decoding "
            "parameters are those of the checkpoint, before and after."
        ),
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--annotations",
        metavar="DIR_OR_GEOJSON",
        help="folder with STEM.geojson, or with label maps STEM_instances.png (or STEM.png) and optional "
        "STEM_types.png; or one GeoJSON file (default: the folder of the images)",
    )
    parser.add_argument(
        "--from",
        dest="checkpoint",
        default="cfsam-tiny",
        metavar="CHECKPOINT",
        help="checkpoint to start from: cfsam-tiny (the default) or cfsam-tiny-open, which are bundled, or the folder "
        "or Hugging Face Hub id of a CF-SAM model or of a SAM",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder of the run: new, empty, or that of the interrupted run to resume",
    )
    add_mpp_option(parser)
    parser.add_argument(
        "--types",
        metavar="A,B,C",
        help="names of the types, in order (default: the classes found; required for STEM_types.png)",
    )
    parser.add_argument(
        "--annotated-only", action="store_true", help="skip images without annotations (default: an error)"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--held-out", nargs="+", metavar="STEM", help="images to hold out (default: a random sample)")
    part.add_argument(
        "--held-out-share",
        type=share,
        default=0.2,
        metavar="P",
        help="share of the images to hold out; of a single image, one end with that share of its nuclei (default: .2)",
    )
    part.add_argument("--no-held-out", action="store_true", help="train on all images, without scores")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the held-out sample, the crops and new weights (default: 0)"
    )
    parser.add_argument("--steps", type=positive(int), metavar="N", help="training steps (default: 600)")
    parser.add_argument(
        "--minutes",
        type=positive(float),
        metavar="M",
        help="limit the steps to what fits into M minutes, estimated by timing a few steps",
    )
    parser.add_argument("--batch-size", type=positive(int), metavar="N", help="crops per step (default: 8)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that prepare crops (default: 1)")
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="YAML recipe instead of the built-in one (examples/recipes/own_data.yaml); its base, data and output_dir "
        "are ignored",
    )
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU even if there is a GPU")
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes and prints the scores; returns the exit status."""
    if args.cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        from ..training.finetune import FinetuneOptions, finetune
        from ..training.launching import TrainingInterrupted, TrainingStopped
    except ImportError as error:
        raise OSError(f"cfsam finetune needs more packages ({error}): pip install 'cfsam_hf[train]'") from error
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    options = FinetuneOptions(
        checkpoint=args.checkpoint,
        mpp=args.mpp,
        types=None if args.types is None else tuple(name.strip() for name in args.types.split(",") if name.strip()),
        annotated_only=args.annotated_only,
        held_out=() if args.no_held_out else None if args.held_out is None else tuple(args.held_out),
        held_out_share=args.held_out_share,
        seed=args.seed,
        steps=args.steps,
        minutes=args.minutes,
        batch_size=args.batch_size,
        workers=args.workers,
        recipe=args.recipe,
    )
    annotations = args.images if args.annotations is None else args.annotations
    with _log_on_stderr():
        try:
            done = finetune(args.images, annotations, args.output, options, _print_line)
        except TrainingInterrupted as stop:
            say(str(stop))
            return stop.exit_status
        except TrainingStopped as stop:
            say(f"error: {describe(OSError(str(stop)))}")
            return EXIT_FAILED
    if done.was_done:
        print(f"this run is already finished in {one_line(str(done.folder))}:")
    print(f"\n{printable(done.table)}" if done.table else "nothing was held out, so there are no scores")
    print(f"model, adapter, scores and pictures -> {one_line(str(done.folder))} (finetune.md explains the files)")
    return EXIT_OK


def _print_line(sentence: str) -> None:
    print(one_line(sentence), flush=True)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Prints the log of the training on stderr."""
    logger = logging.getLogger("cfsam_hf.training")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
