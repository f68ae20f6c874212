"""Writing pictures so that they are recognised as this package's own, and never segmented as images of tissue."""

import os
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files.atomic import atomic_path
from ..files.own_results import SOFTWARE
from ..model.result import __version__


def write_picture(
    picture: Image.Image,
    path: str | os.PathLike[str],
    *,
    texts: Mapping[str, str] | None = None,
    compress_level: int = 6,
) -> None:
    """Writes a picture as PNG or JPEG, whole or not at all, with the package's name in its metadata.

    Args:
        picture: what to write.
        path: the file; an existing one is replaced. Its ending decides the format.
        texts: further texts of a PNG file, by their keys.
        compress_level: of a PNG file, from 1 (fast) to 9 (small).

    Raises:
        ValueError: the ending is none of .png, .jpg and .jpeg.
        OSError: the file cannot be written.
    """
    ending, software = os.path.splitext(path)[1].lower(), f"{SOFTWARE} {__version__}"
    options: dict[str, Any]
    if ending == ".png":
        info = png_texts({"Software": software, **(texts or {})})
        options = {"format": "PNG", "pnginfo": info, "compress_level": compress_level}
    elif ending in (".jpg", ".jpeg"):
        options = {"format": "JPEG", "comment": software}
    else:
        raise ValueError(f"{os.fspath(path)}: the name of a picture must end in .png, .jpg or .jpeg")
    with atomic_path(path) as working:
        picture.save(working, **options)


def png_texts(texts: Mapping[str, str]) -> PngInfo:
    """Texts for Pillow's writer of PNG files, by their keys."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return info
