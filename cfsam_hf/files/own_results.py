"""Telling files that this package wrote from files that belong to someone else."""

import os
import zlib

SOFTWARE = "cfsam_hf"
"""The name that every file of results carries in its metadata."""

SEARCHED_BYTES = 2**16
GZIP = b"\x1f\x8b"


def is_own_result(path: str | os.PathLike[str]) -> bool:
    """Whether this package wrote the file as a result: a label map, an overlay, polygons, ROIs, a table.

    The answer comes from the content, so it holds in any folder and after renaming: each format carries the package's
    name in metadata near the beginning of the file, or of what a gzip file unpacks to (Parquet and ZIP archives: near
    the end). CSV has no room for metadata and is never recognised. A folder search for images leaves out what this
    function recognises; a label map that the caller names as such, for instance as a prediction to score, is a valid
    input.

    Args:
        path: any file.

    Returns:
        False also for a file that is missing, unreadable, empty or not a regular file.
    """
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(SEARCHED_BYTES)
            if SOFTWARE.encode() in (_unpacked(head) if head.startswith(GZIP) else head):
                return True
            if not head.startswith((b"PAR1", b"PK")):
                return False
            file.seek(max(0, os.fstat(file.fileno()).st_size - SEARCHED_BYTES))
            return SOFTWARE.encode() in file.read()
    except OSError:
        return False


def _unpacked(head: bytes) -> bytes:
    """The beginning of what a gzip file contains, from its own beginning; empty if it is damaged."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, SEARCHED_BYTES)
    except zlib.error:
        return b""


def is_blank(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds nothing, or only zero bytes and white space, as a power failure can leave it.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        while chunk := file.read(SEARCHED_BYTES):
            if chunk.strip(b"\0\t\n\r "):
                return False
    return True
