"""Where results go: the files of an image, all of them or none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..drawing.overlay import write_overlay
from ..files.atomic import staged_folder
from ..files.own_results import is_blank, is_own_result
from ..model.result import TABLE_COLUMNS, NucleiResult
from ..outputs import write_coco, write_csv, write_geojson, write_instance_map, write_rois, write_table
from ..outputs.imagej_rois import require_roifile
from ..outputs.placement import Placement, place_result
from ..outputs.summary import has_header


@dataclass(frozen=True)
class OutputKind:
    """A file that is written for each image.

    Attributes:
        ending: what follows the image's target in its name.
        write: writes a result and its image, (H, W, 3) uint8 RGB, to a path.
        in_slide: whether the coordinates are those of the slide, if the image is a tile of one. The other files belong
            to the tile's own pixels.
    """

    ending: str
    write: Callable[[NucleiResult, np.ndarray, Path], None]
    in_slide: bool = False


# Each writer is called by the name of its module-level function, so that it can be replaced.
OUTPUT_KINDS: dict[str, OutputKind] = {
    "labels": OutputKind("_instances.tif", lambda result, image, path: write_instance_map(result, path)),
    "geojson": OutputKind(".geojson", lambda result, image, path: write_geojson(result, path), in_slide=True),
    "overlay": OutputKind("_overlay.png", lambda result, image, path: write_overlay(result, image, path)),
    "csv": OutputKind("_nuclei.csv", lambda result, image, path: write_csv(result, path), in_slide=True),
    "coco": OutputKind("_coco.json", lambda result, image, path: write_coco(result, path)),
    "roi": OutputKind("_rois.zip", lambda result, image, path: write_rois(result, path)),
    "table": OutputKind(".parquet", lambda result, image, path: write_table(result, path), in_slide=True),
}
"""All that can be written for an image, by kind."""

DEFAULT_KINDS = ("labels", "geojson", "table", "overlay")
# Always written, and the last of an image's files to appear: once it exists, so do the others.
LAST_KIND = "table"


SLIDE_ENDINGS = ("_tissue.geojson", "_overview.png", "_labels.ome.tif", ".geojson.gz")
"""The endings of files that only slides have. An earlier run may have processed an image as a slide."""


class FileSink:
    """Writes the files of images into a folder.

    The files of an image appear together and replace all those of an earlier run; a kind that is no longer written is
    removed. `TARGET.parquet` appears last and disappears first, so a reader that finds it finds the
    complete set even if a run was killed between two files.

    Args:
        folder: the output folder.
        kinds: what to write, of `OUTPUT_KINDS`; the table is always written.

    Raises:
        ValueError: there is no such kind.
        ImportError: a kind needs a package that is not installed.
    """

    def __init__(self, folder: Path, kinds: Sequence[str] = DEFAULT_KINDS):
        self.kinds = chosen_kinds(kinds, OUTPUT_KINDS)
        if "roi" in kinds:
            require_roifile()
        self.folder = folder

    def path(self, target: PurePath, kind: str) -> Path:
        """The file of a kind."""
        return self.folder / target.parent / f"{target.name}{OUTPUT_KINDS[kind].ending}"

    def check(self, target: PurePath) -> None:
        """Makes sure that the results do not overwrite files of other origin, such as labels drawn by hand.

        Raises:
            FileExistsError, IsADirectoryError: there is such a file or folder.
        """
        for kind in self.kinds:
            path = self.path(target, kind)
            check_replaceable(path, partial(is_replaceable, path, kind))

    def write(
        self,
        result: NucleiResult,
        image: np.ndarray,
        target: PurePath,
        former: Sequence[PurePath] = (),
        placement: Placement | None = None,
    ) -> dict[str, Path]:
        """Writes the files of an image, all of them or none.

        Args:
            result: the image's nuclei.
            image: (H, W, 3) uint8 RGB.
            target: the common beginning of the files, relative to the folder.
            former: other targets of the same image, whose files are removed.
            placement: where the image lies in a slide, None if it is an image of its own.

        Returns:
            The files by kind.

        Raises:
            OSError: a file cannot be written.
        """
        files = {kind: self.path(target, kind) for kind in self.kinds}
        outdated = [(target, kind) for kind in OUTPUT_KINDS if kind not in self.kinds]
        outdated += [(other, kind) for other in former if other.parent == target.parent for kind in OUTPUT_KINDS]
        removed = [
            path.name
            for path, kind in ((self.path(*names), names[1]) for names in outdated)
            if path.is_file() and is_replaceable(path, kind)
        ]
        as_slide = (self.folder / target.parent / f"{target.name}{ending}" for ending in SLIDE_ENDINGS)
        removed += [path.name for path in as_slide if is_own_result(path)]
        with staged_folder(self.folder / target.parent, last=files[LAST_KIND].name, removed=removed) as stage:
            in_slide = result if placement is None else place_result(result, placement)
            for kind, path in files.items():
                output = OUTPUT_KINDS[kind]
                output.write(in_slide if output.in_slide else result, image, stage / path.name)
        return files


def chosen_kinds(wanted: Sequence[str], available: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of output that are wanted, with the table, in the order of those available.

    Raises:
        ValueError: there is no such kind.
    """
    unknown = sorted(set(wanted) - set(available))
    if unknown:
        raise ValueError(f"no output of the kind {unknown[0]!r}; choose from {', '.join(available)}")
    return tuple(kind for kind in available if kind in wanted or kind == LAST_KIND)


def check_replaceable(path: Path, is_own: Callable[[], bool]) -> None:
    """Makes sure that writing a file does not overwrite one of other origin.

    Args:
        path: the file to write.
        is_own: whether the file that is there may be replaced.

    Raises:
        FileExistsError, IsADirectoryError: there is such a file or folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder where a file is to be written")
    if path.exists() and not is_own():
        raise FileExistsError(f"{path} exists and was not written by cfsam; choose another folder with -o")


def is_own_or_blank(path: Path) -> bool:
    """Whether a file, of a kind that carries the package's name, is a result or holds nothing."""
    return is_own_result(path) or is_blank(path)


def is_replaceable(path: Path, kind: str) -> bool:
    """Whether a file of a kind may be replaced: it is a result, or holds nothing."""
    return has_header(path, TABLE_COLUMNS) if kind == "csv" else is_own_or_blank(path)
