"""Your own images with a file of outlines each: QuPath's GeoJSON and its dialects, LabelMe's JSON, ImageJ's ROIs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..polygons import check_drawn, check_overlap_rule, check_reach, rasterise_shapes
from ..problems import is_collecting
from ..records import UNKNOWN_TYPE, Tile, TileRecord, make_tile
from .files import pair_files, read_image, some_of
from .geojson_files import GeoFeature, OutlineFile
from .label_names import image_files
from .listing import check_split, finish_listing
from .object_roles import Roles, sort_objects
from .orientation import check_orientation, turn_outlines
from .outline_files import is_outline_file, outline_files, read_outlines


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
    class_property: str | None = None,
    orientation: str | None = None,
) -> list[TileRecord]:
    """Lists the images of a folder that have outlines beside them, `<stem>.geojson` or another file of the same stem.

    The reader accepts GeoJSON as QuPath (File, Export objects as GeoJSON), CellViT, TIAToolbox, LazySlide and dlup
    write it, in files that end in `.geojson` or `.json`, also compressed (`.gz`, `.zip`) or with an object on each
    line (`.ndjson`, `.geojsonl`); the `.json` of LabelMe, HoVer-Net, CellViT (`cells.json`) and TIAToolbox; and
    ImageJ's `.roi` and `.zip` (with roifile installed). Annotations, detections and cells (their nuclei) all count as
    nuclei, in pixels of the image. The class of a nucleus is its type; a nucleus without a class has an unknown type;
    if no nucleus has a class, the data set has no types. Separate parts of a MultiPolygon are separate nuclei.

    Annotations of the class "Region*" bound the area in which all nuclei are outlined; what lies outside, or in an
    "Ignore*" annotation, is not annotated. Without regions, the whole image is annotated. Other annotations around
    detections or cells bound it too if they contain all of these. `Tile.notes` says what was left out.

    Args:
        path: the folder.
        split: must be None.
        type_names: names of the type ids 1..T. If None, the classes found in all files, in alphabetical order: give
            them if several folders must agree.
        region_class, ignore_class: patterns of class names; `*` matches anything.
        overlap: which outline keeps a pixel that several cover: the "later" one in the file, or the "smaller" one.
        mpp: micrometres per pixel, None if unknown; the export does not state it.
        tissue: tissue of all images.
        allow_empty: accept images without nuclei (a region without nuclei is information too).
        annotations: folder of the exports, if it is not that of the images; or a single export, which belongs to the
            image with its stem (or to the only image, whatever its name), which is then the only tile.
        annotated_only: leave out images without an export, which are an error otherwise.
        class_property: the property of a feature that holds its class, if it is not `classification`.
        orientation: needed only for images that an orientation tag (EXIF) turns: whether outlines belong to the
            "stored" pixels, as those of QuPath and ImageJ do, or to the "upright" picture. LabelMe's and this
            package's own files are known to be upright.

    Raises:
        OSError: there are no images, one file of a pair is missing, or a file is damaged.
        ValueError: a split is given, or the rule is unknown.
    """
    check_split(split, (), "A QuPath folder")
    check_overlap_rule(overlap)
    check_orientation(orientation)
    folder = Path(path)
    if not folder.is_dir():
        return finish_listing([], split, folder, "a folder")
    images = image_files(folder)
    label_folder = folder if annotations is None else Path(str(annotations))
    if label_folder.is_file():
        file = label_folder
        stem = next(iter(images)) if len(images) == 1 else file.stem
        images = {name: image for name, image in images.items() if name == stem}
        labels, label_folder = {stem: file}, file.parent
    elif label_folder.is_dir():
        labels = outline_files(label_folder, images)
    else:
        raise FileNotFoundError(f"{label_folder}: no such folder or file")
    if annotated_only:
        images = {stem: image for stem, image in images.items() if stem in labels}
    what = f".geojson file{_other_names(label_folder, labels, images)}"
    pairs = pair_files(images, labels, what, folder, label_folder)
    options = {
        "overlap": overlap,
        "region_class": region_class,
        "ignore_class": ignore_class,
        "class_property": class_property,
        "orientation": orientation,
    }
    if type_names is None:
        found = {name for file in labels.values() for name in _class_names(file, options)}
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
            options=options,
        )
        for stem, (image, label) in pairs.items()
    ]
    return finish_listing(records, split, folder, "images with .geojson files of the same stem")


def _other_names(folder: Path, labels: Mapping[str, Path], images: Mapping[str, Path]) -> str:
    """For the message about a missing file: those that may be meant, such as ImageJ's `RoiSet.zip`."""
    used = {labels[stem] for stem in images if stem in labels}
    others = sorted(path.name for path in folder.iterdir() if is_outline_file(path) and path not in used)
    return f" (found {some_of(others)}; a file must have the name of its image)" if others else ""


def decode_qupath(record: TileRecord) -> Tile:
    """Reads one image and rasterises its outlines; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    content = _read(record.label_path, record.options)
    if content.size not in (None, (height, width)):
        raise ValueError(
            f"{record.label_path}: describes an image of {content.size[0]} x {content.size[1]}, but "
            f"{record.image_path} is {height} x {width} (rows x columns)"
        )
    orientation = record.options["orientation"]
    turn_outlines(
        content,
        record.image_path,
        record.label_path,
        (height, width),
        None if orientation is None else str(orientation),
    )
    roles = _roles(content, record.label_path, record.options, (height, width))
    shapes = [feature.polygons for feature in roles.nuclei]
    rings = [ring for polygons in shapes for polygon in polygons for ring in polygon]
    check_reach(rings, height, width, record.label_path, record.image_path)
    instance_map, positions, overlaps = rasterise_shapes(shapes, height, width, overlap=str(record.options["overlap"]))
    check_drawn(overlaps.undrawn, len(shapes), record.label_path, record.image_path)
    annotated = None
    if roles.regions or roles.ignored:
        annotated = np.ones((height, width), dtype=bool)
        if roles.regions:
            annotated = rasterise_shapes([feature.polygons for feature in roles.regions], height, width)[0] > 0
        annotated &= rasterise_shapes([feature.polygons for feature in roles.ignored], height, width)[0] == 0
    type_map = None
    if record.type_names:
        types = np.array([_type_of(feature, record) for feature in roles.nuclei], dtype=np.int64)
        type_map = np.concatenate([[0], types[positions]])[instance_map]
    notes = (*content.notes, *roles.notes)
    return make_tile(record, image, instance_map, type_map, annotated, overlaps=overlaps, notes=notes)


def _read(path: Path, options: Mapping[str, object]) -> OutlineFile:
    class_property = options["class_property"]
    return read_outlines(path, None if class_property is None else str(class_property))


def _roles(
    content: OutlineFile, path: Path, options: Mapping[str, object], size: tuple[int, int] | None = None
) -> Roles:
    try:
        return sort_objects(content.features, str(options["region_class"]), str(options["ignore_class"]), size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _class_names(path: Path, options: Mapping[str, object]) -> set[str]:
    """The classes of the nuclei in a file."""
    try:
        return {feature.name for feature in _roles(_read(path, options), path, options).nuclei if feature.name}
    except (ImportError, OSError, ValueError):
        if is_collecting():  # reported when the tile is read
            return set()
        raise


def _type_of(feature: GeoFeature, record: TileRecord) -> int:
    if feature.name is None:
        return UNKNOWN_TYPE
    for type_id, name in record.type_names.items():
        if name == feature.name:
            return type_id
    raise ValueError(
        f"{record.label_path}: unknown class {feature.name!r}; the types are {', '.join(record.type_names.values())}"
    )
