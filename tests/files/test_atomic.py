"""Why: a full disk or Ctrl-C must leave whole files or none."""

import errno
import os

import pytest

from cfsam_hf.files.atomic import atomic_path, staged_folder
from cfsam_hf.outputs import write_geojson

from ..export_cases import make_result, small_map


def write_half(path, error):
    with atomic_path(path) as working:
        working.write_text("half")
        raise error


def stage_half(folder, error):
    with staged_folder(folder) as stage:
        (stage / "a").write_text("1")
        raise error


def stage_new(folder, names):
    with staged_folder(folder) as stage:
        for name in names:
            (stage / name).write_text("new")


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
        assert all(p in stage.parents for p in folder.iterdir())
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b.geojson"]


def test_a_set_that_fails_leaves_none(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        stage_half(tmp_path, OSError("disk full"))
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_file_as_it_was_to_be(tmp_path):
    def write(error):
        with staged_folder(tmp_path / "out") as stage, atomic_path(stage / "a.txt") as working:
            raise error(working)

    with pytest.raises(OSError, match="No space") as caught:
        write(lambda working: OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(tmp_path / "out" / "a.txt")
    with pytest.raises(OSError, match="No space") as caught:
        write(lambda working: OSError(errno.ENOSPC, "No space left on device", str(working)))
    assert caught.value.filename == str(tmp_path / "out" / "a.txt")
    with pytest.raises(OSError, match="in other words") as caught:
        write(lambda working: OSError("in other words"))
    assert caught.value.filename is None


def test_a_set_that_cannot_be_moved_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "b").write_text("old")
    replace = os.replace

    def fails_at_c(source, target):
        if os.path.basename(target) == "c":
            raise OSError(errno.EIO, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_at_c)
    with pytest.raises(OSError, match="Input/output"):
        stage_new(tmp_path, "abc")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "old"}


def test_a_folder_in_the_way_is_told_before_anything_is_moved(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError, match="b is a folder where a file"):
        stage_new(tmp_path, "ab")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    stage_new(tmp_path, "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new"}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pass


def test_files_that_end_with_a_set_are_removed(tmp_path):
    stage_new(tmp_path, "abc")
    with staged_folder(tmp_path, removed=["b", "nowhere"]) as stage:
        (stage / "a").write_text("newer")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "newer", "c": "new"}


def test_the_last_file_appears_last_and_disappears_first(tmp_path, monkeypatch):
    stage_new(tmp_path, "abc")
    seen, replace = [], os.replace

    def watch(source, target):
        replace(source, target)
        seen.append({path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()})

    monkeypatch.setattr(os, "replace", watch)
    with staged_folder(tmp_path, last="b") as stage:
        for name in "abc":
            (stage / name).write_text("newer")
    with_last = [content for content in seen if "b" in content]
    assert with_last == [dict.fromkeys("abc", "new"), dict.fromkeys("abc", "newer")]


def test_data_reach_the_disk_before_their_names(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace

    def flushing(descriptor):
        order.append(("flush", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def renaming(source, target):
        order.append(("rename", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", renaming)
    with atomic_path(tmp_path / "a") as working:
        working.write_text("1")
    assert order.index(("flush", "a")) < order.index(("rename", "a")) < order.index(("flush", tmp_path.name))
    order.clear()
    stage_new(tmp_path, "bc")
    flushed = [order.index(("flush", name)) for name in "bc"]
    assert max(flushed) < order.index(("rename", "commit.json")) < order.index(("rename", "b"))
    assert order[-1] == ("flush", tmp_path.name)
