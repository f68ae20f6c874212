"""Why: COCO stores columns first and numbers categories freely; masks must be upright and types in order."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers import run_lengths
from cfsam_hf.data.readers.coco import list_coco
from cfsam_hf.data.readers.label_maps import read_label_map
from cfsam_hf.data.readers.run_lengths import run_length_pixels
from cfsam_hf.outputs import write_coco
from tests.data_cases import nuclei, painted, save_image, truncate, types_by_id
from tests.export_cases import blob_map, make_result


def literal_run_lengths(mask: np.ndarray) -> list[int]:
    """Count down the columns, pixel by pixel."""
    lengths, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            lengths.append(0)
            inside = pixel
        lengths[-1] += 1
    return lengths


def polygon(x: float, y: float, width=4.0, height=5.0) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def annotation(number: int, segmentation, image=7, category=3, **more) -> dict:
    members = {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation}
    return members | {"bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0} | more


def write(folder: Path, annotations: list[dict], images=("a.png",), categories=None, name="truth.json") -> Path:
    """Write images of 40 x 50 px with the ids 7, 8, ... and the JSON file beside them."""
    for file in images:
        save_image(folder / file, painted(nuclei()))
    content = {
        "info": {},
        "images": [{"id": 7 + i, "file_name": file, "width": 50, "height": 40} for i, file in enumerate(images)],
        "annotations": annotations,
        "categories": categories or [{"id": 10, "name": "stroma"}, {"id": 3, "name": "tumour"}],
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 5)) < rng.random()
    pixels = run_length_pixels(literal_run_lengths(mask), 7, 5)
    assert sorted(pixels.tolist()) == np.flatnonzero(mask).tolist()


def test_the_documented_example():
    assert doctest.testmod(run_lengths) == (0, 2)


def test_polygons_and_run_lengths(tmp_path):
    mask = np.zeros((40, 50), dtype=bool)
    mask[20:25, 10:17] = True
    entries = [
        annotation(1, [polygon(2, 2)]),
        annotation(5, {"size": [40, 50], "counts": literal_run_lengths(mask)}, category=10),
        annotation(6, [polygon(20, 2), polygon(26, 2), polygon(27, 2)]),
        annotation(9, [polygon(40, 30)], image=8),
    ]
    path = write(tmp_path, entries, images=("a.png", "b.png"))
    records = list_coco(path, mpp=0.25)
    assert [record.id for record in records] == ["a", "b"]
    tile = records[0].load()
    assert tile.type_names == {1: "tumour", 2: "stroma"}
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2], 3: [1]}
    np.testing.assert_array_equal(tile.instance_map == 2, mask)
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [20, 35, 45]
    np.testing.assert_array_equal(tile.image, painted(nuclei()))
    assert (tile.mpp, tile.annotated) == (0.25, None)
    assert records[1].load().instance_map[32, 42] == 1


def test_overlaps_and_crowds(tmp_path):
    entries = [
        annotation(1, [polygon(2, 2)]),
        annotation(2, [polygon(4, 2, 20, 20)], category=10),
        annotation(3, {"size": [40, 50], "counts": [1200, 800]}, iscrowd=1),
    ]
    path = write(tmp_path, entries)
    tile = list_coco(path)[0].load()
    assert (tile.type_map[4, 5], tile.instance_map.max()) == (2, 2)
    assert (tile.overlaps.nuclei, tile.overlaps.pixels) == (2, 10)
    assert not tile.annotated[:, 30:].any()
    assert tile.annotated[:, :30].all()
    assert list_coco(path, overlap="smaller")[0].load().type_map[4, 5] == 1


def test_one_category_is_no_type(tmp_path):
    path = write(tmp_path, [annotation(1, [polygon(2, 2)])], categories=[{"id": 3, "name": "nucleus"}])
    tile = list_coco(path)[0].load()
    assert (tile.type_map, tile.type_names) == (None, {})


def test_where_files_lie(tmp_path):
    write(tmp_path / "images", [], ("s/a.png", "s/b.png"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "truth.json").rename(tmp_path / "annotations" / "truth.json")
    assert [record.id for record in list_coco(tmp_path)] == ["s_a", "s_b"]
    assert len(list_coco(tmp_path / "annotations" / "truth.json", images=tmp_path / "images")) == 2
    (tmp_path / "predictions.json").write_text("{}")
    with pytest.raises(ValueError, match=r"several \.json files \(annotations/truth\.json, predictions\.json\)"):
        list_coco(tmp_path)
    assert len(list_coco(tmp_path, annotations="annotations/truth.json")) == 2
    (tmp_path / "images" / "s" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image s/b\.png of .*truth\.json; .*pass images="):
        list_coco(tmp_path, annotations="annotations/truth.json")
    with pytest.raises(FileNotFoundError, match=r"no \.json file"):
        list_coco(tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_coco(tmp_path / "elsewhere")


def test_our_own_export_comes_back(tmp_path):
    label_map = blob_map(size=80)
    save_image(tmp_path / "a.png", painted(label_map))
    write_coco(make_result(label_map, image_name="a.png", mpp=0.23), tmp_path / "a.json")
    tile = list_coco(tmp_path)[0].load()
    np.testing.assert_array_equal(tile.instance_map, label_map)
    expected = {label: [(label - 1) % 3 + 1] for label in range(1, label_map.max() + 1)}
    assert types_by_id(tile.instance_map, tile.type_map) == expected
    assert tile.mpp == 0.23


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no segmentation; boxes alone"),
        (None, "no segmentation"),
        ({"size": [50, 40], "counts": [2000]}, r"its mask is \[50, 40\], the image 40 x 50"),
        ({"size": [40, 50], "counts": [1999]}, "add up to 1999"),
        ({"size": [40, 50], "counts": [2001, -1]}, "at least 0"),
        ({"size": [40, 50], "counts": "0é"}, "no character"),
        ({"size": [40, 50], "counts": "P"}, "end within a number"),
        ({"counts": [2000]}, "its mask is None"),
        ({"size": [40, 50], "counts": [2**63 - 1, 2**63 - 1, 2002]}, "add up to more than 40 x 50"),
        ({"size": [40, 50], "counts": [2**70, 1]}, "add up to more than 40 x 50"),
        ({"size": [40, 50], "counts": [1999.5]}, "whole numbers"),
        ({"size": [40, 50], "counts": [[2000], []]}, "whole numbers"),
        ({"size": [40, 50], "counts": [True] * 2000}, "whole numbers"),
        ({"size": [40, 50], "counts": None}, "whole numbers"),
        ({"size": [40, 50], "counts": "o" * 100_000}, "too many characters"),
        ([[1, 2, 3]], "pairs of finite numbers"),
        ([["a", 2]], "pairs of finite numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "pairs of finite numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "pairs of finite numbers"),
        ([[1, 2, [3], 4, 5, 6]], "pairs of finite numbers"),
        ([None], "pairs of finite numbers"),
        ("mask.png", "segmentation must be run lengths or a list of polygons"),
        ([polygon(900, 900)], "polygons reach 905 px"),
    ],
)
def test_masks_that_are_none(tmp_path, segmentation, message):
    path = write(tmp_path, [annotation(4, segmentation)])
    with pytest.raises(ValueError, match=rf"truth\.json: annotation 4 of a\.png .*{message}"):
        list_coco(path)[0].load()


@pytest.mark.parametrize(
    "name", ["s\\a.png", "C:\\data\\set\\s\\a.png", "/home/someone/set/s/a.png", "./s/a.png", "set/s/a.png"]
)
def test_paths_of_other_computers(tmp_path, name):
    path = write(tmp_path, [annotation(1, [polygon(2, 2)])], images=("s/a.png",))
    path.write_text(path.read_text().replace("s/a.png", name.replace("\\", "\\\\")))
    (record,) = list_coco(path)
    assert (record.id, record.image_path) == ("s_a", tmp_path / "s" / "a.png")
    assert record.load().instance_map.max() == 1


def test_two_names_of_one_file_are_refused(tmp_path):
    path = write(tmp_path, [], images=("a.png", "b.png"))
    path.write_text(path.read_text().replace("a.png", "/x/1/b.png").replace('"b.png"', '"/x/2/b.png"'))
    with pytest.raises(ValueError, match=r"truth\.json: the images '/x/1/b\.png' and '/x/2/b\.png' are both found at"):
        list_coco(path)


def test_polygons_of_converters(tmp_path):
    flat, pairs = polygon(2, 2), [[10, 2], [14, 2], [14, 7], [10, 7]]
    tile = list_coco(write(tmp_path, [annotation(1, flat), annotation(2, pairs)]))[0].load()
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [20, 20]
    (tile,) = [record.load() for record in list_coco(write(tmp_path, [annotation(1, [pairs])]))]
    assert (tile.instance_map > 0).sum() == 20


@pytest.mark.parametrize("value", [1, "1", True])
def test_all_crowds_are_objects(tmp_path, value):
    masks = [{"size": [40, 50], "counts": [80 * n + 10, 5, 1985 - 80 * n]} for n in range(10)]
    path = write(
        tmp_path, [annotation(n, mask, iscrowd=value) for n, mask in enumerate(masks)], images=("a.png", "b.png")
    )
    tile = list_coco(path)[0].load()
    assert (tile.instance_map.max(), tile.annotated) == (10, None)
    assert tile.notes == (
        "10 of 10 annotations of a.png have iscrowd 1, like all others in the file: read as single objects",
    )
    path = write(
        tmp_path,
        [annotation(99, [polygon(2, 2)], image=8), annotation(1, masks[0], iscrowd=value), annotation(2, masks[1])],
        images=("a.png", "b.png"),
    )
    tile = list_coco(path)[0].load()
    assert (tile.instance_map.max(), (~tile.annotated).sum()) == (1, 5)
    assert tile.notes == ("1 of 2 annotations of a.png have iscrowd 1: their area is not annotated",)
    assert list_coco(write(tmp_path, [annotation(1, masks[0], iscrowd="0")]))[0].load().annotated is None


@pytest.mark.parametrize(
    ("part", "member", "value", "message"),
    [
        ("images", "id", [1], "the id of an entry of 'images' must be a number or text, found \\[1\\]"),
        ("images", "id", None, "must be a number or text, found None"),
        ("images", "file_name", 5, "entry 0 of 'images': file_name must be the name of a file, found 5"),
        ("images", "file_name", "", "file_name must be the name"),
        ("images", "file_name", "..", "file_name must be the name"),
        ("images", "height", [40], "height must be a number of pixels"),
        ("images", "mpp", "fine", "mpp must be a number of micrometres"),
        ("images", "mpp", -1, "mpp must be a number of micrometres"),
        ("categories", "id", {}, "the id of an entry of 'categories' must be a number or text"),
        ("annotations", "image_id", [1], "image_id of annotation 4 must be a number or text"),
        ("annotations", "category_id", {"a": 1}, "category_id of annotation 4 must be a number or text"),
    ],
)
def test_entries_of_odd_types_are_named(tmp_path, part, member, value, message):
    path = write(tmp_path, [annotation(4, [polygon(2, 2)])])
    content = json.loads(path.read_text())
    content[part][0][member] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"truth\.json: .*{message}"):
        list_coco(path)


@pytest.mark.parametrize("ids", [("x", 3), (3, "x"), ("3", 3), (1.5, "x")])
def test_ids_are_all_numbers_or_all_texts(tmp_path, ids):
    """No order of the classes would be right, and "3" is another id than 3."""
    categories = [{"id": number, "name": name} for number, name in zip(ids, "ab", strict=True)]
    with pytest.raises(ValueError, match=r"truth\.json: the id of an entry of 'categories' is the text '[x3]'"):
        list_coco(write(tmp_path, [], categories=categories))
    texts = [{"id": "y", "name": "b"}, {"id": "x", "name": "a"}]
    (record,) = list_coco(write(tmp_path, [annotation(1, [polygon(2, 2)], category="y")], categories=texts))
    assert record.type_names == {1: "a", 2: "b"}


def test_ids_of_images_are_of_one_kind(tmp_path):
    path = write(tmp_path, [], images=("a.png", "b.png"))
    path.write_text(path.read_text().replace('"id": 8', '"id": "8"'))
    with pytest.raises(ValueError, match=r"the id of an entry of 'images' is the text '8'"):
        list_coco(path)


@pytest.mark.parametrize("name", [None, True, {"a": 1}, ["a"], "", "  "])
def test_names_of_categories_are_text(tmp_path, name):
    with pytest.raises(ValueError, match=r"truth\.json: the name of category 3 must be text"):
        list_coco(write(tmp_path, [], categories=[{"id": 3, "name": name}]))


def test_a_super_category_of_the_same_name_is_the_same_class(tmp_path):
    """Roboflow's exports begin with one."""
    categories = [{"id": 0, "name": "n"}, {"id": 1, "name": "n"}, {"id": 2, "name": "m"}]
    entries = [annotation(1, [polygon(2, 2)], category=1), annotation(2, [polygon(20, 20)], category=2)]
    (record,) = list_coco(write(tmp_path, entries, categories=categories))
    assert record.type_names == {1: "n", 2: "m"}
    tile = record.load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2]}
    (record,) = list_coco(write(tmp_path, entries[:1], categories=categories[:2]))
    assert record.type_names == {}


