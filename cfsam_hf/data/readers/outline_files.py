"""Pairs files of outlines with their images, and reads them in the formats of all supported tools."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from ...files.archives import naming_archive
from ...files.json_input import ENDINGS, read_json
from ...files.own_results import is_own_result
from .files import OME, natural_key
from .geojson_files import OutlineFile, parse_geojson
from .hovernet_json import is_hovernet, parse_hovernet
from .imagej_files import read_imagej
from .labelme_files import is_labelme, parse_labelme

GEOJSON_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip", ".ndjson", ".geojsonl", ".geojsons")
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
            if stem not in images and f"{stem}{OME}" in images:
                stem += OME
            if ending in GEOJSON_ENDINGS or (stem in images and not is_own_result(file)):
                found[stem] = min(found.get(stem, (rank, file.name, file)), (rank, file.name, file))
                break
    return {stem: found[stem][2] for stem in sorted(found, key=natural_key)}


def is_outline_file(path: Path) -> bool:
    """Whether the name of a file has one of the endings of outlines."""
    return path.name.lower().endswith((*GEOJSON_ENDINGS, *OTHER_ENDINGS))


def read_outlines(path: Path, class_property: str | None = None) -> OutlineFile:
    """Reads a file of outlines: any dialect of GeoJSON, the JSON of LabelMe, HoVer-Net or CellViT, or ImageJ's ROIs.

    Args:
        path: the file.
        class_property: as in `read_geojson`.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the content cannot be used; the message names the object.
    """
    name = path.name.lower()
    if name.endswith(IMAGEJ_ENDINGS) and not name.endswith(GEOJSON_ENDINGS) and not _is_zipped_json(path):
        return read_imagej(path)
    content = read_json(path)
    if is_labelme(content):
        return parse_labelme(content, path)
    if is_hovernet(content):
        return parse_hovernet(content, path)
    return parse_geojson(content, path, class_property)


def _is_zipped_json(path: Path) -> bool:
    """Whether an archive holds JSON and no ROI, whatever its name."""
    if path.suffix.lower() != ".zip":
        return False
    with naming_archive(path), zipfile.ZipFile(path) as archive:
        names = [name.lower() for name in archive.namelist()]
    return any(name.endswith(ENDINGS) for name in names) and not any(name.endswith(".roi") for name in names)
