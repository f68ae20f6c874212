"""Why: settings are chosen on tuning tiles, never on validation tiles, and writing them must change nothing else."""

import json
from pathlib import Path

import pytest

from cfsam_hf import CfSamImageProcessor, CfSamProcessor
from cfsam_hf.evaluation import tuning
from cfsam_hf.evaluation.tuning import checkpoint_folder, tuning_tiles, write_processor_options

from ..evaluation_cases import data_item, write_tiles

FILE = "processor_config.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    CfSamProcessor(CfSamImageProcessor(tile_size=96, tile_overlap=16)).save_pretrained(tmp_path)
    return tmp_path


def test_tiles_are_spread_over_the_tuning_tiles(tmp_path):
    tiles = write_tiles(tmp_path / "tiles", 6)
    split = {"dataset": "painted", "train": [f"tile{n}" for n in range(5)], "validation": ["tile5"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for count, expected in ((1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])):
        [(name, records)] = tuning_tiles([data_item(tiles)], count).items()
        assert name == "painted"
        assert [record.id for record in records] == [f"tile{n}" for n in expected]
    with pytest.raises(ValueError, match="tiles must be positive, got 0"):
        tuning_tiles([data_item(tiles)], 0)
    (tmp_path / "split.json").write_text(json.dumps({**split, "train": [], "validation": ["tile5"]}))
    with pytest.raises(ValueError, match="train"):
        tuning_tiles([data_item(tiles)], 1)


def test_tuning_tiles_take_the_place_of_training_tiles(tmp_path):
    tiles = write_tiles(tmp_path / "tiles", 4)
    split = {"dataset": "painted", "train": ["tile0"], "tuning": ["tile1", "tile2"], "validation": ["tile3"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    [records] = tuning_tiles([data_item(tiles)], 9).values()
    assert [record.id for record in records] == ["tile1", "tile2"]


def test_other_options_of_the_file_stay(folder):
    record = json.loads((folder / FILE).read_text())
    record["auto_map"] = record["image_processor"]["auto_map"] = {"AutoProcessor": "processing_cfsam.CfSamProcessor"}
    (folder / FILE).write_text(json.dumps(record))
    processor = CfSamImageProcessor(tile_size=96, tile_overlap=16)
    write_processor_options(folder, processor, decoding={"minimum_area": 9})
    assert processor.decoding == {"minimum_area": 9}
    record["image_processor"]["decoding"] = {"minimum_area": 9}
    assert json.loads((folder / FILE).read_text()) == record
    assert sorted(path.name for path in folder.iterdir()) == [FILE]
    assert CfSamImageProcessor.from_pretrained(folder).tile_size == 96
    assert CfSamProcessor.from_pretrained(folder).image_processor.decoding_parameters().minimum_area == 9


def test_a_checkpoint_without_the_file_gets_one(tmp_path):
    write_processor_options(tmp_path, CfSamImageProcessor(tile_size=96, tile_overlap=16), decoding={"minimum_area": 9})
    loaded = CfSamImageProcessor.from_pretrained(tmp_path)
    assert (loaded.tile_size, loaded.decoding_parameters().minimum_area) == (96, 9)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_name_is_no_folder_whose_processor_could_be_written():
    with pytest.raises(OSError, match="cfsam-tiny: no such folder"):
        checkpoint_folder("cfsam-tiny")


def test_a_failure_leaves_the_file_as_it_was(folder, monkeypatch):
    before, processor = (folder / FILE).read_bytes(), CfSamImageProcessor()
    with pytest.raises(ValueError, match="minimum_area is -1"):
        write_processor_options(folder, processor, decoding={"minimum_area": -1})
    assert processor.decoding is None
    with pytest.raises(OSError, match="no such folder"):
        write_processor_options(folder / "none", processor, decoding={"minimum_area": 9})

    def full(path, *arguments, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", lambda path, *arguments, **options: full(path))
    with pytest.raises(OSError, match="No space left"):
        write_processor_options(folder, processor, decoding={"minimum_area": 9})
    assert (folder / FILE).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert tuning.PROCESSOR_NAME == FILE
