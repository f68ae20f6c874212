"""Checks that no level of a slide is black by mistake: all tissue would silently be lost."""

import numpy as np

from .slide import Slide

_GRID, _SIDE = 4, 32
# Values of a channel that a black picture stays within after compression.
_BLACK = 12


def check_levels(slide: Slide) -> None:
    """
    Compares samples of all levels; a few tiles of each are decoded.

    Raises:
        OSError: a level is damaged, or is black where another one is not; the message names the file and the level.
    """
    if len(slide.levels) == 1:
        return
    black = np.array([_black_samples(slide, number) for number in range(len(slide.levels))])
    for number, samples in enumerate(black):
        if samples.all() and not black.all():
            level = slide.levels[number]
            raise OSError(
                f"level {number} of {slide.path!r} ({level.width} x {level.height} px) is black while others are not; "
                "get the file again, or convert it to a pyramidal TIFF again"
            )


def _black_samples(slide: Slide, number: int) -> list[bool]:
    """For each of some squares spread over a level, whether it is black."""
    level = slide.levels[number]
    squares = []
    for row in range(_GRID):
        for column in range(_GRID):
            x, y = (round((i + 0.5) / _GRID * n) for i, n in ((column, level.width), (row, level.height)))
            pixels = slide.read_level(number, x - _SIDE // 2, y - _SIDE // 2, _SIDE, _SIDE)
            # What lies beyond a small level is white.
            inside = pixels[max(0, _SIDE // 2 - y) :, max(0, _SIDE // 2 - x) :]
            inside = inside[: level.height - max(0, y - _SIDE // 2), : level.width - max(0, x - _SIDE // 2)]
            squares.append(bool(inside.max(initial=0) <= _BLACK))
    return squares
