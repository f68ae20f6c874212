"""Converts COCO's run lengths of masks, plain and compressed, to pixels."""

from collections.abc import Sequence

import numpy as np

LONGEST_SHIFT = 60
"""Bits: a run length of more than 13 characters is longer than any image."""


def run_length_pixels(counts: str | Sequence[int], height: int, width: int) -> np.ndarray:
    """Returns the flat indices `row * width + column` of a mask's pixels.

    Args:
        counts: lengths of runs of background, mask, background, ... down the columns of the image; or their compressed
            text (`rleFrString` in the COCO API's maskApi.c).
        height, width: size of the image in pixels.

    Raises:
        ValueError: the lengths do not add up to the image.

    Example (the lower left pixel and the upper middle one):

    >>> run_length_pixels([1, 2, 3], height=2, width=3).tolist()
    [3, 1]
    >>> run_length_pixels("123", height=2, width=3).tolist()
    [3, 1]
    """
    try:
        lengths = np.array(_decompress(counts) if isinstance(counts, str) else counts)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"run lengths must be a list of whole numbers ({error})") from error
    if lengths.dtype == np.float64 and (np.abs(lengths) < 2**53).all() and (lengths == np.rint(lengths)).all():
        lengths = lengths.astype(np.int64)
    # Lengths beyond 64 bits are objects.
    integers = lengths.dtype == object and all(type(length) is int for length in lengths.ravel())
    if lengths.ndim != 1 or not (integers or np.issubdtype(lengths.dtype, np.integer)) or lengths.min(initial=0) < 0:
        raise ValueError("run lengths must be a list of whole numbers of at least 0")
    # Each one is checked before they are summed: a sum that wraps around would look valid and overrun memory.
    if lengths.max(initial=0) > height * width:
        raise ValueError(f"run lengths add up to more than {height} x {width}")
    lengths = lengths.astype(np.int64)
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
        if shift > LONGEST_SHIFT:
            raise ValueError("a compressed run length has too many characters")
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
