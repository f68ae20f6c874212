"""Why: data sets with different type names must train one model, with types renamed, merged or ignored as stated."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.crops.dataset import CropDataset, CropSource
from cfsam_hf.data.data_items import DataItem
from cfsam_hf.data.records import UNKNOWN_TYPE, Tile, TileRecord
from cfsam_hf.data.vocabulary import joint_type_names, match_types, read_type_map, rename_types

from ..data_cases import nuclei, painted, save_image

NAMES = {1: "lymphocyte", 2: "plasma cell", 3: "epithelial", 4: "other"}


def decode(record: TileRecord) -> Tile:
    """Four nuclei of the types 1 to 4 and one of unknown type."""
    ids = nuclei(ids=range(1, 6))
    types = np.array([0, 1, 2, 3, 4, UNKNOWN_TYPE], dtype=np.int16)[ids]
    return Tile(painted(ids), ids, types, record.id, type_names=dict(record.type_names))


def record() -> TileRecord:
    return TileRecord("mine", "a", Path("a.png"), Path("a.json"), decode, type_names=NAMES)


def test_types_are_merged_renamed_and_ignored():
    type_map = {"lymphocyte": "inflammatory", "plasma cell": "inflammatory", "epithelial": "epithelial", "other": None}
    renamed = pickle.loads(pickle.dumps(rename_types(record(), type_map)))
    assert renamed.type_names == {1: "inflammatory", 2: "epithelial"}
    tile = renamed.load()
    assert tile.type_names == renamed.type_names
    types = [np.unique(tile.type_map[tile.instance_map == label]).tolist() for label in range(6)]
    assert types == [[0], [1], [1], [2], [UNKNOWN_TYPE], [UNKNOWN_TYPE]]


def test_a_data_set_can_lose_its_types():
    renamed = rename_types(record(), None)
    assert renamed.type_names == {}
    assert renamed.load().type_map is None
    assert match_types(renamed.type_names, {1: "epithelial"}) is None


def test_maps_must_fit():
    with pytest.raises(ValueError, match="it lacks 'epithelial', 'other'; there is no type 'lymphocytes'"):
        rename_types(record(), {"lymphocytes": "a", "lymphocyte": "a", "plasma cell": "a"})
    with pytest.raises(ValueError, match=r"no type 'b' \(it has 'a'\)"):
        match_types({1: "a", 2: "b"}, {1: "a"})


@pytest.mark.parametrize("content", ["[1]", '{"a": 3}', '{"a": " "}', "{"])
def test_bad_files(tmp_path, content):
    path = tmp_path / "map.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"map\.json"):
        read_type_map(path)


def test_mixed_data_sets_train_the_right_heads():
    fine = {"lymphocyte": "lymphocyte", "plasma cell": "plasma cell", "epithelial": "epithelial", "other": None}
    first = rename_types(record(), fine).load()
    # A coarse data set: its 'inflammatory' may be either fine type, so only 'epithelial' has a label.
    ids = nuclei(ids=(1, 2))
    coarse_record = TileRecord(
        "coarse",
        "b",
        Path("b.png"),
        Path("b.json"),
        lambda r: Tile(painted(ids), ids, ids.astype(np.int16), r.id, type_names=dict(r.type_names)),
        type_names={1: "inflammatory", 2: "epithelial"},
    )
    second = rename_types(coarse_record, {"inflammatory": None, "epithelial": "epithelial"}).load()
    untyped = Tile(painted(ids), ids, None, "c")
    empty = Tile(painted(0 * ids), 0 * ids, (0 * ids).astype(np.int16), "d", type_names=first.type_names)
    partly = Tile(painted(ids), ids, None, "e", annotated=np.arange(50) < np.full((40, 1), 25))
    names = joint_type_names([tile.type_names for tile in (first, second, untyped, empty)])
    assert names == {1: "lymphocyte", 2: "plasma cell", 3: "epithelial"}
    labels = {}
    for tile in (first, second, untyped, empty, partly):
        source = CropSource(tile.id, [tile], type_mapping=match_types(tile.type_names, names))
        data = CropDataset([source], 40, (0, 0, 0), (1, 1, 1), length=8, num_types=3, augmentation=None)
        crops = [data[i] for i in range(8)]
        labels[tile.id] = {
            name: set(np.unique([crop[name] for crop in crops]).tolist()) for name in ("nuclei_labels", "type_labels")
        }
    assert labels == {
        "a": {"nuclei_labels": {0, 1}, "type_labels": {-100, 0, 1, 2, 3}},
        "b": {"nuclei_labels": {0, 1}, "type_labels": {-100, 0, 3}},
        "c": {"nuclei_labels": {0, 1}, "type_labels": {-100}},
        "d": {"nuclei_labels": {0}, "type_labels": {0}},
        "e": {"nuclei_labels": {-100, 0, 1}, "type_labels": {-100}},
    }


def test_type_maps_are_reached_from_the_data_item(tmp_path):
    ids = nuclei()
    folder = tmp_path / "tiles"
    save_image(folder / "a.png", painted(ids))
    save_image(folder / "a_instances.png", ids.astype(np.uint16))
    (tmp_path / "map.json").write_text(json.dumps({}))
    for types in (tmp_path / "map.json", "none"):
        item = DataItem.parse(f"reader=instance_pairs,path={folder},types={types}")
        (found,) = item.records("train")
        assert found.load().type_map is None
    (tmp_path / "map.json").write_text(json.dumps({"tumour": None}))
    with pytest.raises(ValueError, match="there is no type 'tumour'"):
        DataItem.parse(f"reader=instance_pairs,path={folder},types={tmp_path / 'map.json'}").records("train")
