"""Why: one table lists what is written for an image; all of it must appear, be replaced and be removed together."""

from pathlib import PurePath

import numpy as np
import pytest

from cfsam_hf.inference import OUTPUT_KINDS, FileSink
from cfsam_hf.inference.sink import LAST_KIND

from ..export_cases import make_result, small_map

IMAGE = np.full((*small_map().shape, 3), 230, np.uint8)
RESULT = make_result(small_map())


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_each_kind_is_written_under_its_ending_and_recognised(kind, tmp_path):
    sink = FileSink(tmp_path, [kind])
    files = sink.write(RESULT, IMAGE, PurePath("case 7/a"))
    assert files == {one: sink.path(PurePath("case 7/a"), one) for one in sink.kinds}
    assert set(files) == {kind, LAST_KIND}
    assert names(tmp_path) == sorted(f"case 7/a{OUTPUT_KINDS[one].ending}" for one in files)
    sink.check(PurePath("case 7/a"))
    sink.write(RESULT, IMAGE, PurePath("case 7/a"))
    FileSink(tmp_path, [LAST_KIND]).write(RESULT, IMAGE, PurePath("case 7/a"))
    assert names(tmp_path) == ["case 7/a.parquet"], "what is no longer written is removed"


def test_endings_are_distinct_for_all_targets():
    """No file of one image can be a file of another: no ending is the end of another one."""
    endings = [kind.ending for kind in OUTPUT_KINDS.values()]
    assert not [(a, b) for a in endings for b in endings if a != b and a.endswith(b)]


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_work_of_others_is_refused_if_written_and_kept_if_not(kind, tmp_path):
    everything = FileSink(tmp_path, list(OUTPUT_KINDS))
    path = everything.path(PurePath("a"), kind)
    path.write_text("drawn by hand")
    with pytest.raises(FileExistsError, match=f"{path.name} exists and was not written by cfsam"):
        everything.check(PurePath("a"))
    if kind != LAST_KIND:
        FileSink(tmp_path, [LAST_KIND]).write(RESULT, IMAGE, PurePath("a"))
        assert path.read_text() == "drawn by hand"
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f"{path.name} is a folder where a file"):
        everything.check(PurePath("a"))


def test_files_under_a_former_name_are_removed(tmp_path):
    sink = FileSink(tmp_path, list(OUTPUT_KINDS))
    sink.write(RESULT, IMAGE, PurePath("a"))
    sink.write(RESULT, IMAGE, PurePath("b"))
    (tmp_path / "a_nuclei.csv").write_text("mine")
    sink.write(RESULT, IMAGE, PurePath("a.png"), former=[PurePath("a"), PurePath("deep/a")])
    left = [name for name in names(tmp_path) if not name.startswith(("b", "a.png"))]
    assert left == ["a_nuclei.csv"]
    assert len(names(tmp_path)) == 2 * len(OUTPUT_KINDS) + 1


def test_a_writer_that_fails_changes_nothing(tmp_path, monkeypatch):
    sink = FileSink(tmp_path, list(OUTPUT_KINDS))
    sink.write(RESULT, IMAGE, PurePath("a"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(result, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("cfsam_hf.inference.sink.write_table", full)
    with pytest.raises(OSError, match="No space") as caught:
        FileSink(tmp_path).write(make_result(np.zeros((9, 12), np.int32)), IMAGE, PurePath("a"))
    assert caught.value.filename == str(tmp_path / "a.parquet")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="no output of the kind 'yaml'; choose from labels"):
        FileSink(tmp_path, ["yaml"])
