"""Where the tiles of a slide lie: read from their names, or from a CSV or JSON file that lists them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ..files.json_input import read_json
from ..outputs.placement import Placement
from .collect import Collection
from .sources import Job

NAMES = "names"
"""What stands for the names of the images in place of a file."""

IMAGE_COLUMNS = ("image", "name", "file", "filename", "file_name", "image_path", "path", "tile", "id")
AXIS_COLUMNS = {axis: (axis, f"{axis}0", f"{axis}_offset", f"offset_{axis}", f"tile_{axis}") for axis in "xy"}
SCALE_COLUMNS = ("downsample", "d")

# QuPath's exporter writes "slide [d=2,x=1024,y=2048,w=512,h=512].tif", others "slide_x1024_y2048.png".
_NUMBER_IN_NAME = r"(?<![A-Za-z0-9]){letter}[=_-]?(-?\d+(?:\.\d+)?)(?![A-Za-z0-9])"


def placement_in_name(name: str) -> Placement | None:
    """The placement that a file name states by the letters x and y; None if it states none.

    A downsampling is read from a name as QuPath writes it, `d=2`. Names with bare numbers, whose order differs from
    tool to tool, state nothing.

    >>> placement_in_name("slide [d=2,x=1024,y=2048,w=512,h=512]")
    Placement(x=1024.0, y=2048.0, downsample=2.0)
    >>> placement_in_name("slide_x10_y-20"), placement_in_name("slide_10_20")
    (Placement(x=10.0, y=-20.0, downsample=1.0), None)

    Args:
        name: of a file, without its ending.

    Raises:
        ValueError: the name states x or y twice, or an impossible downsampling.
    """
    found = {}
    for letter in "xy":
        numbers = re.findall(_NUMBER_IN_NAME.format(letter=f"[{letter}{letter.upper()}]"), name)
        if len(numbers) > 1:
            raise ValueError(f"the name states {letter} {len(numbers)} times ({', '.join(numbers)})")
        if not numbers:
            return None
        found[letter] = float(numbers[0])
    scale = re.findall(r"[\[,]d=(\d+(?:\.\d+)?)[,\]]", name)
    return Placement(found["x"], found["y"], float(scale[0]) if scale else 1.0)


def read_placements(path: Path) -> dict[str, Placement]:
    """The placements that a file lists, by the name of the image.

    A CSV file has the columns `image`, `x` and `y`, and optionally `downsample`. A JSON file has a list of objects
    with these members, or maps names to such objects or to `[x, y]`.

    Raises:
        OSError: the file cannot be read.
        ValueError: naming the file and the entry, for content that cannot be used.
    """
    from ..data.readers.text_files import read_csv

    rows: Sequence[Any] = _json_rows(read_json(path), path) if _is_json(path) else read_csv(path)
    found: dict[str, Placement] = {}
    for number, row in enumerate(rows, start=1):
        try:
            name, placement = _entry(row)
        except ValueError as error:
            raise ValueError(f"{path}: entry {number} cannot be used: {error}") from error
        if found.setdefault(name, placement) != placement:
            raise ValueError(f"{path}: entry {number} places {name!r} a second time")
    if not found:
        raise ValueError(f"{path}: lists no tiles; it needs the columns image, x and y")
    return found


def place_jobs(collection: Collection, source: str) -> Collection:
    """The jobs with their placements; images without one are reported as problems.

    Args:
        collection: the images.
        source: `"names"` for the names of the images, or a file as for [`read_placements`]. An entry of the file is
            the image's name in the outputs, its file name, or either without the ending.

    Raises:
        OSError, ValueError: the file cannot be used.
    """
    listed = None if source == NAMES else read_placements(Path(source))
    placed: list[Job] = []
    problems = list(collection.problems)
    used: set[str] = set()
    for job in collection.jobs:
        try:
            placement = _find(job, listed, used)
        except ValueError as error:
            problems.append(f"{job.source.name}: {error}")
            continue
        placed.append(replace(job, placement=placement))
    notes = list(collection.notes)
    if listed and (unused := len(listed) - len(used)):
        notes.append(f"{source}: {unused} of its {len(listed)} entries name none of the images")
    return Collection(placed, problems, notes)


def _find(job: Job, listed: Mapping[str, Placement] | None, used: set[str]) -> Placement:
    name = PurePath(job.source.name)
    if listed is None:
        placement = placement_in_name(name.stem)
        if placement is None:
            raise ValueError(
                "its name does not state where the tile lies, as in slide_x1024_y2048.png or "
                "'slide [x=1024,y=2048,w=512,h=512].png'; list the tiles in a CSV or JSON file"
            )
        return placement
    for candidate in (str(name), str(name.with_suffix("")), name.name, name.stem):
        if candidate in listed:
            used.add(candidate)
            return listed[candidate]
    raise ValueError("the file of offsets has no entry for this image")


def _is_json(path: Path) -> bool:
    return path.name.lower().endswith((".json", ".json.gz", ".json.zip"))


def _json_rows(content: Any, path: Path) -> list[Any]:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a list of tiles, or an object of tiles by name")
    rows = []
    for name, value in content.items():
        if isinstance(value, list) and len(value) == 2:
            value = {"x": value[0], "y": value[1]}
        rows.append({"image": name, **value} if isinstance(value, dict) else {"image": name})
    return rows


def _entry(row: Any) -> tuple[str, Placement]:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with image, x and y, found {row!r}")
    row = {str(key).strip().lower(): value for key, value in row.items()}
    name = next((row[column] for column in IMAGE_COLUMNS if row.get(column)), None)
    if not isinstance(name, str):
        raise ValueError("it names no image; a column must be one of " + ", ".join(IMAGE_COLUMNS))
    values = {axis: next((row[c] for c in columns if c in row), None) for axis, columns in AXIS_COLUMNS.items()}
    scale = next((row[column] for column in SCALE_COLUMNS if row.get(column) not in (None, "")), 1.0)
    # Paths of other systems count by their last part.
    name = name.strip().replace("\\", "/")
    name = name if not PurePath(name).is_absolute() and ":" not in name else name.rpartition("/")[2]
    return name, Placement(_number(values["x"], "x"), _number(values["y"], "y"), _number(scale, "downsample"))


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, found {value!r}") from None
