"""COCO's run lengths of masks, plain and compressed, to pixels."""

from collections.abc import Sequence

import numpy as np


def run_length_pixels(counts: str | Sequence[int], height: int, width: int) -> np.ndarray:
    """Return the flat indices `row * width + column` of a mask's pixels.

    Args:
        counts: lengths of runs of background, mask, background, ... down the columns of the image; or their compressed
            text (`rleFrString` in the COCO API's maskApi.c).
        height, width: size of the image in pixels.

    Raises:
        ValueError: if the lengths do not add up to the image.

    Example (the lower left pixel and the upper middle one):

    >>> run_length_pixels([1, 2, 3], height=2, width=3).tolist()
    [3, 1]
    >>> run_length_pixels("123", height=2, width=3).tolist()
    [3, 1]
    """
    lengths = np.array(_decompress(counts) if isinstance(counts, str) else counts)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or lengths.min(initial=0) < 0:
        raise ValueError("run lengths must be a list of whole numbers of at least 0")
    if lengths.sum() != height * width:
        raise ValueError(f"run lengths add up to {lengths.sum()}, not to {height} x {width}")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    columns, rows = np.divmod(np.flatnonzero(inside), height)
    return rows * width + columns


def _decompress(text: str) -> list[int]:
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"compressed run lengths have no character {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return lengths
