"""The command `cfsam`: its exit status, and what it says when something goes wrong.

A sub-command's own module is imported when it is run, so that `--help` and a mistyped option answer at once.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from ..inference.allocator import keep_freed_memory
from .messages import describe, one_line
from .options import build_parser

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cfsam` with the given arguments (default: the process's) and returns its exit status.

    0: everything done. 1: something could not be done; each such thing has its line on stderr. 2: wrong usage.
    130: interrupted (Ctrl-C). 143: terminated.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if argv is None:
        keep_freed_memory()
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


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.exit(EXIT_USAGE)
    if args.command == "segment":
        if args.demo == bool(args.inputs):
            parser.error("segment: give INPUT files or folders, or --demo" + (", not both" if args.demo else ""))
        from .segment import run_segment

        return run_segment(args)
    if args.command == "data":
        from .data import run_data

        return run_data(args)
    if args.command == "evaluate":
        if not args.table and not (args.data and args.output):
            parser.error("evaluate: give --data and -o, or --table")
        if bool(args.fold_checkpoints) and not args.protocol:
            parser.error("evaluate: --fold-checkpoints needs --protocol pannuke")
        if args.types and not args.predictions:
            parser.error("evaluate: --types names the types of --predictions")
        for name in ("views", "autocast"):
            if getattr(args, name) and (args.predictions or args.baseline):
                parser.error(f"evaluate: --{name} is for checkpoints, not for --predictions or --baseline")
        from .evaluate import run_evaluate

        return run_evaluate(args)
    if args.command == "finetune":
        from .finetune import run_finetune

        return run_finetune(args)
    if args.command == "export":
        from .export import run_export

        return run_export(args)
    if args.command == "push":
        from .push import run_push

        return run_push(args)
    from .info import run_info

    return run_info(args)


def say(message: str) -> None:
    """Prints one line on stderr."""
    print(f"cfsam: {one_line(message)}", file=sys.stderr, flush=True)


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
