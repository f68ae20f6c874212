"""The command `cfsam`: its options, its exit status, and what it says when something goes wrong.

Only the standard library is imported here; a sub-command's own module is imported when it is run, so that `--help`
and a mistyped option answer at once.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from .version import __version__

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cfsam` with the given arguments (default: the process's) and returns its exit status.

    0: everything done. 1: something could not be done; each such thing has its line on stderr. 2: wrong usage.
    130: interrupted (Ctrl-C). 143: terminated.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        with _terminate_as_exception():
            return _run(args, parser)
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (`cfsam info | head`) has gone; without this the interpreter complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (OSError, ValueError, TypeError, MemoryError) as error:
        if args.debug:
            traceback.print_exc()
        say(f"error: {describe(error)}")
        return EXIT_FAILED


def build_parser() -> argparse.ArgumentParser:
    """The parser of `cfsam` and its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="cfsam", description="Finds, outlines and types the nuclei in H&E tissue images (CF-SAM)."
    )
    parser.add_argument("--version", action="version", version=f"cfsam_hf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_segment(commands)
    _add_info(commands)
    return parser


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
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
        "--mpp", type=_positive(float), help="pixel size of the images in micrometres (default: as the checkpoint's)"
    )
    parser.add_argument(
        "--checkpoint", help="folder or Hugging Face Hub id of a CF-SAM model (default: the bundled one)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=_positive(int), metavar="N", help="tiles per step (default: chosen by device)"
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
        help="write NAME_nuclei.csv or NAME_coco.json too",
    )
    parser.add_argument(
        "--max-pixels",
        type=_positive(int),
        metavar="N",
        help="refuse larger images (default: 268,435,456 = 16,384 squared)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info",
        help="what a checkpoint is",
        description="Says what a checkpoint is: architecture, types, pixel size, training data, metrics, licences.",
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="folder or Hugging Face Hub id (default: the bundled one)"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.command == "segment":
        if args.demo == bool(args.inputs):
            parser.error("segment: give INPUT files or folders, or --demo" + (", not both" if args.demo else ""))
        from .commands.segment import run_segment

        return run_segment(args)
    from .commands.info import run_info

    return run_info(args)


def _positive(kind: type):
    """An argparse type: a finite number of the given kind above 0."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(
                f"must be a{' whole' if kind is int else ''} number above 0, got {text!r}"
            )
        return value

    return parse


def say(message: str) -> None:
    """Prints one line on stderr."""
    print(f"cfsam: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text with line breaks and other control characters written out (`\\n`), as they can stand in file names."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def describe(error: BaseException) -> str:
    """What went wrong, as one line for a person: an error's own words, or its kind where it has none."""
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch-size or cut the image into parts"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    text = one_line(" ".join(str(error).split()))
    if isinstance(error, (OSError, ValueError, TypeError)):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


class _terminate_as_exception:
    """Turns SIGTERM into `SystemExit` while it lasts, so that unfinished files are removed as after Ctrl-C."""

    def __enter__(self):
        def stop(signum, frame):
            say("terminated")
            raise SystemExit(EXIT_TERMINATED)

        try:
            self._previous = signal.signal(signal.SIGTERM, stop)
        except ValueError:  # not in the main thread: the signal is not ours to handle
            self._previous = None
        return self

    def __exit__(self, *exception):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
