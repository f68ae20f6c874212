"""Errors of compressed files and archives, which come in a dozen kinds and rarely name the file."""

import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGED = (
    *(EOFError, OSError, ValueError, RuntimeError, NotImplementedError, struct.error),
    *(zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile),
)
"""What gzip and zipfile raise for damaged, encrypted and unknown content."""


@contextmanager
def naming_archive(path: Path) -> Iterator[None]:
    """Raises the errors of a compressed file as `OSError` that names it; those that name it already pass.

    Args:
        path: the file that the block reads.
    """
    try:
        yield
    except DAMAGED as error:
        if str(path) in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise OSError(f"{path}: the archive cannot be read, or is truncated ({reason})") from error
