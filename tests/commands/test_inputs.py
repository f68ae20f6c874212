"""Why: which images are done, and what their results are called, must be predictable for any folder."""

import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsam_hf.commands.inputs import as_options, collect_images, output_names


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def targets(inputs, output="out"):
    jobs, problems = collect_images([str(i) for i in inputs], Path(output))
    return {job.name: job.target.as_posix() for job in jobs}, problems


def test_a_folder_is_searched_and_mirrored(tmp_path):
    make_files(tmp_path, "b.png", "a.JPG", "sub/c.tif", "sub/deep/d.jpeg", "notes.txt", ".hidden.png", ".cache/e.png")
    found, problems = targets([tmp_path])
    assert found == {"a.JPG": "a", "b.png": "b", "sub/c.tif": "sub/c", "sub/deep/d.jpeg": "sub/deep/d"}
    assert list(found) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.jpeg"]
    assert problems == []


def test_clashing_stems_keep_their_ending(tmp_path):
    make_files(tmp_path, "a.png", "a.tif", "b.png", "sub/a.png")
    found, _ = targets([tmp_path])
    assert found == {"a.png": "a.png", "a.tif": "a.tif", "b.png": "b", "sub/a.png": "sub/a"}


def test_results_beside_the_images_are_not_done_again(tmp_path):
    make_files(tmp_path, "a.png", "a_instances.tif", "a_overlay.png", "a_instances.png", "b_instances.png")
    found, _ = targets([tmp_path])
    assert list(found) == ["a.png", "b_instances.png"]
    assert list(targets([tmp_path / "a_overlay.png"])[0]) == ["a_overlay.png"]


def test_the_output_folder_is_not_searched(tmp_path):
    make_files(tmp_path, "a.png", "out/x.png")
    assert list(targets([tmp_path], tmp_path / "out")[0]) == ["a.png"]


def test_files_are_taken_whatever_their_ending_and_once(tmp_path):
    make_files(tmp_path, "scan", "sub/b.png")
    found, problems = targets([tmp_path / "scan", tmp_path / "sub" / "b.png", tmp_path / "scan"])
    assert found == {"scan": "scan", "b.png": "b"}
    assert problems == []


def test_patterns_are_mirrored_from_their_first_wildcard(tmp_path):
    make_files(tmp_path, "x/1/a.png", "x/2/a.png", "x/2/b.txt", "x/a.png")
    assert targets([tmp_path / "x" / "*" / "*.png"])[0] == {"1/a.png": "1/a", "2/a.png": "2/a"}
    assert sorted(targets([tmp_path / "x" / "**" / "*"])[0]) == ["1/a.png", "2/a.png", "a.png"]
    assert sorted(targets([tmp_path / "x" / "*"])[0]) == ["1/a.png", "2/a.png", "a.png"]


def test_a_name_with_brackets_is_a_file(tmp_path):
    make_files(tmp_path, "tile[1].png")
    assert targets([tmp_path / "tile[1].png"])[0] == {"tile[1].png": "tile[1]"}


def test_two_inputs_for_one_output_are_told(tmp_path):
    make_files(tmp_path, "x/a.png", "y/a.png")
    found, problems = targets([tmp_path / "x", tmp_path / "y"])
    assert list(found) == ["a.png"]
    assert len(problems) == 1
    assert str(tmp_path / "y" / "a.png") in problems[0]
    assert str(tmp_path / "x" / "a.png") in problems[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere.png", "no such"), ("empty", "no images"), ("*.png", "no image matches"), ("", "empty")],
)
def test_what_cannot_be_taken_is_told(name, words, tmp_path):
    (tmp_path / "empty").mkdir()
    found, problems = targets([tmp_path / name if name else ""])
    assert found == {}
    assert len(problems) == 1
    assert words in problems[0]


def test_the_others_are_taken_all_the_same(tmp_path):
    make_files(tmp_path, "a.png")
    found, problems = targets([tmp_path / "nowhere", tmp_path])
    assert list(found) == ["a.png"]
    assert len(problems) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_told(tmp_path):
    make_files(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    found, problems = targets([tmp_path])
    (tmp_path / "closed").chmod(0o700)
    assert list(found) == ["a.png"]
    assert "closed" in problems[0]


def test_names_in_the_outputs_are_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        make_files(tmp_path, name)
    except OSError:
        pytest.skip("the file system does not take such a name")
    [job], _ = collect_images([str(tmp_path)], Path("out"))
    assert job.name == "caf\\xe9.png"
    assert (job.path.name, str(job.target)) == (name, name.removesuffix(".png"))


def test_messages_speak_of_the_options_of_the_command():
    assert as_options("the limit max_pixels=9; raise it") == "the limit --max-pixels 9; raise it"
    assert as_options("there is no page=3") == "there is no --page 3"
    assert as_options("homepage=3, mpp of 3") == "homepage=3, mpp of 3"


PARTS = st.sampled_from(["a", "b", "a.png", "a.png.jpg", "a.tif", "b.jpg", "summary.png", "é.png"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=2).map(lambda parts: PurePath(*parts)), unique=True))
def test_output_names_are_distinct_and_stay_in_their_folder(relatives):
    names = output_names(relatives)
    assert list(names) == relatives
    assert len(set(names.values())) == len(relatives)
    for relative, name in names.items():
        assert name in (relative, relative.with_suffix(""))
