"""Pairs files of outlines with their images, and reads them in the formats of all supported tools."""

from collections.abc import Mapping
from pathlib import Path

from ...files.json_input import read_json
from ...files.own_results import is_own_result
from .files import natural_key
from .geojson_files import OutlineFile, parse_geojson
from .imagej_files import read_imagej
from .labelme_files import is_labelme, parse_labelme

GEOJSON_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip")
OTHER_ENDINGS = (".json", ".json.gz", "_rois.zip", "_roiset.zip", ".roi", ".zip")
"""Used only if the rest of the name is that of an image, since other files have these endings too."""

IMAGEJ_ENDINGS = (".roi", ".zip")


def outline_files(folder: Path, images: Mapping[str, Path]) -> dict[str, Path]:
    """Returns the files of outlines in a folder by the stem of their image; case does not matter.

    The name before the ending is the stem of the image or its whole name (`a.tif.geojson`).

    Args:
        folder: the folder that holds them.
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
    """Reads a file of outlines: any dialect of GeoJSON, LabelMe's JSON, or ImageJ's ROIs.

    Args:
        path: the file.
        class_property: as in `read_geojson`.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the content cannot be used; the message names the object.
    """
    if path.name.lower().endswith(IMAGEJ_ENDINGS) and not path.name.lower().endswith(GEOJSON_ENDINGS):
        return read_imagej(path)
    content = read_json(path)
    if is_labelme(content):
        return parse_labelme(content, path)
    return parse_geojson(content, path, class_property)
