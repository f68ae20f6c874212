"""Why: shards must restore the tiles bit for bit and stream through `datasets`; damage must be reported."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cfsam_hf.data import list_tiles, load_nuclei_dataset
from cfsam_hf.data.parquet_writer import write_shards
from cfsam_hf.data.polygons import Overlaps
from cfsam_hf.data.readers.parquet import METADATA_KEY
from cfsam_hf.data.records import UNKNOWN_TYPE, Tile, TileRecord, make_tile

from ...data_cases import nuclei, painted, save_image, truncate

TYPES = {1: "tumour", 2: "stroma", 4: "other"}


def decode(record: TileRecord) -> Tile:
    """Tiles of every kind by number: without types, unknown types, unannotated areas, none, ids beyond 16 bits."""
    number = int(record.id[1:])
    label_map = nuclei(40 + number, 50, ids=(1, 5, 70_000) if number == 3 else range(1, number + 1))
    type_map = None
    if number != 1:
        type_map = np.array([0, 1, 2, 4, UNKNOWN_TYPE])[label_map % 5]
        type_map[(type_map == 0) & (label_map > 0)] = 1
    annotated = np.arange(50)[None, :] < np.full((40 + number, 1), 30) if number == 2 else None
    overlaps = Overlaps(2, 9, 1, 3) if number == 4 else None
    return make_tile(record, painted(label_map), label_map, type_map, annotated, overlaps=overlaps)


def records(count: int = 6) -> list[TileRecord]:
    """Folds alternate, so that the order of the shards is not that of the tiles."""
    return [
        TileRecord(
            dataset="own",
            id=f"t{number}",
            image_path=Path(f"t{number}.npy"),
            label_path=Path("labels.npy"),
            decode=decode,
            index=number,
            tissue="Colon" if number % 3 else None,
            mpp=0.25 if number else None,
            fold=("train", "test/1", None)[number % 3],
            type_names=TYPES,
            allow_empty=number == 0,
            metadata={"patient": f"P{number // 2}", "note": 'ä"\n'},
        )
        for number in range(count)
    ]


def assert_same(one: Tile, other: Tile) -> None:
    for field in fields(Tile):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, field.name)
        else:
            assert left == right, field.name


@pytest.fixture
def shards(tmp_path) -> Path:
    write_shards(records(), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("shard_bytes", [1, 400, 10**9])
def test_tiles_come_back_as_they_were(tmp_path, shard_bytes):
    files = write_shards(records(), tmp_path / "out", shard_bytes)
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    read = list_tiles("parquet", tmp_path / "out")
    for before, after in zip(records(), read, strict=True):
        assert_same(before.load(), after.load())
        for name in ("dataset", "id", "tissue", "mpp", "fold", "type_names", "allow_empty", "metadata"):
            assert getattr(before, name) == getattr(after, name), name


def test_rows_of_the_data_set(shards):
    dataset = load_nuclei_dataset("parquet", shards)
    assert dataset.unique("fold") == ["train", "test/1", None]
    row = dataset[4]
    np.testing.assert_array_equal(row["type_map"], records()[4].load().type_map)
    assert (row["id"], row["mpp"], row["annotated"]) == ("t4", 0.25, None)
    assert [row["id"] for row in load_nuclei_dataset("parquet", shards, split="test/1")] == ["t1", "t4"]
    assert [record.id for record in list_tiles("parquet", shards / "all-00000-of-00001.parquet")] == ["t2", "t5"]


def test_shards_stream(shards):
    import datasets

    files = {
        split: str(shards / f"{fold}-*") for split, fold in (("train", "train"), ("test", "test_1"), ("other", "all"))
    }
    streams = datasets.load_dataset("parquet", data_files=files, streaming=True)
    rows = list(streams["train"])
    assert [row["id"] for row in rows] == ["t0", "t3"]
    tile = records()[3].load()
    np.testing.assert_array_equal(np.asarray(rows[1]["image"]), tile.image)
    np.testing.assert_array_equal(np.asarray(rows[1]["instance_map"]), tile.instance_map)
    assert rows[1]["types"] == [1]
    names = streams["train"].features["types"].feature.names
    assert {i: names[i] for i in TYPES} == TYPES
    untyped = next(iter(streams["test"]))
    assert (untyped["id"], untyped["type_map"], untyped["types"]) == ("t1", None, [])
    partly = next(iter(streams["other"]))
    np.testing.assert_array_equal(np.asarray(partly["annotated"]), records()[2].load().annotated)


def test_damaged_and_missing_shards_are_named(tmp_path):
    files = write_shards(records(), tmp_path, shard_bytes=1)
    assert [file.name for file in files[-2:]] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    content = files[-1].read_bytes()
    for share in (0, 0.5, 0.99):
        files[-1].write_bytes(content)
        truncate(files[-1], share)
        with pytest.raises(OSError, match=r"train-00001-of-00002\.parquet: not a Parquet file"):
            list_tiles("parquet", tmp_path)
    files[-1].unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001-of-00002\.parquet: missing from a set of 2"):
        list_tiles("parquet", tmp_path)


def test_damage_within_is_named_when_the_row_is_read(shards):
    (file,) = shards.glob("train-*")
    record = list_tiles("parquet", shards)[0]
    whole = file.read_bytes()
    start = whole.index(b"\x89PNG")
    file.write_bytes(whole[: start + 40] + b"\0" * 200 + whole[start + 240 :])
    with pytest.raises((OSError, ValueError), match=r"train-00000-of-00001\.parquet"):
        record.load()
    file.unlink()
    with pytest.raises(OSError, match=r"train-00000-of-00001\.parquet: row 0 cannot be read"):
        record.load()


def test_files_of_others_are_refused(shards, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet: not a shard of"):
        list_tiles("parquet", tmp_path)
    renamed = [replace(record, dataset="another") for record in records()[:1]]
    (file,) = write_shards(renamed, tmp_path / "second")
    file.rename(shards / "z.parquet")
    with pytest.raises(ValueError, match=r"z\.parquet: holds another with"):
        list_tiles("parquet", shards)
    with pytest.raises(FileNotFoundError, match="cfsam data convert"):
        list_tiles("parquet", tmp_path / "second")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"dataset": "x"}', b'{"dataset": "x", "type_names": {"a": 1}}']
)
def test_metadata_that_cannot_be_used_is_named(shards, content):
    (file,) = shards.glob("train-*")
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.replace_schema_metadata({METADATA_KEY: content}), file)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: its metadata cannot be used"):
        list_tiles("parquet", shards)


def test_details_that_cannot_be_used_are_named(shards):
    (file,) = shards.glob("train-*")
    table = pyarrow.parquet.read_table(file)
    column = table.column_names.index("details")
    table = table.set_column(column, "details", pyarrow.array(["{}"] * len(table)))
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: its metadata cannot be used"):
        list_tiles("parquet", shards)


def test_a_fold_that_is_not_there(shards):
    with pytest.raises(ValueError, match="belongs to the split 'validation'"):
        list_tiles("parquet", shards, split="validation")


def test_files_are_kept_where_their_pixels_are_the_same_for_all(tmp_path):
    label_map = nuclei()
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for stem in ("a", "b", "c", "d"):
        save_image(tmp_path / f"{stem}_instances.png", label_map.astype(np.uint16))
    save_image(tmp_path / "a.jpg", image, quality=60)
    exif = Image.Exif()
    exif[0x0112] = 3
    save_image(tmp_path / "b.jpg", image, quality=60, exif=exif)
    save_image(tmp_path / "c.jpg", image[..., 0], quality=60)
    save_image(tmp_path / "d.png", np.dstack([image, np.full((40, 50), 9, np.uint8)]))
    before = list_tiles("instance_pairs", tmp_path)
    (file,) = write_shards(before, tmp_path / "out")
    stored = [row["bytes"] for row in pyarrow.parquet.read_table(file)["image"].to_pylist()]
    assert stored[0] == (tmp_path / "a.jpg").read_bytes()
    assert [content[:4] for content in stored[1:]] == [b"\x89PNG"] * 3
    for one, other in zip(before, list_tiles("parquet", tmp_path / "out"), strict=True):
        assert_same(one.load(), other.load())


@pytest.mark.parametrize(("name", "folder"), [("consep", "consep"), ("instance_pairs", "dsb2018")])
def test_real_tiles_come_back(real_data, tmp_path, name, folder):
    before = list_tiles(name, real_data / folder)[:4]
    write_shards(before, tmp_path / "out")
    for one, other in zip(before, list_tiles("parquet", tmp_path / "out"), strict=True):
        assert_same(one.load(), other.load())
