"""Why: Kumar and CPM-17 share a layout but not their splits; names must stay unique and folds correct."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cfsam_hf.data.readers.hovernet_folders import list_cpm17, list_kumar
from tests.data_cases import nuclei, painted, save_image, truncate

KUMAR = {
    "train": "TCGA-18-5592-01Z-00-DX1",
    "test_same": "TCGA-21-5784-01Z-00-DX1",
    "test_diff": "TCGA-AY-A8YK-01A-01-TS1",
}


def write_tile(folder: Path, stem: str, suffix=".png", size=(40, 50), dtype=np.float64, **mat) -> Path:
    label_map = nuclei(*size, ids=(1, 3, 8))
    save_image(folder / "Images" / f"{stem}{suffix}", painted(label_map))
    (folder / "Labels").mkdir(exist_ok=True)
    savemat(folder / "Labels" / f"{stem}.mat", mat or {"inst_map": label_map.astype(dtype)}, do_compression=True)
    return folder / "Labels" / f"{stem}.mat"


def test_kumar(tmp_path):
    for split, stem in KUMAR.items():
        write_tile(tmp_path / split, stem, ".tif")
    records = list_kumar(tmp_path)
    assert [(record.id, record.fold, record.tissue) for record in records] == [
        (KUMAR["train"], "train", "Liver"),
        (KUMAR["test_same"], "test_same", "Liver"),
        (KUMAR["test_diff"], "test_diff", "Colon"),
    ]
    tile = records[0].load()
    np.testing.assert_array_equal(tile.instance_map, nuclei(ids=(1, 3, 8)))
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))
    assert (tile.mpp, tile.type_map) == (0.25, None)
    assert [record.id for record in list_kumar(tmp_path, split="test_diff")] == [KUMAR["test_diff"]]
    with pytest.raises(ValueError, match="'test_same'"):
        list_kumar(tmp_path, split="test")


def test_cpm17(tmp_path):
    for split in ("train", "test"):
        for number in (2, 10, 0):
            write_tile(tmp_path / split, f"image_{number:02d}", dtype=np.int32)
    records = list_cpm17(tmp_path)
    assert [record.id for record in records] == [
        *(f"train_image_{number}" for number in ("00", "02", "10")),
        *(f"test_image_{number}" for number in ("00", "02", "10")),
    ]
    assert {record.mpp for record in records} == {None}
    assert list_cpm17(tmp_path, split="test", mpp=0.5)[0].load().mpp == 0.5


def test_folders_in_upper_case(tmp_path):
    write_tile(tmp_path / "Train", "image_00")
    assert [record.fold for record in list_cpm17(tmp_path)] == ["train"]


def test_damaged_files_are_named(tmp_path):
    label = write_tile(tmp_path / "train", "image_00")
    save_image(tmp_path / "train" / "Images" / "image_00.png", painted(nuclei(40, 48)))
    with pytest.raises(ValueError, match=r"image_00\.mat: the instance map is 40 x 50 but"):
        list_cpm17(tmp_path)[0].load()
    write_tile(tmp_path / "train", "image_00", inst_map=np.zeros((40, 50)))
    with pytest.raises(ValueError, match=r"image_00\.mat: no nuclei"):
        list_cpm17(tmp_path)[0].load()
    write_tile(tmp_path / "train", "image_00", inst_map=np.array(["1 2 3", "4 5 6"]))
    with pytest.raises(ValueError, match=r"image_00\.mat: "):
        list_cpm17(tmp_path)[0].load()
    write_tile(tmp_path / "train", "image_00", labels=np.zeros((40, 50)))
    with pytest.raises(ValueError, match=r"image_00\.mat: no variable inst_map"):
        list_cpm17(tmp_path)[0].load()
    truncate(label)
    with pytest.raises(OSError, match=r"image_00\.mat: not a MATLAB file"):
        list_cpm17(tmp_path)[0].load()
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.mat file for image_00\.png"):
        list_cpm17(tmp_path)
