"""Why: CoNSeP circulates with seven raw or four merged types, as floats, PNG or JPEG; types must be right for each."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cfsam_hf.data.readers.consep import MERGED_TYPES, RAW_TYPES, list_consep
from tests.data_cases import nuclei, painted, save_image, truncate, types_by_id

IDS = (1, 2, 4, 5, 6, 9, 12)
"""Gapped, as ids are wherever a tile was cut from a larger annotation."""


def write_tile(split_folder: Path, stem: str, types, suffix=".png", dtype=np.float64, label_map=None, **mat) -> Path:
    """Write one tile as distributed, `inst_type` (N, 1) and `inst_centroid` (N, 2) x, y; returns the .mat."""
    label_map = nuclei(ids=IDS[: len(types)]) if label_map is None else label_map
    ids = np.unique(label_map[label_map > 0])
    type_map = np.zeros(label_map.shape)
    for label, type_id in zip(ids, types, strict=True):
        type_map[label_map == label] = type_id
    centroids = [np.argwhere(label_map == label).mean(axis=0)[::-1] for label in ids]
    save_image(split_folder / "Images" / f"{stem}{suffix}", painted(label_map))
    (split_folder / "Labels").mkdir(exist_ok=True)
    (split_folder / "Overlay").mkdir(exist_ok=True)
    path = split_folder / "Labels" / f"{stem}.mat"
    content = {
        "inst_map": label_map.astype(dtype),
        "type_map": type_map.astype(dtype),
        "inst_type": np.array(types, dtype=np.float64).reshape(-1, 1),
        "inst_centroid": np.array(centroids).reshape(-1, 2),
    }
    savemat(path, content | mat, do_compression=True)
    return path


@pytest.fixture
def raw(tmp_path) -> Path:
    """Two training tiles and a test tile with all seven raw types."""
    for split, stem in (("Train", "train_2"), ("Train", "train_10"), ("Test", "test_1")):
        write_tile(tmp_path / split, stem, (1, 2, 3, 4, 5, 6, 7))
    return tmp_path


@pytest.fixture
def merged(tmp_path) -> Path:
    for number in (1, 2, 3):
        write_tile(tmp_path / "Train", f"train_{number}", (1, 2, 3, 4))
    return tmp_path


def test_raw_types_are_merged_as_in_the_paper(raw):
    tile = list_consep(raw)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2], 4: [3], 5: [3], 6: [4], 9: [4], 12: [4]}
    assert tile.type_names == MERGED_TYPES
    assert (tile.instance_map.dtype, tile.type_map.dtype, tile.image.dtype) == (np.int32, np.int16, np.uint8)
    np.testing.assert_array_equal(tile.instance_map, nuclei(ids=IDS))
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))


def test_raw_types_are_kept_on_demand(raw):
    tile = list_consep(raw, types="raw")[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2], 4: [3], 5: [4], 6: [5], 9: [6], 12: [7]}
    assert tile.type_names == RAW_TYPES


def test_order_folds_and_metadata(raw):
    records = list_consep(raw)
    assert [(record.id, record.fold) for record in records] == [
        ("train_2", "train"),
        ("train_10", "train"),
        ("test_1", "test"),
    ]
    assert {(record.dataset, record.tissue, record.mpp) for record in records} == {("consep", "Colon", 0.25)}
    assert [record.id for record in list_consep(raw, split="test", mpp=0.275)] == ["test_1"]
    assert list_consep(raw, split="test", mpp=0.275)[0].load().mpp == 0.275
    assert [record.fold for record in list_consep(raw / "Train")] == ["train", "train"]
    with pytest.raises(ValueError, match="a single split"):
        list_consep(raw / "Train", split="test")


def test_merged_files_are_recognised(merged):
    tile = list_consep(merged)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2], 4: [3], 5: [4]}
    with pytest.raises(ValueError, match="cannot be recovered"):
        list_consep(merged, types="raw")


def test_one_raw_tile_tells_for_all(merged):
    write_tile(merged / "Train", "train_4", (7,))
    tile = list_consep(merged)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2], 4: [3], 5: [3]}


def test_too_few_files_to_tell_are_not_guessed(tmp_path):
    write_tile(tmp_path / "Train", "train_1", (1, 2, 3, 4))
    with pytest.raises(ValueError, match="stored_types"):
        list_consep(tmp_path)
    stored_merged = list_consep(tmp_path, stored_types="merged")[0].load()
    assert types_by_id(stored_merged.instance_map, stored_merged.type_map)[5] == [4]
    stored_raw = list_consep(tmp_path, stored_types="raw")[0].load()
    assert types_by_id(stored_raw.instance_map, stored_raw.type_map)[5] == [3]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, np.uint16])
def test_maps_of_any_dtype(tmp_path, dtype):
    write_tile(tmp_path / "Train", "train_1", (1, 5), dtype=dtype)
    tile = list_consep(tmp_path)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [4]}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_images_are_found_by_stem(tmp_path, suffix):
    write_tile(tmp_path / "Train", "train_1", (1, 5), suffix=suffix)
    assert list_consep(tmp_path)[0].image_path.name == f"train_1{suffix}"


def test_lossless_image_is_preferred(tmp_path):
    label = write_tile(tmp_path / "Train", "train_1", (1, 5), suffix=".jpg")
    write_tile(tmp_path / "Train", "train_1", (1, 5), suffix=".png")
    record = list_consep(tmp_path)[0]
    assert (record.image_path.suffix, record.label_path) == (".png", label)


def test_types_outside_nuclei_are_dropped(tmp_path):
    label_map = nuclei(ids=(1, 2))
    write_tile(tmp_path / "Train", "train_1", (1, 5), type_map=np.where(label_map == 2, 5, 1).astype(float))
    tile = list_consep(tmp_path)[0].load()
    np.testing.assert_array_equal(tile.type_map, np.choose(label_map, [0, 1, 4]))


def test_missing_halves_are_named(raw):
    (raw / "Train" / "Images" / "train_10.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Images: no image for train_10\.mat"):
        list_consep(raw)
    (raw / "Test" / "Labels" / "test_1.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"Labels: no \.mat file for test_1\.png"):
        list_consep(raw, split="test")


def test_sizes_that_differ(raw):
    save_image(raw / "Train" / "Images" / "train_2.png", painted(nuclei(40, 48)))
    with pytest.raises(ValueError, match=r"train_2\.mat: the instance map is 40 x 50 but .*train_2\.png is 40 x 48"):
        list_consep(raw)[0].load()


@pytest.mark.parametrize(("types", "stored"), [((1, 8), "raw"), ((1, 5), "merged"), ((1, 0), "merged")])
def test_unknown_types(tmp_path, types, stored):
    write_tile(tmp_path / "Train", "train_1", types)
    with pytest.raises(ValueError, match=r"train_1\.mat: unknown type ids"):
        list_consep(tmp_path, stored_types=stored)[0].load()


@pytest.mark.parametrize("stored", ["raw", "merged"])
@pytest.mark.parametrize("variable", ["inst_map", "type_map"])
def test_fractions_are_refused(tmp_path, stored, variable):
    write_tile(tmp_path / "Train", "train_1", (1, 2), **{variable: np.full((40, 50), 1.5)})
    with pytest.raises(ValueError, match=r"train_1\.mat: .* must hold whole numbers"):
        list_consep(tmp_path, stored_types=stored)[0].load()


def test_truncated_label_files_are_named_or_do_no_harm(tmp_path):
    path = write_tile(tmp_path / "Train", "train_1", (1, 5))
    (record,) = list_consep(tmp_path, stored_types="raw")
    whole, content = record.load(), path.read_bytes()
    named = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            tile = record.load()
        except (OSError, ValueError) as error:
            assert "train_1.mat" in str(error)  # noqa: PT017
            named += 1
        else:
            # What is cut off then lies behind the two maps.
            np.testing.assert_array_equal(tile.instance_map, whole.instance_map)
            np.testing.assert_array_equal(tile.type_map, whole.type_map)
    assert named > len(content) / 7 / 2


def test_damaged_files_are_named(raw):
    truncate(raw / "Train" / "Images" / "train_2.png")
    with pytest.raises(OSError, match=r"train_2\.png"):
        list_consep(raw)[0].load()
    (raw / "Test" / "Labels" / "test_1.mat").write_text("inst_map")
    with pytest.raises(OSError, match=r"test_1\.mat: not a MATLAB file"):
        list_consep(raw, split="test")
    savemat(raw / "Test" / "Labels" / "test_1.mat", {"instance_map": np.ones((4, 4))})
    with pytest.raises(ValueError, match=r"test_1\.mat: no variable inst_type"):
        list_consep(raw, split="test")


def test_a_tile_without_nuclei(tmp_path):
    write_tile(tmp_path / "Train", "train_1", (5,))
    write_tile(tmp_path / "Train", "train_2", ())
    with pytest.raises(ValueError, match=r"train_2\.mat: no nuclei .*allow_empty"):
        list_consep(tmp_path)[1].load()
    tile = list_consep(tmp_path, allow_empty=True)[1].load()
    assert not tile.instance_map.any()
    assert not tile.type_map.any()


def test_wrong_folders_and_options(raw, tmp_path):
    for options, message in (
        ({"split": "validation"}, "'train', 'test'"),
        ({"types": "four"}, "merged, raw"),
        ({"stored_types": "four"}, "auto, merged, raw"),
    ):
        with pytest.raises(ValueError, match=message):
            list_consep(raw, **options)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_consep(tmp_path / "CoNSeP")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Train,Test"):
        list_consep(tmp_path / "empty")
    (tmp_path / "empty" / "Labels").mkdir()
    (tmp_path / "empty" / "Images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\.mat files in Labels"):
        list_consep(tmp_path / "empty")


def test_the_real_training_tiles(real_data):
    records = list_consep(real_data / "consep", split="train")
    assert [record.id for record in records] == [f"train_{number}" for number in range(1, 28)]
    tile = records[0].load()
    assert tile.image.shape == (1000, 1000, 3)
    # Nuclei are darker than what lies between them; labels of another tile, or transposed ones, would not be.
    grey = tile.image.mean(axis=-1)
    assert grey[tile.instance_map > 0].mean() < grey[tile.instance_map == 0].mean() - 20
