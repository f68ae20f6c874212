"""Why: split files decide what is never trained on; no tile may be on both sides, and stated counts must be right."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.leaks import find_leaks
from cfsam_hf.data.readers.consep import MERGED_TYPES
from cfsam_hf.data.readers.monuseg import TEST_ORGANS, patient_of
from cfsam_hf.data.records import TileRecord
from cfsam_hf.data.registry import list_tiles
from cfsam_hf.data.splits import read_split, select_tiles

from .. import REPOSITORY

SPLITS = REPOSITORY / "examples" / "splits"
EARLIER = SPLITS / "2026-11-23"


def record(name: str) -> TileRecord:
    return TileRecord("own", name, Path(f"{name}.png"), Path(f"{name}.mat"), decode=lambda _: None)


def write(path: Path, **content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_reading_and_selecting(tmp_path):
    split = read_split(write(tmp_path / "s.json", dataset="own", train=["b", "a"], validation=["c"], note="by hand"))
    assert (split.dataset, split.train, split.tuning, split.validation) == ("own", ("b", "a"), (), ("c",))
    assert split.parts() == {"train": ("b", "a"), "validation": ("c",)}
    split = read_split(write(tmp_path / "s.json", dataset="own", train=["a"], tuning=["b"], validation=[]))
    assert split.parts() == {"train": ("a",), "tuning": ("b",)}
    records = [record(name) for name in "abcd"]
    assert [tile.id for tile in select_tiles(records, ["b", "a"])] == ["b", "a"]
    with pytest.raises(ValueError, match="e0, e1, e2, e3, e4 and 1 more of the split are not among the 4 tiles"):
        select_tiles(records, ["a", *(f"e{number}" for number in range(6))])


@pytest.mark.parametrize(
    ("train", "tuning", "validation", "where"),
    [
        (["a", "b"], [], ["b"], "in 'train' and in 'validation'"),
        (["a", "b", "b"], [], ["c"], "in 'train'"),
        (["a", "b"], ["b"], ["c"], "in 'train' and in 'tuning'"),
        (["a"], ["b"], ["b"], "in 'tuning' and in 'validation'"),
    ],
)
def test_a_tile_named_twice(tmp_path, train, tuning, validation, where):
    file = write(tmp_path / "s.json", dataset="own", train=train, tuning=tuning, validation=validation)
    with pytest.raises(ValueError, match=rf"s\.json: tile 'b' is named twice, {where}$"):
        read_split(file)


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (b"", "JSON"),
        (b"[]", "list"),
        (b"3", "int"),
        (b'"x"', "str"),
        (b'{"train": [], "validation": []}', "dataset"),
        (b'{"dataset": 5, "train": [], "validation": []}', "dataset"),
        (b'{"dataset": "own", "train": ["a"]}', "validation"),
        (b'{"dataset": "own", "train": "abc", "validation": ["d"]}', "'train' .*'?abc"),
        (b'{"dataset": "own", "train": ["a", 1], "validation": ["d"]}', "entry 1 of 'train'"),
        (b'{"dataset": "own", "train": ["a", ["b"]], "validation": ["d"]}', "entry 1 of 'train'"),
        (b'{"dataset": "own", "train": null, "validation": ["d"]}', "'train'"),
        (b'{"dataset": "own", "train": {"a": 1}, "validation": ["d"]}', "'train'"),
        (b'{"dataset": "own", "train": [], "tuning": "abc", "validation": ["d"]}', "'tuning'"),
        (b'{"dataset": "own", "train": ["\xff"], "validation": []}', "Unicode"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_files_of_other_types_and_bytes_are_refused_by_file_and_entry(tmp_path, content, entry):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"s\.json: .*{entry}"):
        read_split(tmp_path / "s.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"none\.json"):
        read_split(tmp_path / "none.json")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "s.json").write_text('{"dataset": "own", "train": ["a"], "validation": []}', encoding="utf-8-sig")
    assert read_split(tmp_path / "s.json").train == ("a",)


@pytest.mark.parametrize("path", sorted(SPLITS.rglob("*.json")), ids=lambda path: str(path.relative_to(SPLITS)))
def test_committed_splits_name_each_tile_once_and_count_them(path):
    split = read_split(path)  # which refuses a tile in two parts
    assert split.dataset == path.stem
    counts = json.loads(path.read_text())["counts"]
    tiles = {part: of.get("tiles", of.get("images")) for part, of in counts.items()}
    assert tiles == {part: len(ids) for part, ids in split.parts().items()}


@pytest.mark.parametrize("name", ["consep", "crchisto", "monuseg", "nuinsseg", "tnbc"])
def test_splits_of_the_next_run_have_three_parts(name):
    assert set(read_split(SPLITS / f"{name}.json").parts()) == {"train", "tuning", "validation"}


@pytest.mark.parametrize("name", ["consep", "monuseg"])
def test_tuning_tiles_were_carved_out_of_training_and_validation_stayed(name):
    before, now = read_split(EARLIER / f"{name}.json"), read_split(SPLITS / f"{name}.json")
    assert now.validation == before.validation
    assert sorted(now.train + now.tuning) == sorted(before.train)


def test_committed_consep_split_is_of_the_official_training_tiles():
    split = read_split(SPLITS / "consep.json")
    tiles = split.train + split.tuning + split.validation
    assert sorted(tiles) == sorted(f"train_{number}" for number in range(1, 28))


def test_committed_monuseg_split_keeps_patients_apart_and_the_official_test_out():
    parts = [{patient_of(tile) for tile in tiles} for tiles in read_split(SPLITS / "monuseg.json").parts().values()]
    test = {f"TCGA-{patient}" for patients in TEST_ORGANS.values() for patient in patients}
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30
    assert not set.union(*parts) & test


def test_committed_tnbc_split_keeps_patients_apart():
    parts = [{tile.split("_")[1] for tile in tiles} for tiles in read_split(SPLITS / "tnbc.json").parts().values()]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 8


def test_committed_nuinsseg_split_keeps_organs_apart_with_their_counterparts_in_the_mouse():
    def organs(tiles):
        return {re.fullmatch(r"(?:human|mouse)_(.+?)(?:_tibia)?_\d+", tile)[1] for tile in tiles}

    parts = [organs(tiles) for tiles in read_split(SPLITS / "nuinsseg.json").parts().values()]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert {"kidney", "liver", "spleen"} <= parts[0]
    assert "muscle" in parts[1]


def nuclei_of(tiles) -> int:
    return sum(np.count_nonzero(np.bincount(tile.instance_map.ravel())[1:]) for tile in tiles)


@pytest.mark.parametrize("name", ["tnbc", "nuinsseg"])
def test_tnbc_and_nuinsseg_counts(real_data, name):
    """Every count of the file, and no leak: patients of TNBC, organs of NuInsSeg."""
    split = read_split(SPLITS / f"{name}.json")
    counts = json.loads((SPLITS / f"{name}.json").read_text())["counts"]
    records = [replace(one, dataset=name) for one in list_tiles("instance_pairs", real_data / name)]
    assert len(records) == sum(of["tiles"] for of in counts.values())
    parts = {part: select_tiles(records, ids) for part, ids in split.parts().items()}
    assert find_leaks(parts) == []
    for part, of_part in parts.items():
        if name == "tnbc":
            patients = [record.metadata["patient"] for record in of_part]
            assert {patient: patients.count(patient) for patient in patients} == counts[part]["tiles_by_patient"]
        else:
            tissues = [record.tissue for record in of_part]
            assert {tissue: tissues.count(tissue) for tissue in tissues} == counts[part]["tiles_by_tissue"]
        assert sum(int(record.metadata["nuclei"]) for record in of_part) == counts[part]["nuclei"]
    assert nuclei_of(record.load() for record in parts["tuning"][:3]) == sum(
        int(record.metadata["nuclei"]) for record in parts["tuning"][:3]
    )


def test_crchisto_counts(real_data):
    split = read_split(SPLITS / "crchisto.json")
    counts = json.loads((SPLITS / "crchisto.json").read_text())["counts"]
    names = {**MERGED_TYPES, 0: "without type"}
    for part, ids in split.parts().items():
        found = dict.fromkeys(names.values(), 0)
        for name in ids:
            assert (real_data / "crchisto" / f"{name}.jpg").exists()
            with open(real_data / "crchisto" / f"{name}_points.csv", newline="") as file:
                for row in csv.DictReader(file):
                    found[names[int(row["type"])]] += 1
        assert found == counts[part]["points_by_type"]
        assert sum(found.values()) == counts[part]["points"]
    assert sum(map(len, split.parts().values())) == len(list((real_data / "crchisto").glob("*.jpg")))


def test_consep_counts(real_data):
    split = read_split(SPLITS / "consep.json")
    counts = json.loads((SPLITS / "consep.json").read_text())["counts"]
    records = list_tiles("consep", real_data / "consep")
    for part in ("train", "tuning", "validation"):
        by_type = dict.fromkeys(MERGED_TYPES.values(), 0)
        for tile in (record.load() for record in select_tiles(records, getattr(split, part))):
            inside = tile.instance_map > 0
            pairs = np.unique(tile.instance_map[inside] * 1000 + tile.type_map[inside])
            for type_id in pairs % 1000:
                by_type[MERGED_TYPES[type_id]] += 1
        assert by_type == counts[part]["nuclei_by_type"]
        assert sum(by_type.values()) == counts[part]["nuclei"]


def test_monuseg_counts(real_data):
    split = read_split(SPLITS / "monuseg.json")
    counts = json.loads((SPLITS / "monuseg.json").read_text())["counts"]
    records = list_tiles("monuseg", real_data / "monuseg", split="train")
    for part in ("train", "tuning", "validation"):
        tiles = [record.load() for record in select_tiles(records, getattr(split, part))]
        tissues = [tile.tissue for tile in tiles]
        assert {tissue: tissues.count(tissue) for tissue in tissues} == counts[part]["tiles_by_tissue"]
        assert nuclei_of(tiles) == counts[part]["nuclei"]
    # Only labels that come straight from the XML polygons may judge a model.
    for record in select_tiles(records, split.tuning + split.validation):
        assert record.metadata.get("labels_from", "xml") == "xml"
