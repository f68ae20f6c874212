"""Why: MoNuSAC hides classes in attributes, lacks TIFFs and has ambiguous regions; none may become a wrong nucleus."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.monusac import FOLDERS, ORGANS, TYPES, list_monusac
from tests.data_cases import aperio_xml, nuclei, painted, save_image, truncate, types_by_id

PATIENT = "TCGA-A2-A0ES-01Z-00-DX1"
ROW = {"Epithelial": 0, "Lymphocyte": 8, "Macrophage": 16, "Neutrophil": 24, "Ambiguous": 32}


def block(x: float, y: float, side: float = 5) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def layers(*names: str) -> dict:
    """Two blocks of 5 x 5 px a class, in rows by class."""
    return {name: {1: block(2, ROW.get(name, 0)), 5: block(20, ROW.get(name, 0))} for name in names}


def write_image(split_folder: Path, number: int, content: dict, patient=PATIENT, suffix=".tif", alpha=True) -> Path:
    image = painted(nuclei(40, 50))
    if alpha:
        image = np.dstack([image, np.full((40, 50), 255, dtype=np.uint8)])
    folder = split_folder / patient
    picture = save_image(folder / f"{patient}_{number}.tif", image)
    (folder / f"{patient}_{number}.svs").write_bytes(picture.read_bytes())
    if suffix != ".tif":
        picture.unlink()
    path = folder / f"{patient}_{number}.xml"
    path.write_text(aperio_xml(content))
    return path


def test_types_come_from_attributes(tmp_path):
    write_image(tmp_path / FOLDERS["train"], 1, layers("Epithelial", "Neutrophil", "Macrophage", "Lymphocyte"))
    tile = list_monusac(tmp_path)[0].load()
    by_id = types_by_id(tile.instance_map, tile.type_map)
    assert by_id == {1: [1], 2: [1], 3: [4], 4: [4], 5: [3], 6: [3], 7: [2], 8: [2]}
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [25] * 8
    np.testing.assert_array_equal(tile.image, painted(nuclei(40, 50)))
    assert (tile.mpp, tile.annotated, tile.type_names) == (0.252, None, TYPES)


def test_ambiguous_regions_are_not_annotated(tmp_path):
    write_image(tmp_path / FOLDERS["test"], 1, layers("Lymphocyte", "Ambiguous"))
    tile = list_monusac(tmp_path)[0].load()
    assert tile.instance_map.max() == 2
    assert (~tile.annotated).sum() == 50
    assert not tile.annotated[33, 4]
    assert not tile.instance_map[~tile.annotated].any()
    assert not tile.overlaps
    label = write_image(
        tmp_path / FOLDERS["test"], 1, {"Epithelial": {1: block(2, 0)}, "Neutrophil": {1: block(4, 0)}}
    )
    tile = list_monusac(tmp_path)[0].load()
    assert (tile.overlaps.nuclei, tile.overlaps.pixels, label.stem) == (2, 15, tile.id.removeprefix("test_"))


def test_names_are_unique_over_the_splits(tmp_path):
    for folder in FOLDERS.values():
        for number in (2, 10):
            write_image(tmp_path / folder, number, layers("Epithelial"))
    records = list_monusac(tmp_path)
    assert [(record.id, record.fold) for record in records] == [
        (f"{fold}_{PATIENT}_{number}", fold) for fold in ("train", "test") for number in (2, 10)
    ]
    assert {record.metadata["patient"] for record in records} == {PATIENT}
    assert [record.fold for record in list_monusac(tmp_path, split="test")] == ["test", "test"]
    assert [record.fold for record in list_monusac(tmp_path / FOLDERS["test"])] == ["test", "test"]


def test_organs(tmp_path):
    for patient in (PATIENT, "TCGA-XX-0000-01Z-00-DX1"):
        write_image(tmp_path / FOLDERS["train"], 1, layers("Epithelial"), patient=patient)
    assert [record.tissue for record in list_monusac(tmp_path)] == ["Breast", None]
    patients = [patient for of_organ in ORGANS.values() for patient in of_organ]
    # 46 patients train and 25 test, two of them in both.
    assert len(patients) == len(set(patients)) == 46 + 25 - 2


def test_slide_files_stand_in_for_missing_pictures(tmp_path):
    write_image(tmp_path / FOLDERS["test"], 1, layers("Epithelial"), suffix=".svs", alpha=False)
    (record,) = list_monusac(tmp_path)
    assert record.image_path.suffix == ".svs"
    np.testing.assert_array_equal(record.load().image, painted(nuclei(40, 50)))


def test_damaged_files_are_named(tmp_path):
    label = write_image(tmp_path / FOLDERS["train"], 1, layers("Epithelial", "Plasma"))
    with pytest.raises(ValueError, match=rf"{label.name}: an annotation of 2 regions has the attributes \['Plasma'\]"):
        list_monusac(tmp_path)[0].load()
    label.write_text(aperio_xml({"Epithelial": {1: block(400, 400)}}))
    with pytest.raises(ValueError, match=rf"{label.name}: polygons reach 405 px"):
        list_monusac(tmp_path)[0].load()
    label.write_text(aperio_xml({"Epithelial": {1: [(1, 1), (2, 2)]}, "": {}}))
    with pytest.raises(ValueError, match=rf"{label.name}: no nuclei"):
        list_monusac(tmp_path)[0].load()
    truncate(label)
    with pytest.raises(OSError, match=rf"{label.name}: not an XML file"):
        list_monusac(tmp_path)[0].load()
    label.unlink()
    with pytest.raises(FileNotFoundError, match=rf"no \.xml file for {label.stem}\.tif"):
        list_monusac(tmp_path)
    label.write_text(aperio_xml(layers("Epithelial")))
    for suffix in (".tif", ".svs"):
        label.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no image for {label.name} of"):
        list_monusac(tmp_path)


def test_wrong_folders_and_options(tmp_path):
    with pytest.raises(FileNotFoundError, match="MoNuSAC_images_and_annotations"):
        list_monusac(tmp_path)
    with pytest.raises(ValueError, match="'train', 'test'"):
        list_monusac(tmp_path, split="val")
    with pytest.raises(ValueError, match="later, smaller"):
        list_monusac(tmp_path, overlap="first")
