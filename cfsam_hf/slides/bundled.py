"""The slide that the package ships, for the demo and for tests."""

from pathlib import Path

import numpy as np

from ..model.pixel_size import PixelSize
from .areas import read_areas
from .opening import open_slide


def demo_slide() -> Path:
    """
    A real Aperio slide: H&E of skin, 2,220 x 2,967 px at 0.499 micrometres per pixel, one level.

    It is CMU-1-Small-Region of OpenSlide's freely distributable test data, CC0 1.0.
    """
    return Path(__file__).parent / "demo" / "CMU-1-Small-Region.svs"


def demo_part() -> Path:
    """The part of `demo_slide` that the demo segments, as GeoJSON: 480 x 460 px, 0.055 mm2 of epidermis and dermis."""
    return Path(__file__).parent / "demo" / "part.geojson"


def demo_picture() -> tuple[np.ndarray, PixelSize | None]:
    """
    The part of `demo_slide` that the demo segments, as a picture.

    Returns:
        (460, 480, 3) uint8, and the pixel size that the slide states.
    """
    with open_slide(demo_slide()) as slide:
        x0, y0, x1, y1 = (round(side) for side in read_areas(demo_part(), slide).bounds)
        return slide.read_region(x0, y0, x1 - x0, y1 - y0), slide.pixel_size
