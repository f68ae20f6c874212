"""Reads and checks COCO's JSON file, and finds the images that it names."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...files.json_input import read_json
from ..problems import is_collecting, refuse
from .files import some_of

NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}
FOLDERS = ("", "images", "../images")
"""Where the images may be, relative to the JSON file."""


@dataclass
class CocoFile:
    """A COCO file.

    Attributes:
        path: the JSON file.
        images: its entries, each with `id` and `file_name`.
        annotations: the annotations of each image, by its id, in the order of the file.
        categories: names by id, in the order of the ids; empty if the annotations have none.
        unnamed: whether the file has no list of categories, so that their names are their ids.
        crowds: annotations with `iscrowd`.
        all_crowds: whether all annotations are crowds, which are then single objects, as some converters write them.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)
    categories: dict[Any, str] = field(default_factory=dict)
    unnamed: bool = False
    crowds: int = 0
    all_crowds: bool = False


def read_coco(path: Path) -> CocoFile:
    """Reads and checks a file.

    The list of categories may be missing. Text and number are the same id ("7" and 7) where one refers to the other.

    Raises:
        OSError: the file is missing, truncated or not JSON.
        ValueError: an entry has the wrong type, or an id occurs twice or refers to nothing; the message names it.
    """
    content = read_json(path)
    if isinstance(content, dict) and content.get("categories") is None:
        content["categories"] = []
    for part, members in NEEDED.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path}: no list {part!r}; is it a COCO file?")
        for entry in entries:
            if not isinstance(entry, dict) or any(member not in entry for member in members):
                raise ValueError(
                    f"{path}: every entry of {part!r} needs {' and '.join(members)}, found {entry!r:.100}"
                )
    for part in ("images", "categories"):
        ids = [_identifier(entry["id"], f"{path}: the id of an entry of {part!r}") for entry in content[part]]
        if len(set(ids)) != len(ids):
            raise ValueError(f"{path}: two {part} have the same id")
        texts = [number for number in ids if isinstance(number, str)]
        if 0 < len(texts) < len(ids):
            raise ValueError(
                f"{path}: the id of an entry of {part!r} is the text {texts[0]!r:.100}, that of another one a number; "
                "all must be of one kind"
            )
    for number, entry in enumerate(content["images"]):
        _check_image(entry, f"{path}: entry {number} of 'images'")
    names = {entry["id"]: _category_name(entry, path) for entry in content["categories"]}
    unnamed = not names
    if unnamed:
        names = _ids_as_names(content["annotations"], path)
    found = CocoFile(
        path,
        content["images"],
        {entry["id"]: [] for entry in content["images"]},
        {number: names[number] for number in sorted(names, key=_order)},
        unnamed and len(names) > 0,
    )
    for number, entry in enumerate(content["annotations"]):
        _add(found, entry, number)
    total = sum(map(len, found.annotations.values()))
    found.all_crowds = found.crowds == total > 0
    return found


def is_crowd(entry: dict[str, Any]) -> bool:
    """Whether an annotation is a group of objects."""
    return entry.get("iscrowd") in (1, "1")


def find_images(json_path: Path, names: Sequence[str], folder: str | Path | None) -> list[tuple[Path, PurePosixPath]]:
    """Finds the images that a file names, with their paths below the folder that holds them.

    Names may have backslashes and folders of another computer; the longest end of such a name that is a file counts.

    Args:
        json_path: the COCO file.
        names: `file_name` of each image.
        folder: folder of the images; if None, that of the JSON file, `images` in it or `images` beside it.

    Raises:
        FileNotFoundError: an image is missing; up to five are named.
        ValueError: two names lead to the same file.
    """
    folders = [json_path.parent / part for part in FOLDERS] if folder is None else [Path(folder)]
    found: list[tuple[Path, PurePosixPath]] = []
    missing: list[str] = []
    for name in names:
        place = _find(name, folders)
        if place is None:
            missing.append(name)
            ending = _ends(name)[0]
            place = folders[0] / ending, ending
        found.append(place)
    # When all problems are being listed, each image is reported when its tile is read.
    if missing and not is_collecting():
        raise FileNotFoundError(
            f"{folders[0]}: no image {some_of(missing)} of {json_path}; if they lie elsewhere, pass images='<folder>'"
        )
    owners: dict[Path, str] = {}
    for (path, _), name in zip(found, names, strict=True):
        if (first := owners.setdefault(path, name)) != name:
            refuse(ValueError(f"{json_path}: the images {first!r} and {name!r} are both found at {path}"))
    return found


def _find(name: str, folders: Sequence[Path]) -> tuple[Path, PurePosixPath] | None:
    for ending in _ends(name):
        for folder in folders:
            if (path := folder / ending).is_file():
                return path, ending
    return None


def _ends(name: str) -> list[PurePosixPath]:
    """The name as a relative path, then its ever shorter ends; an absolute path comes last."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "/"]
    ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    return [*ends, path] if path.is_absolute() else ends


def _add(found: CocoFile, entry: dict[str, Any], number: int) -> None:
    """Assigns an annotation to its image."""
    what = f"annotation {entry.get('id', f'number {number}')}"
    image = _known(_identifier(entry["image_id"], f"{found.path}: image_id of {what}"), found.annotations)
    category = entry.get("category_id")
    if category is not None:
        category = _known(_identifier(category, f"{found.path}: category_id of {what}"), found.categories)
    if image not in found.annotations or (category not in found.categories and found.categories):
        refuse(
            ValueError(
                f"{found.path}: {what} refers to image {image!r} and category {category!r}, one of which is not in "
                "the file"
            )
        )
        return
    found.annotations[image].append(entry | {"category_id": category})
    found.crowds += is_crowd(entry)


def _ids_as_names(annotations: Sequence[dict[str, Any]], path: Path) -> dict[Any, str]:
    """The ids of categories that have no names, with themselves as names; none if an annotation has no category."""
    ids = [entry.get("category_id") for entry in annotations]
    if None in ids:
        return {}
    for number, value in enumerate(ids):
        _identifier(value, f"{path}: category_id of annotation number {number}")
    return {value: str(value) for value in ids}


def _order(number: Any) -> tuple[bool, Any]:
    """Sorts ids, texts after numbers."""
    return isinstance(number, str), number


def _known(value: Any, known: Container[Any]) -> Any:
    """The id among the known ones that a value means."""
    if value in known:
        return value
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
    other = int(value) if is_number else str(value)
    return other if other in known else value


def _check_image(entry: dict[str, Any], what: str) -> None:
    name = entry["file_name"]
    if not isinstance(name, str) or PurePosixPath(name.replace("\\", "/")).name in ("", ".."):
        raise ValueError(f"{what}: file_name must be the name of a file, found {name!r:.100}")
    for member in ("height", "width"):
        value = entry.get(member)
        if isinstance(value, str) and value.isdecimal():
            entry[member] = int(value)
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{what}: {member} must be a number of pixels, found {value!r:.100}")
    mpp = entry.get("mpp")
    if mpp is not None and (isinstance(mpp, bool) or not isinstance(mpp, int | float) or not 0 <= mpp < float("inf")):
        raise ValueError(f"{what}: mpp must be a number of micrometres per pixel, found {mpp!r:.100}")


def _category_name(entry: dict[str, Any], path: Path) -> str:
    name = entry["name"]
    if isinstance(name, bool) or not isinstance(name, int | float | str) or not str(name).strip():
        raise ValueError(f"{path}: the name of category {entry['id']!r} must be text, found {name!r:.100}")
    return str(name).strip()


def _identifier(value: Any, what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{what} must be a number or text, found {value!r:.100}")
    return value
