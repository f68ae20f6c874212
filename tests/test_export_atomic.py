"""Why: a full disk or Ctrl-C must leave whole files or none."""

import pytest

from cfsam_hf.export import atomic_path, staged_folder, write_geojson

from .export_cases import make_result, small_map


def write_half(path, error):
    with atomic_path(path) as working:
        working.write_text("half")
        raise error


def stage_half(folder, error):
    with staged_folder(folder) as stage:
        (stage / "a").write_text("1")
        raise error


def test_the_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as working:
        assert working.suffix == ".txt"
        working.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_half(target, error)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_set_of_files_appears_together(tmp_path):
    folder = tmp_path / "new" / "deep"
    with staged_folder(folder) as stage:
        (stage / "a").write_text("1")
        write_geojson(make_result(small_map()), stage / "b.geojson")
        assert not [p for p in folder.iterdir() if p != stage]
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b.geojson"]


def test_a_set_that_fails_leaves_none(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        stage_half(tmp_path, OSError("disk full"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pass
