"""The nuclei that another tool has outlined in an image: a file of outlines, or a label map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...model.contours import nucleus_contours, split_polygons
from ...model.pictures import IMAGE_SUFFIXES
from ..label_checks import label_map_fault
from ..polygons import Polygon, check_drawn, check_reach, shape_pixels
from .label_maps import read_label_map
from .label_names import label_files, part_pictures
from .object_roles import sort_objects
from .orientation import turn_outlines
from .outline_files import outline_files, read_outlines

REGION_CLASS, IGNORE_CLASS = "Region*", "Ignore*"
LABEL_MAP_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")


@dataclass(frozen=True, eq=False)
class GivenNuclei:
    """N nuclei as another tool gives them.

    Attributes:
        shapes: the polygons of each, one as a rule, each an exterior ring and its holes, `(K, 2)` xy in pixels.
        ids: `(N,)` int64, the id of each: that of the label map, else 1..N in the order of the file.
        notes: what was left out, a sentence each.
    """

    shapes: Sequence[Sequence[Polygon]]
    ids: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def read_given_nuclei(path: str | Path, height: int, width: int, image: Path | None = None) -> GivenNuclei:
    """Read the nuclei of an image of `height` x `width` pixels.

    Args:
        path: a label map (a picture or `.npy`), or GeoJSON, LabelMe's JSON or ImageJ's ROIs as `list_qupath` reads
            them. Regions are not nuclei and are left out.
        height, width: of the image in pixels.
        image: the image, if it is a file that may have an orientation tag.

    Raises:
        OSError: if the file is missing or damaged.
        ValueError: naming the file, for a file that is of another image or holds no nuclei.
    """
    path = Path(path)
    if path.suffix.lower() in LABEL_MAP_SUFFIXES:
        label_map = read_label_map(path)
        if label_map.shape != (height, width):
            raise ValueError(
                f"{path}: the label map is {label_map.shape[0]} x {label_map.shape[1]} but its image is {height} x "
                f"{width} (rows x columns)"
            )
        if fault := label_map_fault(label_map):
            raise ValueError(f"{path}: {fault}")
        given = nuclei_of_label_map(label_map)
    else:
        given = _outlined(path, height, width, image)
    if not len(given):
        raise ValueError(f"{path}: holds no nuclei")
    return given


def nuclei_of_label_map(label_map: np.ndarray) -> GivenNuclei:
    """The nuclei of a label map `(H, W)` of whole numbers, 0 background; ids may have gaps.

    Their outlines run along pixel edges.
    """
    ids, numbered = np.unique(label_map, return_inverse=True)
    first = int(len(ids) > 0 and ids[0] == 0)
    ids = ids[first:].astype(np.int64)
    consecutive = (numbered.reshape(label_map.shape) + 1 - first).astype(np.int32)
    contours = nucleus_contours(consecutive, np.zeros((len(ids), 4)))
    return GivenNuclei([split_polygons(rings) for rings in contours], ids)


def files_of_nuclei(folder: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """The file in a folder that holds the nuclei of each image, by the names of `list_qupath` and
    `list_instance_pairs`; files of outlines go first.

    Args:
        folder: where the files are; it may be that of the images.
        images: the images. Those without a file are left out.

    Raises:
        OSError: if `folder` is not a folder.
    """
    by_stem = {image.stem: image for image in images}
    together = any(image.parent.resolve() == folder.resolve() for image in images)
    labels = part_pictures(folder)[1] if together else label_files(folder, by_stem)[0]
    found = {**labels, **outline_files(folder, by_stem)}
    return {image: found[stem] for stem, image in by_stem.items() if stem in found}


def _outlined(path: Path, height: int, width: int, image: Path | None) -> GivenNuclei:
    content = read_outlines(path)
    if content.size not in (None, (height, width)):
        raise ValueError(
            f"{path}: is of an image of {content.size[0]} x {content.size[1]}, but the image is {height} x {width} "
            "(rows x columns)"
        )
    if image is not None:
        turn_outlines(content, image, path, (height, width))
    try:
        roles = sort_objects(content.features, REGION_CLASS, IGNORE_CLASS, (height, width))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    notes = [*content.notes, *roles.notes]
    if areas := len(roles.regions) + len(roles.ignored):
        notes.append(f"{areas} regions are not nuclei and were left out")
    shapes = [feature.polygons for feature in roles.nuclei]
    rings = [ring for polygons in shapes for polygon in polygons for ring in polygon]
    check_reach(rings, height, width, path, "of these outlines")
    inside = [position for position, shape in enumerate(shapes) if _touches(shape, height, width)]
    check_drawn(len(shapes) - len(inside), len(shapes), path, "of these outlines")
    if outside := len(shapes) - len(inside):
        notes.append(f"{outside} outlines outside the image were left out")
    return GivenNuclei(
        [shapes[position] for position in inside], np.arange(1, len(inside) + 1, dtype=np.int64), tuple(notes)
    )


def _touches(shape: Sequence[Polygon], height: int, width: int) -> bool:
    """Whether a shape holds a pixel of the image, or is so small that it lies between the centres of pixels."""
    if len(shape_pixels(shape, height, width)):
        return True
    low = np.min([polygon[0].min(axis=0) for polygon in shape], axis=0)
    high = np.max([polygon[0].max(axis=0) for polygon in shape], axis=0)
    centre = (low + high) / 2
    return bool((high - low <= 1).any() and (centre >= 0).all() and (centre < (width, height)).all())
