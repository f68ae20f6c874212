"""Why: own tiles must be found with any annotation format, split without leaks, and kept unchanged."""

import json

import cv2
import numpy as np
import pytest

from cfsam_hf.data import list_tiles
from cfsam_hf.data.records import UNKNOWN_TYPE
from cfsam_hf.training.own_tiles import (
    HELD_OUT,
    TRAIN,
    TileSummary,
    choose_held_out,
    cut_record,
    keep_tiles,
    list_own_tiles,
    part_records,
    summarize_own_tiles,
    unusual,
)
from cfsam_hf.training.tile_digests import changed_tile

from ..training_cases import TYPES, write_qupath_tiles, write_tiles


def summary(name: str, **nuclei: int) -> TileSummary:
    counts = {None if key == "none" else key: count for key, count in nuclei.items()}
    return TileSummary(name, (96, 96), None, counts, 1.0, name)


@pytest.fixture
def qupath(tmp_path):
    return write_qupath_tiles(tmp_path, 4)


@pytest.fixture
def apart(qupath, tmp_path):
    """The exports in a folder of their own."""
    folder = tmp_path / "exports"
    folder.mkdir()
    for path in qupath.glob("*.geojson"):
        path.rename(folder / path.name)
    return folder


def test_geojson_beside_the_images_or_in_a_folder_of_its_own(qupath, tmp_path):
    beside = summarize_own_tiles(list_own_tiles(qupath, qupath, mpp=0.5))
    folder = tmp_path / "exports"
    folder.mkdir()
    for path in qupath.glob("*.geojson"):
        path.rename(folder / path.name)
    apart = summarize_own_tiles(list_own_tiles(qupath, folder, mpp=0.5))
    assert [tile.id for tile in apart] == ["tile0", "tile1", "tile2", "tile3"]
    assert apart == beside
    assert apart[0].types == set(TYPES)
    assert apart[0].mpp == 0.5
    assert sum(apart[0].nuclei.values()) == apart[0].count > 4


def test_one_geojson_is_of_the_image_of_its_name_or_of_the_only_one(qupath, apart):
    [record] = list_own_tiles(qupath, apart / "tile2.geojson")
    assert (record.id, record.image_path.name) == ("tile2", "tile2.png")
    for path in sorted(qupath.glob("*.png"))[1:]:
        path.unlink()
    [record] = list_own_tiles(qupath, (apart / "tile2.geojson").rename(apart / "export.json"))
    assert record.id == "tile0"


def test_label_maps_with_types_in_another_folder(tmp_path):
    folder, maps = write_tiles(tmp_path), tmp_path / "maps"
    maps.mkdir()
    for path in folder.glob("*_instances.png"):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(maps / path.name.replace("_instances", "_types")), (labels > 0).astype(np.uint8))
        path.rename(maps / path.name)
    # What `cfsam segment` writes beside a label map is not one.
    cv2.imwrite(str(maps / "tile0_overlay.png"), np.zeros((8, 8, 3), np.uint8))
    records = list_own_tiles(folder, maps, type_names=["round", "flat"])
    tiles = summarize_own_tiles(records)
    assert [tile.id for tile in tiles] == ["tile0", "tile1", "tile2"]
    assert tiles[0].nuclei.keys() == {"round"}
    with pytest.raises(ValueError, match="no names for"):
        list_own_tiles(folder, maps)


def test_images_without_annotation_are_named_or_left_out(qupath, apart):
    (apart / "tile1.geojson").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.geojson file for tile1\.png"):
        list_own_tiles(qupath, apart)
    records = list_own_tiles(qupath, apart, annotated_only=True)
    assert [record.id for record in records] == ["tile0", "tile2", "tile3"]
    (qupath / "tile0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image for tile0\.geojson"):
        list_own_tiles(qupath, apart, annotated_only=True)


