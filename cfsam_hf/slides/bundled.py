"""The slide that the package ships, for the demo and for tests."""

from pathlib import Path


def demo_slide() -> Path:
    """
    A real Aperio slide: H&E of skin, 2,220 x 2,967 px at 0.499 micrometres per pixel, one level.

    It is CMU-1-Small-Region of OpenSlide's freely distributable test data, CC0 1.0.
    """
    return Path(__file__).parent / "demo" / "CMU-1-Small-Region.svs"


def demo_part() -> Path:
    """The part of `demo_slide` that the demo segments, as GeoJSON: 480 x 460 px, 0.055 mm2 of epidermis and dermis."""
    return Path(__file__).parent / "demo" / "part.geojson"