def test_damaged_files_are_named(tmp_path):
    for entry in (annotation(4, [], image=1), annotation(4, [], category=1)):
        with pytest.raises(ValueError, match=r"truth\.json: annotation 4 refers to image"):
            list_coco(write(tmp_path, [entry]))
    path = write(tmp_path, [], categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])
    with pytest.raises(ValueError, match="two categories have the same id"):
        list_coco(path)
    for text, message in (
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": [], "categories": {}}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "needs id and file_name"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"truth\.json: .*{message}"):
            list_coco(path)
    write(tmp_path, [annotation(4, [polygon(2, 2)])])
    save_image(tmp_path / "a.png", painted(nuclei(40, 48)))
    with pytest.raises(ValueError, match=r"truth\.json: says that .*a\.png is 40 x 50, it is 40 x 48"):
        list_coco(path)[0].load()
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(FileNotFoundError, match=r"truth\.json: expected images in the COCO file"):
        list_coco(path)
    truncate(write(tmp_path, []))
    with pytest.raises(OSError, match=r"truth\.json: not a JSON file"):
        list_coco(path)
    with pytest.raises(ValueError, match=r"truth\.json: no nuclei"):
        list_coco(write(tmp_path, []), allow_empty=False)[0].load()
    with pytest.raises(ValueError, match="no official splits"):
        list_coco(path, split="train")


def test_real_run_lengths(real_data):
    folder = real_data / "metric_oracles" / "pannuke_breast25"
    records = list_coco(folder / "data", annotations="json_annotation_demo.json", tissue="Breast")
    assert len(records) == 25
    for record in records:
        ours, theirs = record.load().instance_map, read_label_map(folder / "labels" / f"{record.id}_true.png")
        pairs = np.unique(ours.astype(np.int64) * 2**20 + theirs)
        assert len(pairs) == len(np.unique(ours)) == len(np.unique(theirs))
        np.testing.assert_array_equal(ours > 0, theirs > 0)


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("categories", [(None, None), (2, 2), (3, 2)])
def test_a_file_without_categories(tmp_path, empty, categories):
    entries = [annotation(n, [polygon(2 + 10 * n, 2)], category=c) for n, c in enumerate(categories)]
    path = write(tmp_path, entries)
    content = json.loads(path.read_text())
    content["categories"] = []
    if not empty:
        del content["categories"]
    path.write_text(json.dumps(content))
    tile = list_coco(path)[0].load()
    assert tile.instance_map.max() == 2
    if categories == (3, 2):
        assert (tile.type_names, len(tile.notes)) == ({1: "2", 2: "3"}, 1)
        assert types_by_id(tile.instance_map, tile.type_map) == {1: [2], 2: [1]}
    else:
        assert (tile.type_map, tile.notes) == (None, ())


def test_an_id_may_be_text_where_it_is_referred_to(tmp_path):
    tile = list_coco(write(tmp_path, [annotation(1, [polygon(2, 2)], image="7", category="10")]))[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [2]}


def test_run_lengths_as_floats():
    assert run_length_pixels([1.0, 2.0, 3.0], height=2, width=3).tolist() == [3, 1]
    for wrong in (1.5, float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="whole numbers"):
            run_length_pixels([wrong, 2.0, 3.0], height=2, width=3)
