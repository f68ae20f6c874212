"""MoNuSAC (Verma et al. 2021): H&E at 40x of four organs, Aperio XML polygons, four types, one folder a patient."""

from pathlib import Path

import numpy as np

from ..polygons import check_overlap_rule, check_reach, rasterise_polygons
from ..records import Tile, TileRecord, make_tile
from .aperio import read_aperio_xml
from .files import images_by_stem, natural_key, pair_files, read_image
from .listing import check_split, finish_listing
from .monuseg import patient_of

TYPES = {1: "epithelial", 2: "lymphocyte", 3: "macrophage", 4: "neutrophil"}
AMBIGUOUS = "ambiguous"
FOLDERS = {
    "train": "MoNuSAC_images_and_annotations",
    "test": "MoNuSAC Testing Data and Annotations",
}
MPP_AT_40X = 0.25

ORGANS = {
    "Breast": (
        *("A2-A04X", "A2-A0CV", "A2-A0ES", "B6-A0WZ", "BH-A18T", "D8-A1X5", "D8-A3Z6", "E2-A108"),
        *("E2-A154", "E9-A22B", "E9-A22G", "EW-A6SB", "EW-A6SD", "S3-AA11"),
    ),
    "Kidney": (
        *("2Z-A9JG", "2Z-A9JN", "5P-A9K0", "B9-A44B", "B9-A8YI", "DW-7838", "DW-7841", "DW-7963"),
        *("EV-5903", "F9-A8NY", "F9-A97G", "G7-A8LD", "IZ-A6M9", "MH-A55W", "MH-A560", "P4-AAVK"),
        *("SX-A7SR", "UZ-A9PO", "UZ-A9PU"),
    ),
    "Lung": (
        *("49-6743", "50-6591", "55-1594", "55-7570", "55-7573", "69-7760", "69-A59K", "73-4662"),
        *("73-4668", "78-7152", "78-7220", "86-7713", "86-8672", "L4-A4E5", "MP-A4SY", "MP-A4T7"),
    ),
    "Prostate": (
        *("EJ-5495", "EJ-5505", "EJ-5517", "G9-6342", "G9-6356", "G9-6367", "G9-6499", "J4-A67Q"),
        *("J4-A67T", "KK-A59X", "KK-A6E0", "KK-A7AW", "V1-A8WL", "V1-A9O9", "VP-A87E", "VP-A87H"),
        *("X4-A8KQ", "X4-A8KS", "YL-A9WL", "YL-A9WY"),
    ),
}
"""Patients (TCGA site and participant) of both splits by organ, from the challenge's description."""

_ORGAN_OF = {f"TCGA-{patient}": organ for organ, patients in ORGANS.items() for patient in patients}


def list_monusac(
    path: str | Path,
    split: str | None = None,
    overlap: str = "later",
    mpp: float | None = None,
    allow_empty: bool = False,
) -> list[TileRecord]:
    """Lists the images of a MoNuSAC download: `<split folder>/<TCGA patient>/<patient>_<k>.{svs,tif,xml}`.

    The split folders are `MoNuSAC_images_and_annotations` and `MoNuSAC Testing Data and Annotations`; `path` holds
    them or is one of them. Images are named `train_<stem>` and `test_<stem>`, since two patients (TCGA-A2-A0ES and
    TCGA-MP-A4T7) are in both splits; the test patient TCGA-G9-6356 is in MoNuSeg's training set, too. The organ comes
    from the published table by the patient. The TIFF is read if there is one, otherwise the SVS (some test TIFFs are
    missing).

    Args:
        path: the folder.
        split: "train" or "test"; both if None.
        overlap: which polygon keeps a pixel that several cover: the "later" one in the file, or the "smaller" one.
        mpp: micrometres per pixel, overriding the XML's `MicronsPerPixel`. 0.25 if neither is given.
        allow_empty: accept images without nuclei.

    Raises:
        OSError: there are no images, or one file of a pair is missing.
        ValueError: the split or the rule is unknown.
    """
    check_split(split, tuple(FOLDERS), "MoNuSAC")
    check_overlap_rule(overlap)
    root = Path(path)
    records = []
    for fold, name in FOLDERS.items():
        folder = root if root.name == name else root / name
        if not folder.is_dir():
            continue
        for patient in sorted(child for child in folder.iterdir() if child.is_dir()):
            for stem, image, label in _pairs(patient):
                records.append(
                    TileRecord(
                        dataset="monusac",
                        id=f"{fold}_{stem}",
                        image_path=image,
                        label_path=label,
                        decode=decode_monusac,
                        tissue=_ORGAN_OF.get(patient_of(stem)),
                        mpp=mpp,
                        fold=fold,
                        type_names=TYPES,
                        allow_empty=allow_empty,
                        metadata={"patient": patient.name},
                        options={"overlap": overlap},
                    )
                )
    return finish_listing(records, split, root, f"the folders {' and '.join(map(repr, FOLDERS.values()))}")


def decode_monusac(record: TileRecord) -> Tile:
    """Reads one image and rasterises its polygons; ids are 1..N in the order of the file.

    Regions of the class "Ambiguous" are not nuclei: they are marked as not annotated, since the official evaluation
    leaves them out.
    """
    image = read_image(record.image_path)
    height, width = image.shape[:2]
    annotations, stored_mpp = read_aperio_xml(record.label_path)
    ids_by_name = {name: type_id for type_id, name in TYPES.items()}
    nuclei: list[np.ndarray] = []
    types: list[int] = []
    ambiguous: list[np.ndarray] = []
    for annotation in annotations:
        if not annotation.polygons:
            continue
        names = [name.strip().lower() for name in annotation.attributes]
        known = [name for name in names if name in ids_by_name or name == AMBIGUOUS]
        if len(known) != 1:
            raise ValueError(
                f"{record.label_path}: an annotation of {len(annotation.polygons)} regions has the attributes "
                f"{list(annotation.attributes)}; expected one of {', '.join(TYPES.values())} or {AMBIGUOUS}"
            )
        if known[0] == AMBIGUOUS:
            ambiguous += annotation.polygons
        else:
            nuclei += annotation.polygons
            types += [ids_by_name[known[0]]] * len(annotation.polygons)
    check_reach(nuclei + ambiguous, height, width, record.label_path, record.image_path)
    instance_map, positions, overlaps = rasterise_polygons(
        nuclei, height, width, overlap=str(record.options["overlap"])
    )
    type_map = np.concatenate([[0], np.array(types, dtype=np.int64)[positions]])[instance_map]
    annotated = rasterise_polygons(ambiguous, height, width)[0] == 0 if ambiguous else None
    mpp = record.mpp or stored_mpp or MPP_AT_40X
    return make_tile(record, image, instance_map, type_map, annotated, mpp=mpp, overlaps=overlaps)


def _pairs(patient: Path) -> list[tuple[str, Path, Path]]:
    """Returns (stem, image, XML) of a patient's folder."""
    images = {file.stem: file for file in patient.glob("*.svs")} | images_by_stem(patient)
    labels = {file.stem: file for file in patient.glob("*.xml")}
    images = {stem: images[stem] for stem in sorted(images, key=natural_key)}
    pairs = pair_files(images, labels, ".xml file", patient, patient)
    return [(stem, *pair) for stem, pair in pairs.items()]
