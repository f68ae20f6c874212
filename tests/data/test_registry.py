"""Why: `load_nuclei_dataset` promises rows that decode late and metadata that costs nothing."""

import pickle
from dataclasses import replace

import datasets
import numpy as np
import pytest

from cfsam_hf.data import registry
from cfsam_hf.data.nuclei_dataset import load_nuclei_dataset
from cfsam_hf.data.registry import READERS, list_tiles
from tests.data_cases import nuclei, painted, save_image

PIXELS = {"image", "instance_map", "type_map", "annotated"}
COLUMNS = PIXELS | {"tissue", "mpp", "id", "fold", "image_path", "label_path"}


@pytest.fixture
def folder(tmp_path):
    """Twelve pairs of different sizes, half of them of each tissue; odd ones have types."""
    lines = ["id,tissue,mpp,fold"]
    for number in range(12):
        label_map = nuclei(40 + number, 50, ids=range(1, number + 2))
        save_image(tmp_path / f"t{number}.png", painted(label_map))
        save_image(tmp_path / f"t{number}_instances.png", label_map.astype(np.uint16))
        if number % 2:
            save_image(tmp_path / f"t{number}_types.png", (label_map > 0).astype(np.uint8))
        lines.append(f"t{number},{'Colon' if number < 6 else 'Liver'},{0.25 if number else ''},{number % 3}")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    return tmp_path


def load(folder, **options):
    return load_nuclei_dataset("instance_pairs", folder, type_names={1: "any"}, **options)


@pytest.fixture
def no_decoding(monkeypatch):
    """Make decoding an error."""

    def refuse(record):
        raise RuntimeError(f"{record.id} was decoded")

    reader = READERS["instance_pairs"]
    undecodable = {"instance_pairs": lambda *a, **k: [replace(record, decode=refuse) for record in reader(*a, **k)]}
    monkeypatch.setattr(registry, "READERS", undecodable)


