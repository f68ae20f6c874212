"""Why: a check that misses a damaged file is worse than none; each kind of fault is planted and must be found."""

import json

import numpy as np
import pytest

from cfsam_hf.data.audit import audit_dataset, image_digest, shared_images
from cfsam_hf.data.polygons import Overlaps

from ..data_cases import aperio_xml, geojson_polygon, nuclei, painted, save_image, truncate

SQUARE = [(2, 2), (8, 2), (8, 8), (2, 8)]


def write_pair(folder, stem, label_map=None, image=None):
    label_map = nuclei(ids=range(1, 4 + int(stem[1:]))) if label_map is None else label_map
    save_image(folder / f"{stem}.png", painted(label_map) if image is None else image)
    save_image(folder / f"{stem}_instances.png", label_map.astype(np.uint16))


def test_all_faults_are_told_of(tmp_path):
    for number in range(6):
        write_pair(tmp_path, f"t{number}")
    truncate(tmp_path / "t0.png")
    write_pair(tmp_path, "t1", image=painted(nuclei(40, 48)))
    save_image(tmp_path / "t2_types.png", np.full((40, 50), 9, dtype=np.uint8))
    (tmp_path / "t3_instances.png").unlink()
    write_pair(tmp_path, "t6", label_map=np.zeros((40, 50), dtype=np.int32))
    audit = audit_dataset("instance_pairs", tmp_path, type_names={1: "any"})
    for words, file in (
        ("no label map", "t3.png"),
        ("the file is damaged", "t0.png"),
        ("is 40 x 50 but the image", "t1_instances.png"),
        ("unknown type ids [9]", "t2_instances.png"),
        ("no nuclei in tile t6", "t6_instances.png"),
    ):
        assert sum(words in problem and file in problem for problem in audit.problems) == 1, words
    assert len(audit.problems) == 5
    assert (audit.tiles, audit.empty, audit.nuclei) == (3, 1, 7 + 8)
    assert audit.notes == []


def test_empty_tiles_may_be_in_order(tmp_path):
    write_pair(tmp_path, "t0")
    write_pair(tmp_path, "t1", label_map=np.zeros((40, 50), dtype=np.int32))
    audit = audit_dataset("instance_pairs", tmp_path, allow_empty=True)
    assert (audit.problems, audit.empty, audit.tiles) == ([], 1, 2)
    assert audit.notes == [f"{tmp_path}/t1_instances.png: no nuclei in tile t1"]


def test_overlaps_are_notes_that_name_the_file(tmp_path):
    for stem, regions in (("a", {1: SQUARE, 2: SQUARE, 3: [(1, 1)]}), ("b", {1: SQUARE})):
        save_image(tmp_path / f"{stem}.tif", painted(nuclei(ids=range(1, 2 + len(regions)))))
        (tmp_path / f"{stem}.xml").write_text(aperio_xml({"": regions}))
    audit = audit_dataset("monuseg", tmp_path)
    assert audit.problems == []
    assert audit.notes == [
        f"{tmp_path}/a.xml: tile a: 2 nuclei overlap on 36 pixels (the later one keeps them), 1 of them completely "
        "hidden, 1 outline without a pixel"
    ]
    assert (audit.overlapping_tiles, audit.overlaps) == (1, Overlaps(2, 36, 1, 1))
    assert "the smaller one keeps them" in audit_dataset("monuseg", tmp_path, overlap="smaller").notes[0]


def test_the_same_image_twice(tmp_path):
    write_pair(tmp_path / "a", "t0")
    write_pair(tmp_path / "a", "t1", image=painted(nuclei(ids=(1, 2, 3))))
    write_pair(tmp_path / "b", "t7", image=painted(nuclei(ids=(1, 2, 3))))
    write_pair(tmp_path / "b", "t8")
    one, other = (audit_dataset("instance_pairs", tmp_path / name) for name in "ab")
    assert one.problems == [f"{tmp_path}/a/t0.png and {tmp_path}/a/t1.png: the same image"]
    assert other.problems == []
    (line,) = shared_images(one, other)
    assert line.startswith(f"{tmp_path}/a/t0.png and {tmp_path}/a/t1.png and {tmp_path}/b/t7.png: the same image")
    assert shared_images(one, one) == []


def test_blank_images_are_no_copies_of_each_other():
    blank = np.full((4, 5, 3), (255, 250, 255), dtype=np.uint8)
    assert image_digest(blank) is None
    assert image_digest(np.zeros((0, 5, 3), dtype=np.uint8)) is None
    marked = blank.copy()
    marked[3, 4, 2] = 0
    assert image_digest(marked) == image_digest(marked[::-1][::-1]) != image_digest(marked[::-1])
    grid = np.arange(60, dtype=np.uint8)
    assert image_digest(grid.reshape(4, 5, 3)) != image_digest(grid.reshape(5, 4, 3))


def test_tiles_of_large_files_are_named(tmp_path):
    folder = tmp_path / "conic"
    folder.mkdir()
    labels = np.zeros((3, 256, 256, 2), dtype=np.uint16)
    labels[:, 5:9, 5:9] = 1
    labels[1, ..., 1] *= 8
    np.save(folder / "labels.npy", labels)
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8))
    audit = audit_dataset("conic", folder)
    assert len(audit.problems) == 1
    assert "labels.npy: unknown type ids [8]" in audit.problems[0]
    assert audit.problems[0].endswith("(tile 0001)")


