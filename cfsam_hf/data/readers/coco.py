"""COCO: one JSON file with images, annotations (polygons or run lengths) and categories."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..polygons import check_overlap_rule, check_reach, paint_pixels, shape_pixels
from ..problems import is_collecting, refuse
from ..records import Tile, TileRecord, make_tile
from .files import read_image, some_of
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
    """List the images of a COCO file.

    Types 1..T are the categories in the order of their ids; a file with one category has no types. Annotations with
    `iscrowd` are no nuclei: their area is not annotated. Images are named by `file_name` without suffix, folders in
    it joined by "_". An image's own `mpp`, where the file has one, takes precedence.

    Args:
        path: the JSON file, or a folder that holds it.
        split: must be None; COCO keeps splits in several files.
        annotations: name of the JSON file in the folder; needed where there are several.
        images: folder to which `file_name` refers. Where None, that of the JSON file, or `images` beside it.
        overlap: who keeps a pixel under several masks: "later" in the file, or the "smaller" mask.
        mpp: micrometres per pixel, None if unknown.
        tissue: tissue of all images.
        allow_empty: accept images without nuclei.

    Raises:
        OSError: if the JSON file or an image is missing, or the file is damaged.
        ValueError: for a split or an unknown rule, no COCO file, several JSON files, or ids that refer to nothing.
    """
    check_split(split, (), "A COCO file")
    check_overlap_rule(overlap)
    json_path = _json_file(Path(path), annotations)
    content = _read(json_path)
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    if len(names) != len(content["categories"]):
        raise ValueError(f"{json_path}: two categories have one id")
    type_of_category = {category: type_id for type_id, category in enumerate(sorted(names), start=1)}
    type_names = {type_id: names[category] for category, type_id in type_of_category.items()}
    by_image: dict[Any, list[dict]] = {entry["id"]: [] for entry in content["images"]}
    if len(by_image) != len(content["images"]):
        raise ValueError(f"{json_path}: two images have one id")
    for entry in content["annotations"]:
        if entry.get("image_id") not in by_image or entry.get("category_id") not in names:
            refuse(
                ValueError(
                    f"{json_path}: annotation {entry.get('id')} refers to image {entry.get('image_id')!r} and "
                    f"category {entry.get('category_id')!r}, one of which is not in the file"
                )
            )
            continue
        by_image[entry["image_id"]].append(entry)
    paths = _image_files(json_path, [entry["file_name"] for entry in content["images"]], images)
    records = [
        TileRecord(
            dataset="coco",
            id=str(Path(entry["file_name"]).with_suffix("")).replace("/", "_"),
            image_path=image_path,
            label_path=json_path,
            decode=decode_coco,
            tissue=tissue,
            mpp=entry.get("mpp") or mpp,
            type_names=type_names if len(type_names) > 1 else {},
            allow_empty=allow_empty,
            options={
                "overlap": overlap,
                "annotations": by_image[entry["id"]],
                "types": type_of_category,
                "size": (entry.get("height"), entry.get("width")),
            },
        )
        for entry, image_path in zip(content["images"], paths, strict=True)
    ]
    return finish_listing(records, split, json_path, "images in the COCO file")


def decode_coco(record: TileRecord) -> Tile:
    """Read one image and draw its masks; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    stated = record.options["size"]
    if None not in stated and stated != (height, width):
        raise ValueError(
            f"{record.label_path}: says that {record.image_path} is {stated[0]} x {stated[1]}, it is {height} x "
            f"{width} (rows x columns)"
        )
    entries: Sequence[Mapping[str, Any]] = record.options["annotations"]
    pixels = [_mask_pixels(entry, height, width, record) for entry in entries]
    crowd = np.array([bool(entry.get("iscrowd")) for entry in entries], dtype=bool)
    annotated = None
    if crowd.any():
        annotated = np.ones(height * width, dtype=bool)
        annotated[np.concatenate([pixels[position] for position in np.flatnonzero(crowd)])] = False
        annotated = annotated.reshape(height, width)
    single = np.flatnonzero(~crowd)
    instance_map, positions, overlaps = paint_pixels(
        [pixels[position] for position in single], height, width, overlap=str(record.options["overlap"])
    )
    type_map = None
    if record.type_names:
        types = np.array([record.options["types"][entries[position]["category_id"]] for position in single], dtype=int)
        type_map = np.concatenate([[0], types[positions]])[instance_map]
    return make_tile(record, image, instance_map, type_map, annotated, overlaps=overlaps)


def _mask_pixels(entry: Mapping[str, Any], height: int, width: int, record: TileRecord) -> np.ndarray:
    segmentation = entry.get("segmentation")
    where = f"{record.label_path}: annotation {entry.get('id')} of {record.image_path.name}"
    if not segmentation:
        raise ValueError(f"{where} has no segmentation; boxes alone are not enough")
    try:
        if isinstance(segmentation, Mapping):
            if list(segmentation["size"]) != [height, width]:
                raise ValueError(f"its mask is {segmentation['size']}, the image {height} x {width} (rows x columns)")
            return run_length_pixels(segmentation["counts"], height, width)
        parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
        check_reach(parts, height, width, record.label_path, record.image_path)
        # Parts are pieces of one nucleus, which occlusion has torn; where they overlap a pixel counts once.
        return np.unique(shape_pixels([[part] for part in parts], height, width))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be used ({error})") from error


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


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path}: not a JSON file that can be read, or truncated ({error})") from error
    needed = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}
    for part, members in needed.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path}: no list {part!r}; is it a COCO file?")
        for entry in entries:
            if not isinstance(entry, dict) or any(member not in entry for member in members):
                raise ValueError(
                    f"{path}: every entry of {part!r} needs {' and '.join(members)}, found {entry!r:.100}"
                )
    return content


def _image_files(json_path: Path, names: list[str], folder: str | Path | None) -> list[Path]:
    """Return the images' files, all in the first folder that has the first of them."""
    folders = (
        [Path(folder)] if folder is not None else [json_path.parent / part for part in ("", "images", "../images")]
    )
    chosen = next((candidate for candidate in folders if names and (candidate / names[0]).is_file()), folders[0])
    missing = [name for name in names if not (chosen / name).is_file()]
    # Where all problems are listed, each image is told of when its tile is read.
    if missing and not is_collecting():
        raise FileNotFoundError(f"{chosen}: no image {some_of(missing)} of {json_path}")
    return [chosen / name for name in names]
