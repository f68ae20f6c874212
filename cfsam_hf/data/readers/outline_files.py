"""Files of outlines beside images: which belong to which image, and reading them whatever tool wrote them."""

from collections.abc import Mapping
from pathlib import Path

from ...files.own_results import is_own_result
from .files import natural_key
from .geojson_files import OutlineFile, parse_geojson
from .imagej_files import read_imagej
from .labelme_files import is_labelme, parse_labelme
from .text_files import read_json

GEOJSON_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip")
OTHER_ENDINGS = (".json", ".json.gz", "_rois.zip", "_roiset.zip", ".roi", ".zip")
"""Taken only where the rest of the name is that of an image: other files have these endings, too."""

IMAGEJ_ENDINGS = (".roi", ".zip")


def outline_files(folder: Path, images: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of outlines in a folder by the stem of their image, in any mixture of upper and lower case.

    The name before the ending is the stem of the image or its whole name (`a.tif.geojson`).

    Args:
        folder: where they lie.
        images: images by stem.
    """
    stems = {image.name: stem for stem, image in images.items()}
    found: dict[str, tuple[int, str, Path]] = {}
    for file in folder.iterdir():
        for rank, ending in enumerate((*GEOJSON_ENDINGS, *OTHER_ENDINGS)):
            if not file.name.lower().endswith(ending) or file.name.startswith(".") or not file.is_file():
                continue
            name = file.name[: -len(ending)]
            stem = stems.get(name, name)
            if ending in GEOJSON_ENDINGS or (stem in images and not is_own_result(file)):
                found[stem] = min(found.get(stem, (rank, file.name, file)), (rank, file.name, file))
                break
    return {stem: found[stem][2] for stem in sorted(found, key=natural_key)}


def is_outline_file(path: Path) -> bool:
    """Whether the name of a file has one of the endings of outlines."""
    return path.name.lower().endswith((*GEOJSON_ENDINGS, *OTHER_ENDINGS))


def read_outlines(path: Path, class_property: str | None = None) -> OutlineFile:
    """Read a file of outlines: GeoJSON in its dialects, LabelMe's JSON, or ImageJ's ROIs.

    Args:
        path: the file.
        class_property: as in `read_geojson`.

    Raises:
        OSError: if the file is missing or damaged.
        ValueError: naming the object, for content that cannot be used.
    """
    if path.name.lower().endswith(IMAGEJ_ENDINGS) and not path.name.lower().endswith(GEOJSON_ENDINGS):
        return read_imagej(path)
    content = read_json(path)
    if is_labelme(content):
        return parse_labelme(content, path)
    return parse_geojson(content, path, class_property)