def test_what_cannot_be_read_at_all(tmp_path):
    for name, path, options, words in (
        ("ConSep", tmp_path, {}, "unknown data set"),
        ("consep", tmp_path, {"mp": 1}, "no option 'mp'"),
        ("consep", tmp_path, {}, "expected the layout"),
        ("consep", tmp_path / "x", {}, "no such folder"),
    ):
        with pytest.raises(ValueError, match=words):
            audit_dataset(name, path, **options)


def test_progress(tmp_path):
    for number in range(3):
        write_pair(tmp_path, f"t{number}")
    seen = []
    audit_dataset("instance_pairs", tmp_path, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nuclei_without_type_are_a_note_where_others_have_one(tmp_path):
    for number in range(3):
        write_pair(tmp_path, f"t{number}")
    assert audit_dataset("instance_pairs", tmp_path, type_names={1: "any"}).notes == []
    for number in (0, 1):
        label_map = nuclei(ids=range(1, 4 + number))
        save_image(tmp_path / f"t{number}_types.png", np.isin(label_map, (1, 4)).astype(np.uint8))
    audit = audit_dataset("instance_pairs", tmp_path, type_names={1: "any"})
    assert audit.problems == []
    # Of t2, which has no type map, all nuclei.
    assert audit.untyped == {"t0": 2, "t1": 2, "t2": 5}
    (note,) = audit.notes
    assert f"instance_pairs {tmp_path}: 9 nuclei without a type, in 3 tiles, t0 the first" in note


def blocks(side: int, count: int = 12) -> np.ndarray:
    label_map = np.zeros((300, 400), dtype=np.int32)
    for number in range(count):
        row, column = divmod(number, 4)
        label_map[90 * row : 90 * row + side, 90 * column : 90 * column + side] = number + 1
    return label_map


@pytest.mark.parametrize(
    ("side", "mpp", "words"),
    [
        (4, 0.25, "4.5 px, 1.1 um at 0.25 um per pixel, in 1 tile; nuclei have 4 to 20 um"),
        (85, 0.25, "95.9 px, 24.0 um at 0.25"),
        (30, 0.05, "33.9 px, 1.7 um at 0.05"),
        (3, None, "3.4 px in 1 tile; are the coordinates micrometres"),
        (30, 0.25, None),
        (85, 0.12, None),
        (30, None, None),
    ],
)
def test_sizes_that_are_not_those_of_nuclei_are_noted(tmp_path, side, mpp, words):
    write_pair(tmp_path, "t0", label_map=blocks(side))
    audit = audit_dataset("instance_pairs", tmp_path, mpp=mpp)
    assert audit.problems == []
    assert [words in note for note in audit.notes] == ([True] if words else [])
    write_pair(tmp_path, "t0", label_map=blocks(4, count=9))
    assert audit_dataset("instance_pairs", tmp_path, mpp=0.25).notes == []


def test_a_mask_is_a_problem(tmp_path):
    write_pair(tmp_path, "t0", label_map=(blocks(30) > 0) * 255)
    audit = audit_dataset("instance_pairs", tmp_path)
    assert "t0_instances.png: the only id, 255, lies in 12 separate pieces" in audit.problems[0]
    assert audit_dataset("instance_pairs", tmp_path, check_ids=False).problems == []


def test_classes_of_two_spellings_are_noted(tmp_path):
    write_pair(tmp_path, "t0")
    audit = audit_dataset("instance_pairs", tmp_path, type_names={1: "Tumor", 2: "tumor ", 3: "stroma"})
    assert any("the classes 'Tumor', 'tumor ' differ only in their spelling" in note for note in audit.notes)


def test_a_data_set_without_nuclei_is_a_problem(tmp_path):
    for number in range(2):
        write_pair(tmp_path, f"t{number}", np.zeros((40, 50), np.int32), painted(nuclei(ids=[number + 1])))
    (problem,) = audit_dataset("instance_pairs", tmp_path, allow_empty=True).problems
    assert problem.endswith("none of its 2 tiles has a nucleus")


def test_what_readers_left_out_is_noted(tmp_path):
    save_image(tmp_path / "a.png", painted(nuclei()))
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    square = {"type": "Polygon", "coordinates": [[[2, 2], [6, 2], [6, 7], [2, 7]]]}
    (tmp_path / "a.geojson").write_text(json.dumps([point, {"type": "Feature", "geometry": square}]))
    audit = audit_dataset("qupath", tmp_path)
    assert f"{tmp_path}/a.geojson: 1 object without area left out (1 Point)" in audit.notes


def test_a_class_that_cannot_be_a_type_of_a_model(tmp_path):
    """Escape sequences in the annotations of a stranger would reach terminals and tables."""
    save_image(tmp_path / "a.png", painted(nuclei()))
    square = {"type": "Polygon", "coordinates": geojson_polygon(2, 2, 6, 7)}
    names = ("\x1b[31mred", "long" * 30, "fine")
    features = [{"type": "Feature", "geometry": square, "properties": {"classification": name}} for name in names]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    problems = audit_dataset("qupath", tmp_path).problems
    assert [problem.split("the class ")[1].split(" ")[0] for problem in problems] == [repr(name) for name in names[:2]]