def test_list_tiles_passes_split_and_options(folder):
    records = list_tiles("instance_pairs", folder, split="1", type_names={1: "any"}, mpp=0.5)
    assert [record.id for record in records] == ["t1", "t4", "t7", "t10"]
    with pytest.raises(ValueError, match=r"unknown data set 'ConSeP'; known: .*consep"):
        list_tiles("ConSeP", folder)


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_names_a_folder_that_is_not_there(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such f"):
        list_tiles(name, tmp_path / "nowhere")
    with pytest.raises(OSError, match=str(tmp_path)):
        list_tiles(name, tmp_path)


def test_rows_are_tiles(folder):
    dataset = load(folder)
    assert len(dataset) == 12
    row = dataset[7]
    assert row.keys() == COLUMNS
    label_map = nuclei(47, 50, ids=range(1, 9))
    np.testing.assert_array_equal(row["instance_map"], label_map)
    np.testing.assert_array_equal(row["image"], painted(label_map))
    np.testing.assert_array_equal(row["type_map"], label_map > 0)
    assert (row["image"].dtype, row["instance_map"].dtype, row["type_map"].dtype) == (np.uint8, np.int32, np.int16)
    assert (row["id"], row["tissue"], row["mpp"], row["fold"], row["annotated"]) == ("t7", "Liver", 0.25, "1", None)
    first = dataset[0]
    assert (first["id"], first["type_map"], first["mpp"]) == ("t0", None, None)
    assert [image.shape for image in dataset[2:4]["image"]] == [(42, 50, 3), (43, 50, 3)]
    assert [row["id"] for row in dataset] == [f"t{number}" for number in range(12)]


def test_chosen_rows_stay_with_their_tiles(folder):
    dataset = load(folder)
    for chosen in (
        dataset.select([9, 2, 5]),
        dataset.shuffle(seed=1),
        dataset.sort("id", reverse=True),
        dataset.filter(lambda tissue: tissue == "Liver", input_columns="tissue"),
        dataset.filter(lambda fold: fold != "0", input_columns="fold").shuffle(seed=2).select(range(4)),
        dataset.train_test_split(test_size=3, seed=0)["test"],
    ):
        assert len(chosen) > 0
        for row in chosen:
            number = int(row["id"][1:])
            np.testing.assert_array_equal(row["instance_map"], nuclei(40 + number, 50, ids=range(1, number + 2)))
    assert [row["id"] for row in dataset.select([9, 2, 5])] == ["t9", "t2", "t5"]
    assert len(dataset.filter(lambda row: row["instance_map"].max() > 9)) == 3


def test_metadata_is_read_without_decoding(folder, no_decoding):
    dataset = load(folder)
    assert set(dataset.column_names) == COLUMNS
    assert list(dataset["tissue"]) == ["Colon"] * 6 + ["Liver"] * 6
    assert dataset.unique("fold") == ["0", "1", "2"]
    liver = dataset.filter(lambda tissue: tissue == "Liver", input_columns="tissue")
    plain = liver.shuffle(seed=0).select(range(4)).remove_columns([*PIXELS, "mpp"])
    assert all(row["tissue"] == "Liver" and row["image_path"].endswith(f"{row['id']}.png") for row in plain)
    with pytest.raises(RuntimeError, match="t3 was decoded"):
        dataset[3]


def number_of(row) -> int:
    return int(row["id"][1:])


def check_rows(rows, count: int) -> None:
    """Each row has the pixels of the tile that its id names."""
    seen = 0
    for row in rows:
        label_map = nuclei(40 + number_of(row), 50, ids=range(1, number_of(row) + 2))
        np.testing.assert_array_equal(row["instance_map"], label_map)
        np.testing.assert_array_equal(row["image"], painted(label_map))
        assert (row["type_map"] is None) == (number_of(row) % 2 == 0)
        assert row["mpp"] == (0.25 if number_of(row) else None)
        seen += 1
    assert seen == count


def test_operations_of_datasets_keep_pixels_and_columns(folder):
    dataset = load(folder)
    one, two = load(folder, split="1"), load(folder, split="2")
    parts = dataset.train_test_split(test_size=0.25, seed=0)
    for rows, count in (
        (datasets.concatenate_datasets([one, two]), 8),
        (datasets.interleave_datasets([one, two]), 8),
        (dataset.with_format("numpy"), 12),
        (dataset.with_format("torch"), 12),
        (dataset.flatten_indices(), 12),
        (dataset.shard(3, 1), 4),
        (dataset.skip(2).take(3), 3),
        (parts["train"], 9),
        (parts["test"], 3),
        (dataset.map(lambda row: {"extra": 1}).select([3, 1]), 2),
        (dataset.filter(lambda row: row["instance_map"].max() > 9), 3),
        (dataset.to_iterable_dataset(), 12),
        (dataset.rename_column("tissue", "organ").add_column("place", list(range(12))), 12),
    ):
        check_rows(rows, count)
    assert set(dataset.select_columns(["id", "image"])[0]) == {"id", "image"}
    assert dataset.with_format("torch")[1]["instance_map"].shape == (41, 50)


def test_what_map_adds_is_in_the_rows_beside_the_pixels(folder):
    dataset = load(folder).map(lambda row: {"nuclei": int(row["instance_map"].max())})
    assert [row["nuclei"] for row in dataset] == [number + 1 for number in range(12)]
    check_rows(dataset, 12)
    halves = load(folder).map(
        lambda row: {"image": row["image"][::2]}, features=dataset.features.copy(), remove_columns=[]
    )
    assert halves[3]["image"].shape == (22, 50, 3)
    assert halves[3]["image"].dtype == np.uint8


def test_saved_data_sets_hold_the_pixels_themselves(folder, tmp_path_factory):
    saved = tmp_path_factory.mktemp("saved")
    load(folder).save_to_disk(saved / "arrow")
    for path in folder.iterdir():
        path.unlink()
    check_rows(datasets.load_from_disk(saved / "arrow"), 12)


def test_rows_are_the_callers_own(folder):
    dataset = load(folder)
    dataset[0]["image"][:] = 0
    check_rows(dataset, 12)


def test_damaged_files_are_named_when_their_row_is_read(folder):
    dataset = load(folder)
    (folder / "t4.png").unlink()
    assert dataset[3]["id"] == "t3"
    with pytest.raises(FileNotFoundError, match=r"t4\.png: no such file"):
        dataset[4]


def test_data_sets_travel_to_worker_processes(folder):
    dataset = pickle.loads(pickle.dumps(load(folder, split="2")))
    assert [row["id"] for row in dataset] == ["t2", "t5", "t8", "t11"]
    assert dataset[0]["image"].shape == (42, 50, 3)


def test_a_missing_extra_is_explained(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'cfsam_hf\[train\]'"):
        load(folder)


def test_real_tiles(real_data):
    dataset = load_nuclei_dataset("monuseg", real_data / "monuseg", split="train")
    row = dataset.filter(lambda tissue: tissue == "Stomach", input_columns="tissue")[0]
    assert row["tissue"] == "Stomach"
    assert row["image"].shape == (*row["instance_map"].shape, 3)
