"""A slide reduced to a small picture, read in blocks so that memory does not grow with the slide."""

import math

import numpy as np

from .resampling import block_side
from .slide import Slide

# Micrometres per pixel assumed for a slide whose pixel size is neither stated nor given: a 40x objective.
ASSUMED_MPP = 0.25
# Micrometres per pixel at which tissue is searched for: a nucleus covers about one pixel.
OVERVIEW_MPP = 8.0
# Pixels of the longer side; larger slides are reduced further.
MAX_SIDE = 8192
# Pixels along one side of what is decoded at once.
_BLOCK = 4096


def overview_steps(slide: Slide, mpp: float = OVERVIEW_MPP) -> tuple[float, float]:
    """Level-0 pixels (x, y) per pixel of an overview of about `mpp` micrometres per pixel; at least 1 each."""
    size = slide.pixel_size
    sides = (ASSUMED_MPP, ASSUMED_MPP) if size is None else (size.x, size.y)
    steps = [max(mpp / side, 1.0) for side in sides]
    excess = max(1.0, *(length / step / MAX_SIDE for length, step in zip(slide.size, steps, strict=True)))
    # Whole pixels that cover the slide exactly.
    counts = [max(1, round(length / (step * excess))) for length, step in zip(slide.size, steps, strict=True)]
    return slide.size[0] / counts[0], slide.size[1] / counts[1]


def read_overview(slide: Slide, mpp: float = OVERVIEW_MPP) -> np.ndarray:
    """
    The whole slide at about `mpp` micrometres per pixel; area means of the best level.

    Args:
        slide: the slide; if it states no pixel size, 0.25 micrometres are assumed.
        mpp: micrometres per pixel of the result. It is coarser where a side would exceed 8,192 pixels, and never finer
            than level 0.

    Returns:
        (h, w, 3) uint8. One of its pixels covers `overview_steps` pixels of level 0.

    Raises:
        OSError: the slide is damaged; the message names it.
    """
    step_x, step_y = overview_steps(slide, mpp)
    width, height = round(slide.size[0] / step_x), round(slide.size[1] / step_y)
    picture = np.empty((height, width, 3), dtype=np.uint8)
    level = slide.levels[slide.best_level(min(step_x, step_y))]
    # Whole blocks of the resampler, so that none is read twice.
    unit = max(block_side(step / level.downsample) for step in (step_x, step_y))
    side = max(1, math.floor(_BLOCK * level.downsample / max(step_x, step_y) / unit)) * unit
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = min(side, height - top), min(side, width - left)
            block = slide.read_scaled(left * step_x, top * step_y, columns, rows, (step_x, step_y))
            picture[top : top + rows, left : left + columns] = block
    return picture
