"""COCO: one JSON file with images, annotations (polygons or run lengths) and categories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..polygons import are_coordinates, check_overlap_rule, check_reach, paint_pixels, shape_pixels
from ..records import Tile, TileRecord, make_tile
from .coco_files import find_images, is_crowd, read_coco
from .files import read_image
from .listing import check_split, finish_listing
from .run_lengths import run_length_pixels


def list_coco(
    path: str | Path,
    split: str | None = None,
    annotations: str | None = None,
    images: str | Path | None = None,
    overlap: str = "later",
    mpp: float | None = None,
    tissue: str | None = None,
    allow_empty: bool = True,
) -> list[TileRecord]:
    """Lists the images of a COCO file.

    Types 1..T are the names of the categories in the order of their ids; a file with one name has no types.
    Without a list of categories, their ids are their names.
    Annotations with `iscrowd` are not nuclei: their area is not annotated. If all annotations of the file have it,
    they are single objects, since some converters set it for every run-length mask. Images are named by `file_name`
    without its extension, with folders joined by "_". An image's own `mpp`, if the file states one, takes precedence.

    Args:
        path: the JSON file, or a folder that holds it.
        split: must be None; COCO keeps splits in several files.
        annotations: name of the JSON file in the folder; needed if there are several.
        images: folder to which `file_name` refers. If None, that of the JSON file, or `images` in it or beside it.
            Folders of another computer at the start of `file_name`, and its backslashes, do not matter.
        overlap: which mask keeps a pixel that several cover: the "later" one in the file, or the "smaller" one.
        mpp: micrometres per pixel, None if unknown.
        tissue: tissue of all images.
        allow_empty: accept images without nuclei.

    Raises:
        OSError: the JSON file or an image is missing, or the file is damaged.
        ValueError: a split is given, the rule is unknown, there is no COCO file or there are several JSON files, or an
            id refers to nothing.
    """
    check_split(split, (), "A COCO file")
    check_overlap_rule(overlap)
    json_path = _json_file(Path(path), annotations)
    content = read_coco(json_path)
    # Some exporters give the name of a class to its super-category as well.
    type_of_name = {name: type_id for type_id, name in enumerate(dict.fromkeys(content.categories.values()), start=1)}
    type_of_category = {category: type_of_name[name] for category, name in content.categories.items()}
    type_names = {type_id: name for name, type_id in type_of_name.items()}
    places = find_images(json_path, [entry["file_name"] for entry in content.images], images)
    records = [
        TileRecord(
            dataset="coco",
            id=str(place.with_suffix("")).strip("/").replace("/", "_"),
            image_path=image_path,
            label_path=json_path,
            decode=decode_coco,
            tissue=tissue,
            mpp=entry.get("mpp") or mpp,
            type_names=type_names if len(type_names) > 1 else {},
            allow_empty=allow_empty,
            options={
                "overlap": overlap,
                "annotations": content.annotations[entry["id"]],
                "types": type_of_category,
                "size": (entry.get("height"), entry.get("width")),
                "crowds_are_objects": content.all_crowds,
                "unnamed": content.unnamed,
            },
        )
        for entry, (image_path, place) in zip(content.images, places, strict=True)
    ]
    return finish_listing(records, split, json_path, "images in the COCO file")


def decode_coco(record: TileRecord) -> Tile:
    """Reads one image and draws its masks; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    stated = record.options["size"]
    if None not in stated and stated != (height, width):
        raise ValueError(
            f"{record.label_path}: says that {record.image_path} is {stated[0]} x {stated[1]}, it is {height} x "
            f"{width} (rows x columns)"
        )
    entries: Sequence[dict[str, Any]] = record.options["annotations"]
    pixels = [_mask_pixels(entry, height, width, record) for entry in entries]
    crowds = [position for position, entry in enumerate(entries) if is_crowd(entry)]
    notes: list[str] = []
    if record.options["unnamed"] and record.type_names:
        notes.append("the file has no list of categories: the types are named by their ids")
    annotated = None
    if crowds:
        marked = f"{len(crowds)} of {len(entries)} annotations of {record.image_path.name} have iscrowd 1"
        if record.options["crowds_are_objects"]:
            notes.append(f"{marked}, like all others in the file: read as single objects")
            crowds = []
        else:
            notes.append(f"{marked}: their area is not annotated")
            annotated = np.ones(height * width, dtype=bool)
            annotated[np.concatenate([pixels[position] for position in crowds])] = False
            annotated = annotated.reshape(height, width)
    others = set(crowds)
    single = [position for position in range(len(entries)) if position not in others]
    instance_map, positions, overlaps = paint_pixels(
        [pixels[position] for position in single], height, width, overlap=str(record.options["overlap"])
    )
    type_map = None
    if record.type_names:
        types = np.array(
            [record.options["types"][entries[position]["category_id"]] for position in single], dtype=np.int64
        )
        type_map = np.concatenate([[0], types[positions]])[instance_map]
    return make_tile(record, image, instance_map, type_map, annotated, overlaps=overlaps, notes=notes)


def _mask_pixels(entry: Mapping[str, Any], height: int, width: int, record: TileRecord) -> np.ndarray:
    segmentation = entry.get("segmentation")
    where = f"{record.label_path}: annotation {entry.get('id')} of {record.image_path.name}"
    if not segmentation:
        raise ValueError(f"{where} has no segmentation; boxes alone are not enough")
    try:
        if isinstance(segmentation, Mapping):
            size = segmentation.get("size")
            if size != [height, width]:
                raise ValueError(f"its mask is {size!r:.60}, the image {height} x {width} (rows x columns)")
            return run_length_pixels(segmentation.get("counts", ""), height, width)
        parts = _polygons(segmentation)
        check_reach(parts, height, width, record.label_path, record.image_path)
        # Parts are pieces of one nucleus that was partly covered; a pixel in several of them counts once.
        return np.unique(shape_pixels([[part] for part in parts], height, width))
    except ValueError as error:
        raise ValueError(f"{where} cannot be used ({error})") from error


def _polygons(segmentation: Any) -> list[np.ndarray]:
    """The polygons of a segmentation, `(K, 2)` xy each.

    COCO uses a list of polygons, each `[x, y, x, y, ...]`. Converters also write a single such polygon without the
    outer list, or one as a list of `[x, y]`; neither is ambiguous, since a polygon has at least six numbers.
    """
    if not isinstance(segmentation, list):
        raise ValueError("segmentation must be run lengths or a list of polygons, each a list x, y, x, y, ...")
    is_flat = all(isinstance(value, int | float) for value in segmentation)
    is_pairs = len(segmentation) > 2 and all(isinstance(part, list) and len(part) == 2 for part in segmentation)
    if is_flat or is_pairs:
        segmentation = [segmentation]
    polygons = []
    for part in segmentation:
        try:
            numbers = np.array(part, dtype=np.float64).ravel()
        except (TypeError, ValueError, OverflowError):
            numbers = np.array([np.nan])
        if len(numbers) % 2 or not are_coordinates(numbers):
            raise ValueError("a polygon must be a list of pairs of finite numbers x, y, x, y, ...")
        polygons.append(numbers.reshape(-1, 2))
    return polygons


def _json_file(path: Path, name: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if name is not None:
        return path / name
    found = sorted([*path.glob("*.json"), *(path / "annotations").glob("*.json")])
    if not found:
        raise FileNotFoundError(f"{path}: no .json file here or in its folder annotations")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found[:5])
        raise ValueError(f"{path}: several .json files ({names}); pass annotations='<name>'")
    return found[0]
