"""What a MATLAB file claims to hold, checked before it is read: memory is taken for what the claims say."""

import struct
import zlib
from pathlib import Path

HEADER = 128
MI_MATRIX, MI_COMPRESSED = 14, 15
MOST_EXPANSION = 1032
"""Bytes that a byte of Deflate can stand for."""

PREFIX = 4096
"""Bytes of an array that hold its flags, its shape, its name and the tag of its numbers."""


def check_mat_sizes(path: Path) -> None:
    """Raise ValueError where an element of a MATLAB 5 to 7.2 file claims more bytes than the file can hold.

    Files of other versions are not looked at.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None or 0 in header[:4]:
            return
        place = HEADER
        while place + 8 <= size:
            file.seek(place)
            kind, length = struct.unpack(f"{order}II", file.read(8))
            if length > size - place - 8:
                raise ValueError(f"an element of {length:,} bytes in a file of {size:,}")
            if kind == MI_COMPRESSED:
                content = zlib.decompressobj().decompress(file.read(length), PREFIX)
                _check_array(content, order, MOST_EXPANSION * length)
            elif kind == MI_MATRIX:
                file.seek(place)
                _check_array(file.read(PREFIX), order, length)
            place += 8 + length


def _check_array(content: bytes, order: str, most: int) -> None:
    """Check the claims of an array, of which `content` is the beginning; it can have `most` bytes."""
    if len(content) < 8:
        return
    kind, length = struct.unpack(f"{order}II", content[:8])
    if kind != MI_MATRIX:
        raise ValueError("a variable is not an array")
    if length > most:
        raise ValueError(f"an array of {length:,} bytes where there are at most {most:,}")
    place = 8
    # Flags, shape, name, numbers.
    for _ in range(4):
        if place + 8 > len(content):
            return
        kind, part = struct.unpack(f"{order}II", content[place : place + 8])
        if kind >> 16:  # up to four bytes beside the tag
            place += 8
            continue
        if part > length:
            raise ValueError(f"a part of {part:,} bytes in an array of {length:,}")
        place += 8 + part + -part % 8
