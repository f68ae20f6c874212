"""Why: which images are segmented, and how their results are named, must be predictable for any folder."""

import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfsam_hf.inference.collect import UNREADABLE_SLIDES, collect_images, output_names
from cfsam_hf.model.pictures import IMAGE_SUFFIXES
from cfsam_hf.outputs import write_instance_map

from ..export_cases import make_result, small_map


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def targets(inputs, output="out"):
    found = collect_images([str(i) for i in inputs], Path(output))
    return {job.source.name: job.target.as_posix() for job in found.jobs}, found.problems


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


def test_two_inputs_for_one_output_are_reported(tmp_path):
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
def test_inputs_that_cannot_be_used_are_reported(name, words, tmp_path):
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
def test_an_unreadable_folder_is_reported(tmp_path):
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
    [job] = collect_images([str(tmp_path)], Path("out")).jobs
    assert job.source.name == "caf\\xe9.png"
    assert (job.source.path.name, str(job.target)) == (name, name.removesuffix(".png"))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_kind_of_image_is_found_in_folders_and_patterns(suffix, tmp_path):
    make_files(tmp_path, f"a{suffix}", f"sub/b{suffix.upper()}", "notes.txt")
    expected = {f"a{suffix}": "a", f"sub/b{suffix.upper()}": "sub/b"}
    assert targets([tmp_path]) == (expected, [])
    assert targets([tmp_path / "**" / "*"]) == (expected, [])
    assert targets([tmp_path / f"*{suffix}"]) == ({f"a{suffix}": "a"}, [])


@pytest.mark.parametrize("suffix", sorted(UNREADABLE_SLIDES))
def test_slides_that_cannot_be_read_are_mentioned(suffix, tmp_path):
    make_files(tmp_path, "a.png", f"s{suffix}", f"sub/t{suffix.upper()}")
    found = collect_images([str(tmp_path)], Path("out"))
    assert [job.source.name for job in found.jobs] == ["a.png"]
    [note] = found.notes
    assert f"left out 2 files ending in {suffix}" in note
    assert "convert it to a pyramidal TIFF" in note
    assert found.problems == []
    [problem] = targets([tmp_path / f"s{suffix}"])[1]
    assert f"s{suffix}: a slide of this format cannot be read" in problem


def test_a_pattern_whose_matches_are_no_images_has_its_own_message(tmp_path):
    make_files(tmp_path, "a.txt", "b.txt")
    [problem] = targets([tmp_path / "*.txt"])[1]
    assert "none of the 2 files that match this pattern is an image" in problem


def test_results_are_left_out_with_a_note(tmp_path):
    make_files(tmp_path, "a.png", "run/b.png")
    write_instance_map(make_result(small_map()), tmp_path / "run" / "renamed.tif")
    for inputs in ([tmp_path], [tmp_path / "a.png", tmp_path / "run" / "b.png", tmp_path / "run" / "renamed.tif"]):
        found = collect_images([str(i) for i in inputs], tmp_path / "elsewhere")
        assert [job.source.path.name for job in found.jobs] == ["a.png", "b.png"]
        assert found.problems == []
        [note] = found.notes
        assert note.startswith("left out 1 file that cfsam wrote as results: ")
        assert note.endswith("renamed.tif")


PARTS = st.sampled_from(["a", "b", "a.png", "a.png.jpg", "a.tif", "b.jpg", "summary.png", "é.png"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=2).map(lambda parts: PurePath(*parts)), unique=True))
def test_output_names_are_distinct_and_stay_in_their_folder(relatives):
    names = output_names(relatives)
    assert list(names) == relatives
    assert len(set(names.values())) == len(relatives)
    for relative, name in names.items():
        assert name in (relative, relative.with_suffix(""))


def test_links_that_lead_back_are_not_followed(tmp_path):
    make_files(tmp_path / "in", "a.png", "sub/b.png")
    make_files(tmp_path / "other", "c.png")
    os.symlink("..", tmp_path / "in" / "sub" / "loop")
    os.symlink(tmp_path / "other", tmp_path / "in" / "linked")
    for start in (tmp_path / "in", tmp_path / "in" / ".." / "in"):
        assert list(targets([start / "**"])[0]) == ["a.png", "linked/c.png", "sub/b.png"]
    found = collect_images([str(tmp_path / "in")], tmp_path / "out")
    assert [job.source.name for job in found.jobs] == ["a.png", "sub/b.png"]
    (note,) = found.notes
    assert note.endswith(f"{tmp_path}/in/linked, {tmp_path}/in/sub/loop")
    assert list(targets([tmp_path / "in", tmp_path / "in" / "linked"])[0]) == ["a.png", "sub/b.png", "c.png"]
