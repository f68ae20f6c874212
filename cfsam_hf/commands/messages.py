"""What went wrong, in one line for a person: for the command `cfsam`, and for scripts."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

DEBUG_VARIABLE = "CFSAM_DEBUG"
TRACEBACK = "Traceback (most recent call last)"


def one_line(text: str) -> str:
    """The text with line breaks and other control characters written out (`\\n`), as they can stand in file names."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def describe(error: BaseException, hint: str = "") -> str:
    """An error's own words, or its kind where it has none, as one line; a hint after those that nobody expected."""
    if isinstance(error, MemoryError):
        return "not enough memory; use smaller batches or cut the image into parts"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    text = one_line(" ".join(str(error).split()))
    if isinstance(error, (OSError, ValueError, TypeError)):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text}{hint}"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends a script whose input is wrong with one line on stderr and status 1, not with a traceback.

    Wrong input is what raises `OSError`, `ValueError` or `TypeError`, but for errors that bring a traceback along, as
    those of worker processes do. With the environment variable `CFSAM_DEBUG` set all errors go on.
    """
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        if os.environ.get(DEBUG_VARIABLE) or TRACEBACK in str(error):
            raise
        script = Path(sys.argv[0]).name
        sys.exit(f"{script}: error: {describe(error)} ({DEBUG_VARIABLE}=1 shows where)")
