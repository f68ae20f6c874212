"""PNG files of few colours, small enough for a repository."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..files.own_results import SOFTWARE
from .outlines import Color
from .picture_files import png_texts

LARGEST_FILE = 400_000
PALETTES = (256, 128, 64, 32, 16)


def encode_small(page: Image.Image, kept: Sequence[Color], largest: int = LARGEST_FILE) -> bytes:
    """Encodes a picture with as many colours as keep the file under `largest` bytes, and with at least 16.

    Args:
        page: an RGB picture.
        kept: up to 15 RGB colours that must not change, such as those of text and outlines.
        largest: bytes.

    Returns:
        The PNG file.
    """
    pixels = np.asarray(page)
    for colors in PALETTES:
        own = page.quantize(colors - len(kept), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
        palette = Image.new("P", (1, 1))
        palette.putpalette([value for color in kept for value in color] + (own or [])[: 3 * (colors - len(kept))])
        # Pillow takes a colour that is near enough, not the nearest.
        indices = np.array(page.quantize(palette=palette, dither=Image.Dither.NONE))
        for index, color in enumerate(kept):
            indices[(pixels == color).all(axis=-1)] = index
        picture = Image.fromarray(indices)
        picture.putpalette(palette.getpalette() or [])
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True, pnginfo=png_texts({"Software": SOFTWARE}))
        if file.tell() <= largest:
            break
    return file.getvalue()
