"""The slide that the package ships, for the demo and for tests."""

from pathlib import Path

import numpy as np

from ..model.pixel_size import PixelSize
from .opening import open_slide

# Left, top, width and height of `demo_picture` in pixels of the slide.
_PICTURE = (966, 735, 480, 460)


def demo_slide() -> Path:
    """
    A real Aperio slide: H&E of skin, 2,220 x 2,967 px at 0.499 micrometres per pixel, one level.

    It is CMU-1-Small-Region of OpenSlide's freely distributable test data, CC0 1.0.
    """
    return Path(__file__).parent / "demo" / "CMU-1-Small-Region.svs"


def demo_part() -> Path:
    """The part of `demo_slide` that the demo segments, as GeoJSON: 256 x 363 px, 0.023 mm2 of epidermis and dermis.

    Its place fits the network's grid, so that four windows cover it.
    """
    return Path(__file__).parent / "demo" / "part.geojson"


def demo_picture() -> tuple[np.ndarray, PixelSize | None]:
    """
    0.055 mm2 of `demo_slide` as a picture: epidermis and dermis, more than twice as much as `demo_part`.

    Returns:
        (460, 480, 3) uint8, and the pixel size that the slide states.
    """
    with open_slide(demo_slide()) as slide:
        return slide.read_region(*_PICTURE), slide.pixel_size
