"""Your own images with QuPath's GeoJSON exports, one per image; regions bound the annotated area."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ..polygons import check_overlap_rule, check_reach, rasterise_shapes, shape_pixels
from ..problems import is_collecting
from ..records import UNKNOWN_TYPE, Tile, TileRecord, make_tile
from .files import images_by_stem, pair_files, read_image
from .geojson_files import GeoFeature, read_geojson
from .listing import check_split, finish_listing

LARGE = 20
"""An outline whose box is this many times the median box is looked at: it may be a region and no nucleus."""

ENCLOSED = 3
"""A large outline around at least so many nuclei is taken for a region whose class was forgotten."""


def list_qupath(
    path: str | Path,
    split: str | None = None,
    type_names: Mapping[int, str] | None = None,
    region_class: str = "Region*",
    ignore_class: str = "Ignore*",
    overlap: str = "later",
    mpp: float | None = None,
    tissue: str | None = None,
    allow_empty: bool = True,
    annotations: str | Path | None = None,
    annotated_only: bool = False,
) -> list[TileRecord]:
    """List the images of a folder that have `<stem>.geojson` beside them (QuPath: File, Export objects as GeoJSON).

    Annotations, detections and cells (their nuclei) are nuclei alike, in pixels of the image. Their class is the type,
    a nucleus without class has an unknown type; where no nucleus has a class, the data set has no types. Annotations
    of the class "Region*" bound the area in which all nuclei are outlined; what lies outside, or in an "Ignore*"
    annotation, is not annotated. Without regions the whole image is.

    Args:
        path: the folder.
        split: must be None.
        type_names: names of the type ids 1..T. Where None, the classes found in all files, in alphabetical order: give
            them where several folders must agree.
        region_class, ignore_class: patterns of class names, `*` stands for anything.
        overlap: who keeps a pixel under several outlines: "later" in the file, or the "smaller" one.
        mpp: micrometres per pixel, None if unknown; the export does not tell.
        tissue: tissue of all images.
        allow_empty: accept images without nuclei (a region without nuclei is a statement, too).
        annotations: folder of the exports where it is another; or one export, of the image of its stem (of the only
            image, whatever its name), which then is the only tile.
        annotated_only: leave images without an export out, which is an error otherwise.

    Raises:
        OSError: if nothing is there, one of a pair is missing or a file is damaged.
        ValueError: for a split or an unknown rule.
    """
    check_split(split, (), "A QuPath folder")
    check_overlap_rule(overlap)
    folder = Path(path)
    if not folder.is_dir():
        return finish_listing([], split, folder, "a folder")
    images = images_by_stem(folder)
    label_folder = folder if annotations is None else Path(str(annotations))
    if label_folder.is_file():
        file = label_folder
        stem = next(iter(images)) if len(images) == 1 else file.stem
        images = {name: image for name, image in images.items() if name == stem}
        labels, label_folder = {stem: file}, file.parent
    elif label_folder.is_dir():
        labels = {file.stem: file for file in label_folder.glob("*.geojson")}
    else:
        raise FileNotFoundError(f"{label_folder}: no such folder or file")
    if annotated_only:
        images = {stem: image for stem, image in images.items() if stem in labels}
    pairs = pair_files(images, labels, ".geojson file", folder, label_folder)
    patterns = (region_class, ignore_class)
    if type_names is None:
        features = [feature for file in labels.values() for feature in _read_for_names(file)]
        found = {feature.name for feature in features if feature.name and not _matches(feature, patterns)}
        type_names = dict(enumerate(sorted(found), start=1))
    records = [
        TileRecord(
            dataset="qupath",
            id=stem,
            image_path=image,
            label_path=label,
            decode=decode_qupath,
            tissue=tissue,
            mpp=mpp,
            type_names=dict(type_names),
            allow_empty=allow_empty,
            options={"overlap": overlap, "region_class": region_class, "ignore_class": ignore_class},
        )
        for stem, (image, label) in pairs.items()
    ]
    return finish_listing(records, split, folder, "images with .geojson files of the same stem")


def decode_qupath(record: TileRecord) -> Tile:
    """Read one image and rasterise its outlines; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    features = read_geojson(record.label_path)
    regions, ignored = (
        [feature for feature in features if _matches(feature, (str(record.options[option]),))]
        for option in ("region_class", "ignore_class")
    )
    others = {id(feature) for feature in (*regions, *ignored)}
    nuclei = [feature for feature in features if id(feature) not in others]
    rings = [ring for feature in nuclei for polygon in feature.polygons for ring in polygon]
    check_reach(rings, height, width, record.label_path, record.image_path)
    _refuse_forgotten_regions(nuclei, height, width, record)
    instance_map, positions, overlaps = rasterise_shapes(
        [feature.polygons for feature in nuclei], height, width, overlap=str(record.options["overlap"])
    )
    annotated = None
    if regions or ignored:
        annotated = np.ones((height, width), dtype=bool)
        if regions:
            annotated = rasterise_shapes([feature.polygons for feature in regions], height, width)[0] > 0
        annotated &= rasterise_shapes([feature.polygons for feature in ignored], height, width)[0] == 0
    type_map = None
    if record.type_names:
        types = np.array([_type_of(feature, record) for feature in nuclei], dtype=np.int64)
        type_map = np.concatenate([[0], types[positions]])[instance_map]
    return make_tile(record, image, instance_map, type_map, annotated, overlaps=overlaps)


def _read_for_names(path: Path) -> list[GeoFeature]:
    try:
        return read_geojson(path)
    except (OSError, ValueError):
        if is_collecting():  # the file is told of when its tile is read
            return []
        raise


def _matches(feature: GeoFeature, patterns: tuple[str, ...]) -> bool:
    return feature.name is not None and any(fnmatchcase(feature.name, pattern) for pattern in patterns)


def _type_of(feature: GeoFeature, record: TileRecord) -> int:
    if feature.name is None:
        return UNKNOWN_TYPE
    for type_id, name in record.type_names.items():
        if name == feature.name:
            return type_id
    raise ValueError(
        f"{record.label_path}: unknown class {feature.name!r}; the types are {', '.join(record.type_names.values())}"
    )


def _refuse_forgotten_regions(nuclei: list[GeoFeature], height: int, width: int, record: TileRecord) -> None:
    """Raise ValueError where an outline encloses nuclei: as a nucleus it would swallow or underlie them all."""
    if len(nuclei) <= ENCLOSED:
        return
    rings = [np.concatenate([polygon[0] for polygon in feature.polygons]) for feature in nuclei]
    low, high = (np.array([extreme(ring, axis=0) for ring in rings]) for extreme in (np.min, np.max))
    areas = (high - low).prod(axis=1)
    for position in np.flatnonzero(areas > LARGE * np.median(areas)):
        within = ((low >= low[position]) & (high <= high[position])).all(axis=1)
        within[position] = False
        if within.sum() < ENCLOSED:
            continue
        covered = np.zeros(height * width, dtype=bool)
        covered[shape_pixels(nuclei[position].polygons, height, width)] = True
        enclosed = sum(
            bool(covered[shape_pixels(nuclei[other].polygons, height, width)].all())
            for other in np.flatnonzero(within)
        )
        if enclosed >= ENCLOSED:
            raise ValueError(
                f"{record.label_path}: the outline from {low[position].tolist()} to {high[position].tolist()} (class "
                f"{nuclei[position].name!r}) encloses {enclosed} others; if it bounds the annotated area give it a "
                f"class like {record.options['region_class']!r}, else leave it out of the export"
            )
