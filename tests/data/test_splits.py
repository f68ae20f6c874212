"""Split files decide what is never trained on: no tile on both sides, and the counts they state are the true ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.consep import MERGED_TYPES
from cfsam_hf.data.readers.monuseg import TEST_ORGANS, patient_of
from cfsam_hf.data.records import TileRecord
from cfsam_hf.data.registry import list_tiles
from cfsam_hf.data.splits import read_split, select_tiles

from .. import REPOSITORY

SPLITS = REPOSITORY / "examples" / "splits"


def record(name: str) -> TileRecord:
    return TileRecord("own", name, Path(f"{name}.png"), Path(f"{name}.mat"), decode=lambda _: None)


def write(path: Path, **content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_reading_and_selecting(tmp_path):
    split = read_split(write(tmp_path / "s.json", dataset="own", train=["b", "a"], validation=["c"], note="by hand"))
    assert (split.dataset, split.train, split.validation) == ("own", ("b", "a"), ("c",))
    records = [record(name) for name in "abcd"]
    assert [tile.id for tile in select_tiles(records, split.train)] == ["b", "a"]
    with pytest.raises(ValueError, match="e0, e1, e2, e3, e4 and 1 more of the split are not among the 4 tiles"):
        select_tiles(records, ["a", *(f"e{number}" for number in range(6))])


@pytest.mark.parametrize(
    "content",
    [
        {"dataset": "own", "train": ["a", "b"], "validation": ["b"]},
        {"dataset": "own", "train": ["a", "b", "b"], "validation": ["c"]},
    ],
)
def test_a_tile_named_twice(tmp_path, content):
    with pytest.raises(ValueError, match=r"s\.json: tile 'b' is named twice"):
        read_split(write(tmp_path / "s.json", **content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"dataset": "own", "train": ["a"]}',
        '{"dataset": "own", "train": "abc", "validation": ["d"]}',
        '{"dataset": "own", "train": [1], "validation": ["d"]}',
        '{"dataset": "own", "train": null, "validation": ["d"]}',
    ],
)
def test_files_that_are_no_splits(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match=r"s\.json: not a split file"):
        read_split(tmp_path / "s.json")
    with pytest.raises(OSError, match=r"none\.json"):
        read_split(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["consep", "monuseg"])
def test_committed_splits_keep_apart(name):
    split = read_split(SPLITS / f"{name}.json")
    assert split.dataset == name
    assert not set(split.train) & set(split.validation)
    counts = json.loads((SPLITS / f"{name}.json").read_text())["counts"]
    assert (counts["train"]["tiles"], counts["validation"]["tiles"]) == (len(split.train), len(split.validation))


def test_committed_consep_split_is_of_the_official_training_tiles():
    split = read_split(SPLITS / "consep.json")
    assert sorted(split.train + split.validation) == sorted(f"train_{number}" for number in range(1, 28))


def test_committed_monuseg_split_keeps_patients_apart_and_the_official_test_out():
    split = read_split(SPLITS / "monuseg.json")
    train, validation = ({patient_of(tile) for tile in tiles} for tiles in (split.train, split.validation))
    test = {f"TCGA-{patient}" for patients in TEST_ORGANS.values() for patient in patients}
    assert not train & validation
    assert not (train | validation) & test
    assert len(train | validation) == 30


def test_consep_counts(real_data):
    split = read_split(SPLITS / "consep.json")
    counts = json.loads((SPLITS / "consep.json").read_text())["counts"]
    records = list_tiles("consep", real_data / "consep")
    for part in ("train", "validation"):
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
    for part in ("train", "validation"):
        tiles = [record.load() for record in select_tiles(records, getattr(split, part))]
        tissues = [tile.tissue for tile in tiles]
        assert {tissue: tissues.count(tissue) for tissue in tissues} == counts[part]["tiles_by_tissue"]
        nuclei = sum(np.count_nonzero(np.bincount(tile.instance_map.ravel())[1:]) for tile in tiles)
        assert nuclei == counts[part]["nuclei"]
    # Label maps rebuilt from colour masks may merge touching nuclei, so none of them may judge a model.
    for record in select_tiles(records, split.validation):
        assert record.metadata.get("labels_from", "xml") == "xml"
