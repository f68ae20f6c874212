"""The command `cfsam`: its exit status, and what it prints on stderr when something goes wrong.

Every module of this package that has a function `add_parser` is a sub-command: `add_parser` declares its options and
sets `run`, the function that executes it. A command module imports what takes long to import in `run`, so that help
and usage errors appear at once.
"""

import argparse
import importlib
import importlib.metadata
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType, TracebackType

from .. import __version__
from .messages import describe, one_line

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


class UsageError(Exception):
    """An invalid combination of options that argparse cannot reject; `main` prints it below the command's usage."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cfsam` with the given arguments (default: those of the process) and returns its exit status.

    0: everything was done. 1: something could not be done; stderr has a line for each such thing. 2: wrong usage.
    130: interrupted (Ctrl-C). 143: terminated.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.exit(EXIT_USAGE)
    if argv is None:
        from ..inference.allocator import keep_freed_memory

        keep_freed_memory()
    try:
        with _terminate_as_exception():
            return args.run(args)
    except UsageError as error:
        command: argparse.ArgumentParser = args.parser
        command.error(str(error))
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (`cfsam info | head`) has gone; without this the interpreter complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ImportError, OSError, ValueError, TypeError, MemoryError) as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        say(f"error: {describe(error)}")
        return EXIT_FAILED


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of `cfsam` and its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="cfsam", description="Finds, outlines and types the nuclei in H&E tissue images (CF-SAM)."
    )
    parser.add_argument("--version", action="version", version=f"cfsam_hf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    package = importlib.import_module(__package__)
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{__package__}.{found.name}")
        if hasattr(module, "add_parser"):
            module.add_parser(commands)
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser


def say(message: str) -> None:
    """Prints one line on stderr."""
    print(f"cfsam: {one_line(message)}", file=sys.stderr, flush=True)


class _terminate_as_exception:
    """Turns SIGTERM into `SystemExit` within the block, so that unfinished files are removed as after Ctrl-C."""

    def __enter__(self) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            say("terminated")
            raise SystemExit(EXIT_TERMINATED)

        try:
            self._previous = signal.signal(signal.SIGTERM, stop)
        except ValueError:  # only the main thread may set a handler
            self._previous = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
