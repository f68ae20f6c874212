"""Why: MoNuSeg's XML has gaps, slips and overlaps; polygons must be drawn correctly and slips must do no harm."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.polygons import Overlaps
from cfsam_hf.data.readers.aperio import read_aperio_xml
from cfsam_hf.data.readers.monuseg import TEST_ORGANS, TRAIN_ORGANS, list_monuseg, organ_of, patient_of
from tests.data_cases import aperio_xml, nuclei, painted, save_image, truncate

TRAIN_TILE = "TCGA-A7-A13E-01Z-00-DX1"
TEST_TILE = "TCGA-2Z-A9J9-01A-01-TS1"
BLOCKS = {3: [(2, 3), (12, 3), (12, 9), (2, 9)], 4: [(20, 10), (30, 10), (30, 20), (20, 20)]}
"""Two rectangles by region id, as (x, y) corners: columns 2 to 11, rows 3 to 8; columns 20 to 29, rows 10 to 19."""


def write_tile(images: Path, labels: Path, stem=TRAIN_TILE, regions=BLOCKS, mpp="0.252000", size=(40, 50)) -> Path:
    """Write `<stem>.tif` and `<stem>.xml`; returns the latter."""
    save_image(images / f"{stem}.tif", painted(nuclei(*size)), compression="tiff_lzw")
    labels.mkdir(parents=True, exist_ok=True)
    path = labels / f"{stem}.xml"
    path.write_text(aperio_xml({"Description": regions}, mpp))
    return path


def write_training(root: Path, stem=TRAIN_TILE, **options) -> Path:
    return write_tile(root / "Tissue Images", root / "Annotations", stem, **options)


def test_polygons_fill_their_pixels(tmp_path):
    write_training(tmp_path)
    tile = list_monuseg(tmp_path)[0].load()
    expected = np.zeros((40, 50), dtype=np.int32)
    expected[3:9, 2:12] = 1
    expected[10:20, 20:30] = 2
    np.testing.assert_array_equal(tile.instance_map, expected)
    np.testing.assert_array_equal(tile.image, painted(nuclei()))
    assert (tile.id, tile.fold, tile.tissue, tile.mpp) == (TRAIN_TILE, "train", "Breast", 0.252)
    assert tile.type_map is None
    assert tile.type_names == {}


def test_slips_and_borders(tmp_path):
    regions = {
        7: [(-3.0, -2.5), (5.0, -2.5), (5.0, 4.0), (-3.0, 4.0)],
        9: [(10.0, 10.0), (11.0, 11.0)],
        20: [(45.0, 35.0), (53.4, 35.0), (53.4, 42.1), (45.0, 42.1)],
        21: [],
        30: [(60.0, 10.0), (70.0, 10.0), (70.0, 20.0)],
    }
    write_training(tmp_path, regions=regions)
    tile = list_monuseg(tmp_path)[0].load()
    expected = np.zeros((40, 50), dtype=np.int32)
    expected[:4, :5] = 1
    expected[35:, 45:] = 2
    assert tile.overlaps == Overlaps(undrawn=3)
    np.testing.assert_array_equal(tile.instance_map, expected)


def test_who_keeps_an_overlap(tmp_path):
    regions = {1: [(4, 4), (8, 4), (8, 8), (4, 8)], 2: [(0, 0), (20, 0), (20, 6), (0, 6)]}
    write_training(tmp_path, regions=regions)
    later = list_monuseg(tmp_path)[0].load().instance_map
    smaller = list_monuseg(tmp_path, overlap="smaller")[0].load().instance_map
    assert (later[5, 5], later[7, 5], later[5, 2]) == (2, 1, 2)
    # Columns 4 to 7 of rows 4 and 5.
    assert list_monuseg(tmp_path)[0].load().overlaps == Overlaps(nuclei=2, pixels=8)
    assert (smaller[5, 5], smaller[7, 5], smaller[5, 2]) == (1, 1, 2)


@pytest.mark.parametrize("stored", [None, "0.000000", ""])
def test_missing_microns_per_pixel(tmp_path, stored):
    write_training(tmp_path, mpp=stored)
    assert list_monuseg(tmp_path)[0].load().mpp == 0.25
    assert list_monuseg(tmp_path, mpp=0.5)[0].load().mpp == 0.5


def test_layouts_are_read_together(tmp_path):
    write_training(tmp_path / "MoNuSegTrainingData")
    write_tile(tmp_path / "MoNuSegTestData", tmp_path / "MoNuSegTestData", TEST_TILE)
    save_image(tmp_path / "tiles" / "TCGA-KB-A93J-01A-01-TS1.jpg", painted(nuclei()))
    save_image(tmp_path / "tiles" / "TCGA-KB-A93J-01A-01-TS1_instances.png", nuclei().astype(np.uint16))
    (tmp_path / "notes").mkdir()
    records = list_monuseg(tmp_path)
    assert [(record.id, record.fold, record.tissue) for record in records] == [
        (TEST_TILE, "test", "Kidney"),
        (TRAIN_TILE, "train", "Breast"),
        ("TCGA-KB-A93J-01A-01-TS1", "train", "Stomach"),
    ]
    assert {record.dataset for record in records} == {"monuseg"}
    assert [record.load().instance_map.max() for record in records] == [2, 2, 3]
    assert [record.id for record in list_monuseg(tmp_path, split="test")] == [TEST_TILE]
    assert len(list_monuseg(tmp_path / "MoNuSegTestData")) == 1
    with pytest.raises(ValueError, match="none of its 1 tiles belongs to the split 'train'"):
        list_monuseg(tmp_path / "MoNuSegTestData", split="train")
    write_training(tmp_path / "again")
    with pytest.raises(ValueError, match="occurs twice"):
        list_monuseg(tmp_path)


def test_unknown_patients_have_no_fold(tmp_path):
    write_training(tmp_path, stem="my-tile-1")
    record = list_monuseg(tmp_path)[0]
    assert (record.fold, record.tissue) == (None, None)
    assert patient_of(TRAIN_TILE) == "TCGA-A7-A13E"
    assert (organ_of(TRAIN_TILE), organ_of("my-tile-1")) == ("Breast", None)


def test_published_tables():
    train = [patient for patients in TRAIN_ORGANS.values() for patient in patients]
    test = [patient for patients in TEST_ORGANS.values() for patient in patients]
    assert (len(train), len(test), len({*train, *test})) == (30, 14, 44)


def test_missing_halves_are_named(tmp_path):
    path = write_training(tmp_path)
    write_training(tmp_path, stem="TCGA-B0-5711-01Z-00-DX1")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"Annotations: no \.xml file for {TRAIN_TILE}\.tif"):
        list_monuseg(tmp_path)
    path.write_text(aperio_xml({"Description": BLOCKS}))
    (tmp_path / "Tissue Images" / f"{TRAIN_TILE}.tif").unlink()
    with pytest.raises(FileNotFoundError, match=rf"Tissue Images: no image for {TRAIN_TILE}\.xml"):
        list_monuseg(tmp_path)


@pytest.mark.filterwarnings("ignore:Truncated|Corrupt EXIF:UserWarning")
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.98])
def test_truncated_files_are_named(tmp_path, share):
    path = write_training(tmp_path)
    truncate(path, share)
    with pytest.raises(OSError, match=rf"{TRAIN_TILE}\.xml: not an XML file"):
        list_monuseg(tmp_path)[0].load()
    path.write_text(aperio_xml({"Description": BLOCKS}))
    truncate(tmp_path / "Tissue Images" / f"{TRAIN_TILE}.tif", share)
    with pytest.raises(OSError, match=rf"{TRAIN_TILE}\.tif"):
        list_monuseg(tmp_path)[0].load()


def test_annotations_of_another_image(tmp_path):
    write_training(tmp_path, regions={1: [(500, 500), (520, 500), (520, 520)]})
    with pytest.raises(ValueError, match=rf"{TRAIN_TILE}\.xml: polygons reach 520 px but .* 40 x 50"):
        list_monuseg(tmp_path)[0].load()


def test_bad_numbers_are_named(tmp_path):
    path = write_training(tmp_path)
    for old, new, message in (
        ('X="2"', 'X="two"', "region 3 has a vertex without valid X and Y"),
        ('X="2"', 'x="2"', "region 3 has a vertex without valid X and Y"),
        ('X="2"', 'X="nan"', "region 3 has a vertex without valid X and Y"),
        ('"0.252000"', '"fine"', "MicronsPerPixel is 'fine'"),
    ):
        path.write_text(aperio_xml({"Description": BLOCKS}).replace(old, new, 1))
        with pytest.raises(ValueError, match=rf"{TRAIN_TILE}\.xml: {message}"):
            list_monuseg(tmp_path)[0].load()


@pytest.mark.parametrize("regions", [{}, {1: [(1, 1), (2, 2)]}])
def test_a_tile_without_nuclei(tmp_path, regions):
    write_training(tmp_path, regions=regions)
    with pytest.raises(ValueError, match=rf"{TRAIN_TILE}\.xml: no nuclei"):
        list_monuseg(tmp_path)[0].load()
    assert not list_monuseg(tmp_path, allow_empty=True)[0].load().instance_map.any()


def test_wrong_folders_and_options(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_monuseg(tmp_path / "MoNuSeg")
    with pytest.raises(FileNotFoundError, match="Tissue Images"):
        list_monuseg(tmp_path)
    with pytest.raises(ValueError, match="'train', 'test'"):
        list_monuseg(tmp_path, split="validation")
    write_training(tmp_path)
    with pytest.raises(ValueError, match="later, smaller"):
        list_monuseg(tmp_path, overlap="first")


def test_the_real_training_tiles(real_data):
    records = list_monuseg(real_data / "monuseg")
    assert len(records) == 30
    assert {record.fold for record in records} == {"train"}
    tissues = [record.tissue for record in records]
    assert {tissue: tissues.count(tissue) for tissue in set(tissues)} == {
        organ: len(patients) for organ, patients in TRAIN_ORGANS.items()
    }
    originals = [record for record in records if record.label_path.suffix == ".xml"]
    assert len(originals) == 2
    tile = originals[0].load()
    annotations, mpp = read_aperio_xml(originals[0].label_path)
    polygons = sum(len(annotation.polygons) for annotation in annotations)
    assert 0.9 * polygons < tile.instance_map.max() <= polygons
    assert tile.mpp == (mpp or 0.25)
    assert 0.24 < tile.mpp < 0.26
    grey = tile.image.mean(axis=-1)
    assert grey[tile.instance_map > 0].mean() < grey[tile.instance_map == 0].mean() - 20
