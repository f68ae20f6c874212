"""MoNuSeg (Kumar et al. 2017, 2020): H&E at 40x of several organs, LZW TIFF + Aperio XML polygons, one class."""

from dataclasses import replace
from pathlib import Path

from ..polygons import check_overlap_rule, check_reach, rasterise_polygons
from ..records import Tile, TileRecord, make_tile
from .aperio import read_aperio_xml
from .files import images_by_stem, natural_key, pair_files, read_image
from .instance_pairs import list_instance_pairs
from .listing import check_split, finish_listing, subfolders

MPP_AT_40X = 0.25
"""Used if a file has no MicronsPerPixel; those that have it say 0.2456 to 0.2527."""

LAYOUT = "the folders 'Tissue Images' and 'Annotations', or .tif and .xml files side by side"

TRAIN_ORGANS = {
    "Breast": ("A7-A13E", "A7-A13F", "AR-A1AK", "AR-A1AS", "E2-A14V", "E2-A1B5"),
    "Kidney": ("B0-5698", "B0-5710", "B0-5711", "HE-7128", "HE-7129", "HE-7130"),
    "Liver": ("18-5592", "21-5784", "21-5786", "38-6178", "49-4488", "50-5931"),
    "Prostate": ("CH-5767", "G9-6336", "G9-6348", "G9-6356", "G9-6362", "G9-6363"),
    "Bladder": ("DK-A2I6", "G2-A2EK"),
    "Colon": ("AY-A8YK", "NH-A8F7"),
    "Stomach": ("KB-A93J", "RD-A8N9"),
}
TEST_ORGANS = {
    "Bladder": ("CU-A0YN", "ZF-A9R5"),
    "Brain": ("FG-A4MU", "HT-8564"),
    "Breast": ("AC-A2FO", "AO-A0J2"),
    "Colon": ("A6-6782",),
    "Kidney": ("2Z-A9J9", "GL-6846", "IZ-8196"),
    "Lung": ("44-2665", "69-7764"),
    "Prostate": ("EJ-A46H", "HC-7209"),
}
"""Patients (TCGA site and participant) of the published tables. The six "liver" patients carry TCGA's site codes of
lung cohorts; the table of the data set is followed here, since results are reported by it."""

_PATIENTS = {
    f"TCGA-{patient}": (fold, organ)
    for fold, organs in (("train", TRAIN_ORGANS), ("test", TEST_ORGANS))
    for organ, patients in organs.items()
    for patient in patients
}


def patient_of(tile_id: str) -> str:
    """Returns the TCGA patient of a tile: `patient_of("TCGA-A7-A13E-01Z-00-DX1")` is "TCGA-A7-A13E"."""
    return "-".join(tile_id.split("-")[:3])


def organ_of(tile_id: str) -> str | None:
    """Returns the organ of a tile by the published tables, None for patients that they do not name."""
    return _PATIENTS.get(patient_of(tile_id), (None, None))[1]


def list_monuseg(
    path: str | Path,
    split: str | None = None,
    overlap: str = "later",
    mpp: float | None = None,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the tiles of a MoNuSeg folder.

    `path` is one of these layouts, or a folder whose sub-folders are, all of which are then read:
    `Tissue Images/*.tif` with `Annotations/*.xml` (training), `*.tif` and `*.xml` side by side (test), or
    `<id>.<image>` with `<id>_instances.png` (label maps made beforehand).

    Fold and organ come from the published tables by the patient in the file name; they are None for others.

    Args:
        path: the folder.
        split: "train" or "test"; all if None.
        overlap: which polygon keeps a pixel that several cover: the "later" one in the file, or the "smaller" one.
        mpp: micrometres per pixel, overriding the XML's `MicronsPerPixel`. 0.25 if neither is given.
        allow_empty: accept tiles without nuclei.

    Raises:
        OSError: `path` has none of the layouts, or one file of a pair is missing.
        ValueError: the split or the rule is unknown, a tile occurs twice, or no tile is in `split`.
    """
    check_split(split, ("train", "test"), "MoNuSeg")
    check_overlap_rule(overlap)
    root = Path(path)
    folders = [root] if _layout(root) else subfolders(root)
    records: list[TileRecord] = []
    for folder in folders:
        layout = _layout(folder)
        if layout == "pairs":
            found = list_instance_pairs(folder, mpp=mpp or MPP_AT_40X, allow_empty=allow_empty, dataset="monuseg")
            records += [_with_organ(record) for record in found]
        elif layout:
            records += _list_xml(folder, layout, overlap, mpp, allow_empty)
    records.sort(key=lambda record: natural_key(record.id))
    return finish_listing(records, split, root, LAYOUT)


def decode_monuseg_xml(record: TileRecord) -> Tile:
    """Reads one image and rasterises its polygons; ids are 1..N in the order of the file."""
    image = read_image(record.image_path)
    annotations, stored_mpp = read_aperio_xml(record.label_path)
    polygons = [polygon for annotation in annotations for polygon in annotation.polygons]
    height, width = image.shape[:2]
    check_reach(polygons, height, width, record.label_path, record.image_path)
    instance_map, _, overlaps = rasterise_polygons(polygons, height, width, overlap=str(record.options["overlap"]))
    return make_tile(record, image, instance_map, mpp=record.mpp or stored_mpp or MPP_AT_40X, overlaps=overlaps)


def _layout(folder: Path) -> str | None:
    if (folder / "Tissue Images").is_dir() and (folder / "Annotations").is_dir():
        return "folders"
    if any(folder.glob("*.xml")):
        return "flat"
    return "pairs" if any(folder.glob("*_instances.png")) else None


def _list_xml(folder: Path, layout: str, overlap: str, mpp: float | None, allow_empty: bool) -> list[TileRecord]:
    image_folder, label_folder = (
        (folder, folder) if layout == "flat" else (folder / "Tissue Images", folder / "Annotations")
    )
    images = images_by_stem(image_folder)
    labels = {file.stem: file for file in label_folder.glob("*.xml") if not file.name.startswith(".")}
    pairs = pair_files(images, labels, ".xml file", image_folder, label_folder)
    return [
        _with_organ(
            TileRecord(
                dataset="monuseg",
                id=stem,
                image_path=image,
                label_path=label,
                decode=decode_monuseg_xml,
                mpp=mpp,
                allow_empty=allow_empty,
                options={"overlap": overlap},
            )
        )
        for stem, (image, label) in pairs.items()
    ]


def _with_organ(record: TileRecord) -> TileRecord:
    fold, organ = _PATIENTS.get(patient_of(record.id), (None, None))
    return replace(record, fold=record.fold or fold, tissue=record.tissue or organ)
