"""Why: data items from a command line must select exactly the tiles that they name."""

import csv
import inspect
import json
from dataclasses import fields

import pytest

from cfsam_hf.data import READERS
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.data.readers.consep import MERGED_TYPES, RAW_TYPES
from cfsam_hf.data.registry import option_choices

from .readers.test_consep import write_tile


@pytest.mark.parametrize(
    "text",
    [
        "consep",
        "reader=consep",
        "reader=a,path=b,colour=c",
        "reader=a,path=b,weight=-1",
        "reader=a,path=b,scale_jitter=0.9",
        "reader=a,path=b,incomplete=2",
        "reader=a,path=b,taught=2",
    ],
)
def test_data_items_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match=text):
        DataItem.parse(text)


def test_settings_of_the_crops():
    plain = DataItem.parse("reader=instance_pairs,path=x")
    assert (plain.style, plain.scale_jitter, plain.incomplete, plain.taught) == (None, 1.0, False, True)
    assert not DataItem.parse("reader=instance_pairs,path=x,taught=False").taught
    # As YAML writes a truth value.
    item = DataItem.parse("reader=instance_pairs,path=x,style=soft,scale_jitter=1.2,incomplete=True")
    assert (item.style, item.scale_jitter, item.incomplete, item.options) == ("soft", 1.2, True, {})


def test_a_split_of_which_some_tiles_are_missing_is_refused(training_root):
    pairs = training_root / "pairs"
    item = DataItem("instance_pairs", str(pairs), str(training_root / "split.json"))
    assert [record.id for record in records_by_dataset([item], "train")["painted"]] == ["tile0", "tile1"]
    (pairs / "tile1.png").unlink()
    (pairs / "tile1_instances.png").unlink()
    assert len(records_by_dataset([item], "validation")["painted"]) == 1
    with pytest.raises(ValueError, match="tile1 of the split"):
        records_by_dataset([item], "train")


def test_a_split_of_three_parts_gives_each_its_tiles(training_root):
    parts = {"train": ["tile0"], "tuning": ["tile1"], "validation": ["tile2"]}
    (training_root / "split.json").write_text(json.dumps({"dataset": "painted", **parts}))
    item = DataItem("instance_pairs", str(training_root / "pairs"), str(training_root / "split.json"))
    assert {part: [record.id for record in item.records(part)] for part in parts} == parts
    assert [record.id for record in records_by_dataset([item], "tuning")["painted"]] == ["tile1"]


def test_folds_take_the_place_of_a_split_file(training_root):
    with (training_root / "pairs" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "fold"), ("tile0", "1"), ("tile1", "2"), ("tile2", "3")])

    def parts(text: str) -> list[list[str]]:
        item = DataItem.parse(f"reader=instance_pairs,path={training_root / 'pairs'},{text}")
        return [
            [record.id for record in item.records(part)] for part in ("train", "validation", "test", "all", "tuning")
        ]

    everything = ["tile0", "tile1", "tile2"]
    assert parts("train=1+3,validation=2") == [["tile0", "tile2"], ["tile1"], [], everything, []]
    assert parts("train=1,validation=2,test=3") == [["tile0"], ["tile1"], ["tile2"], everything, []]
    assert parts("train=1,validation=2,tuning=3") == [["tile0"], ["tile1"], [], everything, ["tile2"]]
    with pytest.raises(ValueError, match="has the folds 1, 2, 3, not 4"):
        parts("train=4")
    with pytest.raises(ValueError, match="folds and a split file"):
        parts(f"train=1,split={training_root / 'split.json'}")


def test_a_readers_own_types_and_a_vocabulary_are_told_apart(tmp_path):
    write_tile(tmp_path / "CoNSeP" / "Train", "train_1", (1, 2, 3, 4, 5, 6, 7))
    vocabulary = tmp_path / "joint.json"
    vocabulary.write_text(json.dumps(dict.fromkeys(RAW_TYPES.values(), "all")))

    def names(types: str) -> dict[int, str]:
        item = DataItem.parse(f"reader=consep,path={tmp_path / 'CoNSeP'}{types}")
        (record,) = item.records("train")
        assert record.load().type_names == record.type_names
        return record.type_names

    assert names("") == names(",types=merged") == MERGED_TYPES
    assert names(",types=raw") == RAW_TYPES
    assert names(",types=none") == {}
    assert names(f",types=raw,types={vocabulary}") == names(f",types={vocabulary},types=raw") == {1: "all"}
    with pytest.raises(FileNotFoundError, match="types=rw: no such file, and not one of merged, raw, none"):
        names(",types=rw")
    # For a reader without that setting it is a file like any other.
    assert DataItem.parse("reader=instance_pairs,path=x,types=raw").types == "raw"


def test_no_reader_has_a_setting_that_a_data_item_would_hide():
    own = {one.name for one in fields(DataItem)}
    hidden = {
        (reader, option)
        for reader, function in READERS.items()
        for option in inspect.signature(function).parameters
        if option in own - {"path", "split"}
    }
    assert hidden == {("consep", "types")}
    assert option_choices("consep", "types") == ("merged", "raw")


def test_a_mistyped_name_is_told_all_that_there_are(tmp_path):
    with pytest.raises(ValueError, match="has no option 'wieght'") as caught:
        DataItem.parse("reader=consep,path=x,wieght=2")
    message = str(caught.value)
    assert "it has types, stored_types, mpp, allow_empty; every data item has reader, path, split, weight" in message
    # What it lists is taken.
    for setting in ("types=raw", "stored_types=raw", "mpp=0.5", "allow_empty=true"):
        assert set(DataItem.parse(f"reader=consep,path=x,{setting}").options) == {setting.partition("=")[0]}
