"""Checks what a MATLAB file claims to hold before it is read, since memory is allocated for what it claims."""

import struct
import zlib
from pathlib import Path

HEADER = 128
MI_MATRIX, MI_COMPRESSED = 14, 15
MOST_EXPANSION = 1032
"""Bytes that one byte of Deflate can expand to."""

PREFIX = 4096
"""Bytes of an array that hold its flags, its shape, its name and the tag of its numbers."""


V4_HEADER = 20
V4_NUMBER_BYTES = (8, 4, 4, 2, 2, 1)
"""By the third digit of the format's number."""


def check_mat_sizes(path: Path) -> None:
    """Raises ValueError if an element of a MATLAB file up to version 7.2 claims more bytes than the file can hold."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER)
        if 0 in header[:4]:  # as in scipy: text in later versions, a number in version 4
            _check_version_4(header, size)
            return
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:
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


def _check_version_4(header: bytes, size: int) -> None:
    """Checks the first variable of a file of version 4: the length of its name, and its shape."""
    if len(header) < V4_HEADER:
        return
    orders = [order for order in "<>" if 0 <= struct.unpack(f"{order}i", header[:4])[0] < 5000]
    if not orders:
        raise ValueError("the first number is not that of a format")
    form, rows, columns, imaginary, name = struct.unpack(f"{orders[0]}5i", header[:V4_HEADER])
    digit = form % 100 // 10
    if digit >= len(V4_NUMBER_BYTES) or min(rows, columns, name) < 0:
        raise ValueError("the first variable has no valid header")
    claimed = rows * columns * V4_NUMBER_BYTES[digit] * (1 + (imaginary != 0)) + name
    if claimed > size:
        raise ValueError(f"a variable of {claimed:,} bytes in a file of {size:,}")


def _check_array(content: bytes, order: str, most: int) -> None:
    """Checks the claims of an array that starts with `content` and can have at most `most` bytes."""
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
