"""PUMA (Schuiveling et al. 2025): 1024 px regions of melanoma at 40x, GeoJSON polygons, ten types of nuclei."""

from pathlib import Path

import numpy as np

from ..polygons import check_overlap_rule, check_reach, rasterise_shapes
from ..records import Tile, TileRecord, make_tile
from .files import images_by_stem, pair_files, read_image
from .geojson_files import read_geojson
from .listing import check_split, finish_listing

TYPES = {
    1: "tumor",
    2: "lymphocyte",
    3: "plasma_cell",
    4: "histiocyte",
    5: "melanophage",
    6: "neutrophil",
    7: "stroma",
    8: "endothelium",
    9: "epithelium",
    10: "apoptosis",
}
"""The classes are `nuclei_<name>` in the files; they have no official numbers."""

SUFFIX = "_nuclei"
ORIGINS = {"primary": "primary melanoma", "metastatic": "metastatic melanoma"}


def list_puma(
    path: str | Path,
    split: str | None = None,
    overlap: str = "later",
    mpp: float = 0.23,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the regions of a PUMA download.

    The layout is `01_training_dataset_tif_ROIs/training_set_{primary,metastatic}_roi_NNN.tif` with
    `01_training_dataset_geojson_nuclei/<stem>_nuclei.geojson`.

    Args:
        path: folder that holds the two.
        split: must be None, only the training set is published.
        overlap: which polygon keeps a pixel that several cover: the "later" one in the file, or the "smaller" one.
        mpp: micrometres per pixel.
        allow_empty: accept regions without nuclei.

    Raises:
        OSError: there are no regions, or one file of a pair is missing.
        ValueError: a split is given, or the rule is unknown.
    """
    check_split(split, (), "PUMA")
    check_overlap_rule(overlap)
    root = Path(path)
    image_folder = next((folder for folder in sorted(root.glob("*_tif_ROIs")) if folder.is_dir()), None)
    label_folder = next((folder for folder in sorted(root.glob("*_geojson_nuclei")) if folder.is_dir()), None)
    if image_folder is None or label_folder is None:
        layout = "the folders 01_training_dataset_tif_ROIs and 01_training_dataset_geojson_nuclei"
        return finish_listing([], split, root, layout)
    images = images_by_stem(image_folder)
    labels = {file.stem.removesuffix(SUFFIX): file for file in label_folder.glob(f"*{SUFFIX}.geojson")}
    pairs = pair_files(images, labels, f"{SUFFIX}.geojson file", image_folder, label_folder)
    records = [
        TileRecord(
            dataset="puma",
            id=stem,
            image_path=image,
            label_path=label,
            decode=decode_puma,
            tissue=next((tissue for origin, tissue in ORIGINS.items() if f"_{origin}_" in stem), "melanoma"),
            mpp=mpp,
            type_names=TYPES,
            allow_empty=allow_empty,
            options={"overlap": overlap},
        )
        for stem, (image, label) in pairs.items()
    ]
    return finish_listing(records, split, root, f"images in {image_folder.name}")


def decode_puma(record: TileRecord) -> Tile:
    """Reads one region and rasterises its polygons; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    content = read_geojson(record.label_path)
    features = content.features
    ids_by_class = {f"nuclei_{name}": type_id for type_id, name in TYPES.items()}
    unknown = sorted({str(feature.name) for feature in features} - set(ids_by_class))
    if unknown:
        raise ValueError(f"{record.label_path}: unknown classes {unknown}; expected {', '.join(ids_by_class)}")
    rings = [ring for feature in features for polygon in feature.polygons for ring in polygon]
    check_reach(rings, height, width, record.label_path, record.image_path)
    instance_map, positions, overlaps = rasterise_shapes(
        [feature.polygons for feature in features], height, width, overlap=str(record.options["overlap"])
    )
    types = np.array([ids_by_class[str(feature.name)] for feature in features], dtype=np.int64)
    type_map = np.concatenate([[0], types[positions]])[instance_map]
    return make_tile(record, image, instance_map, type_map, overlaps=overlaps, notes=content.notes)
