"""Why: a conversion takes time and space; it must be complete or absent, and refuse early what it cannot store."""

import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest

from cfsam_hf.data.parquet_writer import write_shards
from cfsam_hf.data.records import make_tile

from .readers.test_parquet import records


def noise(record):
    image = np.random.default_rng(record.index).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    label_map = np.ones((400, 400), dtype=np.int32)
    return make_tile(record, image, label_map, label_map)


def test_shards_are_numbered_by_fold_and_split_by_size(tmp_path):
    made = [replace(record, decode=noise, fold="a" if record.index < 6 else "b/c") for record in records(8)]
    files = write_shards(made, tmp_path / "new" / "out", shard_bytes=1_000_000)
    # 480 kB a tile: a shard ends with the tile by which it passes 1 MB, the third.
    assert {file.name: pyarrow.parquet.read_metadata(file).num_rows for file in files} == {
        "a-00000-of-00002.parquet": 3,
        "a-00001-of-00002.parquet": 3,
        "b_c-00000-of-00001.parquet": 2,
    }


def test_groups_are_small_enough_to_read_one_tile(tmp_path):
    made = [replace(record, decode=noise, fold=None) for record in records(8)]
    (file,) = write_shards(made, tmp_path)
    metadata = pyarrow.parquet.read_metadata(file)
    assert metadata.num_rows == 8
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 2]


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path):
    def fail(record):
        raise OSError("t3.npy: truncated")

    made = records()
    made[3] = replace(made[3], decode=fail)
    with pytest.raises(OSError, match=r"t3\.npy: truncated"):
        write_shards(made, tmp_path / "out", shard_bytes=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_stored_is_refused(tmp_path):
    other_types = replace(records()[1], type_names={1: "any"})
    beyond = [replace(record, type_names={255: "x"}) for record in records()]
    for made, message in (
        ([], "no tiles"),
        ([records()[0], other_types], "tile t1 of own has the types {1: 'any'}"),
        ([records()[0], replace(records()[1], dataset="b")], "folder of its own"),
        (beyond, "1..254"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shards(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_of_an_earlier_conversion_are_not_mixed_with_new_ones(tmp_path):
    write_shards(records(), tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match=r"holds .*\.parquet already; choose another folder"):
        write_shards(records(2), tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_progress_and_missing_extra(tmp_path, monkeypatch):
    seen = []
    write_shards(records(3), tmp_path / "a", progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'cfsam_hf\[train\]'"):
        write_shards(records(3), tmp_path / "b")
