"""Data items as they are written on a command line, and the tiles that they stand for."""

import csv

import pytest

from cfsam_hf.data.data_items import DataItem, records_by_dataset


@pytest.mark.parametrize("text", ["consep", "reader=consep", "reader=a,path=b,colour=c", "reader=a,path=b,weight=-1"])
def test_data_items_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match=text):
        DataItem.parse(text)


def test_a_split_of_which_some_tiles_are_missing_is_refused(training_root):
    pairs = training_root / "pairs"
    item = DataItem("instance_pairs", str(pairs), str(training_root / "split.json"))
    assert [record.id for record in records_by_dataset([item], "train")["painted"]] == ["tile0", "tile1"]
    (pairs / "tile1.png").unlink()
    (pairs / "tile1_instances.png").unlink()
    assert len(records_by_dataset([item], "validation")["painted"]) == 1
    with pytest.raises(ValueError, match="tile1 of the split"):
        records_by_dataset([item], "train")


def test_folds_take_the_place_of_a_split_file(training_root):
    with (training_root / "pairs" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "fold"), ("tile0", "1"), ("tile1", "2"), ("tile2", "3")])

    def parts(text: str) -> list[list[str]]:
        item = DataItem.parse(f"reader=instance_pairs,path={training_root / 'pairs'},{text}")
        return [[record.id for record in item.records(part)] for part in ("train", "validation", "test", "all")]

    everything = ["tile0", "tile1", "tile2"]
    assert parts("train=1+3,validation=2") == [["tile0", "tile2"], ["tile1"], [], everything]
    assert parts("train=1,validation=2,test=3") == [["tile0"], ["tile1"], ["tile2"], everything]
    with pytest.raises(ValueError, match="has the folds 1, 2, 3, not 4"):
        parts("train=4")
    with pytest.raises(ValueError, match="folds and a split file"):
        parts(f"train=1,split={training_root / 'split.json'}")
