"""Why: every tool states offsets in its own way, and a tile in the wrong place is worse than none."""

import json
from pathlib import PurePath

import pytest

from cfsam_hf.inference import Collection, ImageSource, Job, place_jobs, placement_in_name, read_placements
from cfsam_hf.outputs import Placement


def jobs(*names):
    return [Job(ImageSource(None, name), PurePath(name).with_suffix("")) for name in names]


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("slide_x1024_y2048", Placement(1024, 2048)),
        ("slide_y2048_x1024", Placement(1024, 2048)),
        ("case 7 X=10,Y=20", Placement(10, 20)),
        ("TCGA-02 [x=1024,y=2048,w=512,h=512]", Placement(1024, 2048)),
        ("TCGA-02 [d=4,x=1024,y=2048,w=512,h=512]", Placement(1024, 2048, 4)),
        ("TCGA-02 [d=2.0001,x=-8,y=0,w=512,h=512]", Placement(-8, 0, 2.0001)),
        ("tile-x0-y0", Placement(0, 0)),
        ("slide_1024_2048", None),
        ("slide_x1024", None),
        ("matrix1_body2", None),
        ("scan_40x_y_12", None),
    ],
)
def test_names(name, placement):
    assert placement_in_name(name) == placement


def test_a_name_that_states_x_twice():
    with pytest.raises(ValueError, match="states x 2 times"):
        placement_in_name("x1_y2_x3")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.csv", "image,x,y\na.png,1,2\nb.png,3,4\n"),
        ("a.csv", "\ufefftile, X ,Y,downsample\na.png,1,2,\nb.png,3.0,4,1\n"),
        ("a.csv", "x0,y0,path\n1,2,/data/tiles/a.png\n3,4,C:\\tiles\\b.png\n"),
        ("a.json", json.dumps({"a.png": [1, 2], "b.png": {"x": 3, "y": 4}})),
        ("a.json", json.dumps([{"name": "a", "x": 1, "y": 2}, {"name": "b", "x": 3, "y": 4, "downsample": 1}])),
    ],
)
def test_files_in_several_forms(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    placed = place_jobs(Collection(jobs("a.png", "b.png")), str(tmp_path / file))
    assert [job.placement for job in placed.jobs] == [Placement(1, 2), Placement(3, 4)]
    assert placed.problems == placed.notes == []


def test_images_without_entry_and_entries_without_image_are_reported(tmp_path):
    (tmp_path / "a.csv").write_text("image,x,y\ncase 7/a.png,1,2\nother.png,1,2\n")
    found = place_jobs(Collection(jobs("case 7/a.png", "b.png")), str(tmp_path / "a.csv"))
    assert [job.source.name for job in found.jobs] == ["case 7/a.png"]
    assert found.problems == ["b.png: the file of offsets has no entry for this image"]
    assert found.notes == [f"{tmp_path / 'a.csv'}: 1 of its 2 entries name none of the images"]
    found = place_jobs(Collection(jobs("tile_1_2.png")), "names")
    assert found.jobs == []
    assert "does not state where the tile lies" in found.problems[0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "image,x,y\na.png,one,2\n", "entry 1 cannot be used: x must be a number, found 'one'"),
        ("a.csv", "image,x\na.png,1\n", "entry 1 cannot be used: y must be a number, found None"),
        ("a.csv", "x,y\n1,2\n", "entry 1 cannot be used: it names no image"),
        ("a.csv", "image,x,y\na.png,1,2\na.png,1,3\n", "entry 2 places 'a.png' a second time"),
        ("a.csv", "image,x,y\n", "lists no tiles"),
        ("a.csv", "image,x,y\na.png,nan,2\n", "x of a tile must be a number of pixels"),
        ("a.json", "[1]", "entry 1 cannot be used: expected an object"),
        ("a.json", '{"a": [1]}', "entry 1 cannot be used: x must be a number"),
        ("a.json", '{"a": {"x": true, "y": 1}}', "x must be a number, found True"),
        ("a.json", "3", "expected a list of tiles"),
        ("a.json", "{", "not a JSON file"),
    ],
)
def test_bad_entries_are_named(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises((OSError, ValueError), match=f"{file}: .*{message}"):
        read_placements(tmp_path / file)
