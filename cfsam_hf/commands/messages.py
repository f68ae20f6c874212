"""Text that is safe to print on a terminal, and errors as one line, for the command `cfsam` and for scripts."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ..files.plain_text import one_line

DEBUG_VARIABLE = "CFSAM_DEBUG"
TRACEBACK = "Traceback (most recent call last)"


def printable(text: str) -> str:
    """Escapes all control characters but line breaks."""
    return "\n".join(map(one_line, text.split("\n")))


def describe(error: BaseException, hint: str = "") -> str:
    """Describes an error in one line: its own words, or its kind if it has none.

    Args:
        error: what was raised.
        hint: appended to errors of a kind that is not expected.
    """
    if isinstance(error, MemoryError):
        return "not enough memory; use smaller batches or cut the image into parts"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    text = one_line(" ".join(str(error).split()))
    if isinstance(error, (ImportError, OSError, ValueError, TypeError)):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text}{hint}"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends a script whose input is wrong with one line on stderr and status 1 instead of a traceback.

    Wrong input raises `OSError`, `ValueError` or `TypeError`. Errors that contain a traceback, as those of worker
    processes do, are raised as they are, and so are all errors if the environment variable `CFSAM_DEBUG` is set.
    """
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        if os.environ.get(DEBUG_VARIABLE) or TRACEBACK in str(error):
            raise
        script = Path(sys.argv[0]).name
        sys.exit(f"{script}: error: {describe(error)} ({DEBUG_VARIABLE}=1 shows where)")