def test_label_maps_without_annotation_are_left_out_too(tmp_path):
    folder = write_tiles(tmp_path)
    (folder / "tile1_instances.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"tile1\.png"):
        list_own_tiles(folder, folder)
    assert [r.id for r in list_own_tiles(folder, folder, annotated_only=True)] == ["tile0", "tile2"]


def test_an_index_that_says_another_pixel_size_is_refused(tmp_path):
    folder = write_tiles(tmp_path)
    (folder / "index.csv").write_text("id,mpp,fold\ntile0,0.5,test\n")
    with pytest.raises(ValueError, match=r"tiles of mpp 0\.5, but 0\.25 was given"):
        list_own_tiles(folder, folder, mpp=0.25)
    assert [(r.mpp, r.fold) for r in list_own_tiles(folder, folder)] == [(0.5, None), (None, None), (None, None)]


def test_a_class_that_is_not_among_the_given_types_and_tiles_without_nuclei_are_refused(qupath):
    with pytest.raises(ValueError, match="unknown class 'flat'; the types are round"):
        summarize_own_tiles(list_own_tiles(qupath, qupath, type_names=["round"]))
    for path in qupath.glob("*.geojson"):
        path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(ValueError, match="no nuclei in the annotations of tile0"):
        summarize_own_tiles(list_own_tiles(qupath, qupath))


def test_the_digests_see_a_label_that_changed(qupath):
    def digests():
        return [tile.digest for tile in summarize_own_tiles(list_own_tiles(qupath, qupath))]

    before = digests()
    assert digests() == before
    path = qupath / "tile3.geojson"
    collection = json.loads(path.read_text())
    collection["features"][0]["properties"]["classification"]["name"] = TYPES[0]
    path.write_text(json.dumps(collection))
    changed = changed_tile({"own": before}, {"own": digests()})
    assert changed == "the annotation of the own tile tile3 is different"


def test_what_is_held_out_has_nuclei_and_leaves_every_type_to_train_on():
    tiles = [summary(f"t{i}", a=3) for i in range(8)] + [summary("rare", a=3, b=1), summary("empty")]
    chosen = {tuple(choose_held_out(tiles, 0.3, seed)) for seed in range(20)}
    assert len(chosen) > 5
    for names in chosen:
        assert len(names) == 3
        assert not {"rare", "empty"} & set(names)
        assert list(names) == sorted(names)
    assert choose_held_out(tiles, 0.3, 4) == choose_held_out(tiles, 0.3, 4)


def test_tiles_in_which_every_nucleus_has_a_type_are_held_out_first():
    tiles = [summary(f"t{i}", a=2, none=1) for i in range(6)] + [summary("u", a=2), summary("v", a=2)]
    for seed in range(5):
        assert choose_held_out(tiles, 0.2, seed) == ["u", "v"]


def test_where_every_tile_has_a_type_of_its_own_one_is_held_out_all_the_same():
    assert choose_held_out([summary("x", a=1), summary("y", b=1)], 0.5, 0) in (["x"], ["y"])
    with pytest.raises(ValueError, match="nothing can be held out"):
        choose_held_out([summary("x", a=1), summary("empty")], 0.5, 0)


def test_tiles_held_out_by_name(qupath):
    records = list_own_tiles(qupath, qupath)
    assert [r.fold for r in part_records(records, ["tile1"])] == [TRAIN, HELD_OUT, TRAIN, TRAIN]
    with pytest.raises(ValueError, match="no annotated image tile9 to hold out; choose from tile0"):
        part_records(records, ["tile9"])
    with pytest.raises(ValueError, match="all tiles are held out"):
        part_records(records, [f"tile{i}" for i in range(4)])


@pytest.mark.parametrize("seed", range(4))
def test_a_single_tile_is_cut_in_two(qupath, seed):
    record = list_own_tiles(qupath, qupath / "tile0.geojson")[0]
    whole = record.load()
    train, held_out = (part.load() for part in cut_record(record, 0.3, seed))
    assert (train.id, held_out.id) == ("tile0_train", "tile0_held_out")
    ends = [train, held_out]
    if not np.array_equal(whole.image[:, : train.image.shape[1]], train.image):
        ends.reverse()
    # Put together again they are the tile: no pixel is in both.
    for name in ("image", "instance_map", "type_map"):
        np.testing.assert_array_equal(np.hstack([getattr(end, name) for end in ends]), getattr(whole, name))
    assert train.image.shape[1] > held_out.image.shape[1] >= 32


def test_a_single_tile_with_a_nucleus_is_not_cut(qupath):
    path = qupath / "tile0.geojson"
    collection = json.loads(path.read_text())
    path.write_text(json.dumps({**collection, "features": collection["features"][:1]}))
    with pytest.raises(ValueError, match="only one tile, tile0, too small or with too few nuclei"):
        cut_record(list_own_tiles(qupath, path)[0], 0.2, 0)


def test_kept_tiles_come_back_as_they_were(qupath, tmp_path):
    path = qupath / "tile0.geojson"
    collection = json.loads(path.read_text())
    del collection["features"][0]["properties"]["classification"]
    region = {"type": "Polygon", "coordinates": [[[0, 0], [60, 0], [60, 60], [0, 60], [0, 0]]]}
    properties = {"objectType": "annotation", "classification": {"name": "Region*"}}
    collection["features"].append({"type": "Feature", "geometry": region, "properties": properties})
    path.write_text(json.dumps(collection))
    records = part_records(list_own_tiles(qupath, qupath, mpp=0.3), ["tile2"])
    item = keep_tiles(records, tmp_path / "kept")
    assert item == {"reader": "parquet", "train": TRAIN, "validation": HELD_OUT}
    for record, kept in zip(records, list_tiles("parquet", tmp_path / "kept"), strict=True):
        tile, same = record.load(), kept.load()
        assert (same.id, same.fold, same.mpp, dict(same.type_names)) == (tile.id, tile.fold, 0.3, tile.type_names)
        for name in ("image", "instance_map", "type_map", "annotated"):
            np.testing.assert_array_equal(getattr(same, name), getattr(tile, name))
    first = records[0].load()
    assert (first.type_map == UNKNOWN_TYPE).any()
    assert first.annotated.sum() == 3600
    # Once there, they are not written again.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    keep_tiles(records, tmp_path / "kept")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}


def test_the_single_class_nucleus_is_no_type(qupath):
    for path in qupath.glob("*.geojson"):
        path.write_text(path.read_text().replace('"flat"', '"nucleus"').replace('"round"', '"nucleus"'))
    records = list_own_tiles(qupath, qupath)
    assert records[0].type_names == {}
    [tile, *_] = summarize_own_tiles(records)
    assert tile.nuclei.keys() == {None}
    assert part_records(records, ["tile1"])[1].load().fold == HELD_OUT


def test_one_image_twice_is_refused(qupath):
    (qupath / "tile3.png").write_bytes((qupath / "tile1.png").read_bytes())
    with pytest.raises(ValueError, match="the images tile1 and tile3 are identical; remove one"):
        summarize_own_tiles(list_own_tiles(qupath, qupath))


def test_a_mask_is_refused_before_anything_is_trained(tmp_path):
    folder = write_tiles(tmp_path)
    path = next(iter(sorted(folder.glob("*_instances.png"))))
    cv2.imwrite(str(path), (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0).astype(np.uint8) * 255)
    with pytest.raises(ValueError, match=rf"{path.name}: the only id, 255, lies in"):
        summarize_own_tiles(list_own_tiles(folder, folder))


def test_what_is_unusual_is_said(qupath):
    path = qupath / "tile1.geojson"
    content = json.loads(path.read_text())
    features = content["features"] if isinstance(content, dict) else content
    features.append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}})
    path.write_text(json.dumps(content))
    tiles = summarize_own_tiles(list_own_tiles(qupath, qupath))
    assert unusual(tiles, mpp=0.5) == ["tile1: 1 object without area left out (1 Point)"]
    assert "is mpp right" in unusual(tiles, mpp=0.01)[1]
