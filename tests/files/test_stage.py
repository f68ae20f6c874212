"""Why: a process can be killed between any two steps; its files must be old or new, and be cleaned up later."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfsam_hf.files import atomic, stage
from cfsam_hf.files.atomic import atomic_folder, atomic_path, remove_folder, staged_folder
from cfsam_hf.files.disk import LockUnavailableError, exchange, locked
from cfsam_hf.files.stage import clean_up, open_stage

from .. import REPOSITORY

# Writes new content in the way that the first argument names, in the folder that the second names, and kills itself
# at the N-th change of a name. A change of name is all that another process can see.
WRITER = """
import os, pathlib, signal, sys, types
sys.modules["cfsam_hf"] = types.ModuleType("cfsam_hf")  # the files room alone, without torch
sys.modules["cfsam_hf"].__path__ = [sys.argv[4]]
from cfsam_hf.files import atomic, disk
way, folder, last_step = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
steps = 0

def counted(change):
    def act(*arguments, **options):
        global steps
        steps += 1
        if steps == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **options)
    return act

for name in ("replace", "unlink", "rename", "rmdir", "link"):
    setattr(os, name, counted(getattr(os, name)))
if way == "folder without exchange":
    atomic.exchange = lambda first, second: False
elif way == "folder":
    atomic.exchange = counted(disk.exchange)

def write(working):
    for name in ("a", "b", "c"):
        (working / name).write_text("new")

if way == "file":
    with atomic.atomic_path(folder / "b") as working:
        working.write_text("new")
elif way == "set":
    with atomic.staged_folder(folder, last="b", removed=["d"]) as working:
        write(working)
elif way == "removal":
    atomic.remove_folder(folder / "sub")
else:
    with atomic.atomic_folder(folder / "sub") as working:
        write(working)
print(steps)
"""
OLD = {"b": "old", "c": "old", "d": "old"}
NEW = {"a": "new", "b": "new", "c": "new"}
OUTCOMES = {
    "file": (OLD, {**OLD, "b": "new"}),
    "set": (OLD, NEW),
    "folder": ({"sub/b": "old", "sub/d": "old"}, {f"sub/{name}": "new" for name in NEW}),
    "folder without exchange": ({"sub/b": "old", "sub/d": "old"}, {f"sub/{name}": "new" for name in NEW}),
    "removal": ({"sub/b": "old", "sub/d": "old"}, {}),
}


def prepare(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def visible(folder: Path) -> dict[str, str]:
    """The content of all files that are not hidden."""
    files = (path for path in folder.rglob("*") if path.is_file())
    content = {path.relative_to(folder).as_posix(): path.read_text() for path in files}
    return {name: text for name, text in content.items() if not name.startswith(".")}


def run_writer(way: str, folder: Path, last_step: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WRITER, way, str(folder), str(last_step), str(REPOSITORY / "cfsam_hf")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("way", OUTCOMES)
def test_killed_at_any_step(way, tmp_path):
    old, new = OUTCOMES[way]
    prepare(tmp_path / "whole", old)
    done = run_writer(way, tmp_path / "whole", 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps >= 2
    assert visible(tmp_path / "whole") == new
    outcomes = []
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        prepare(folder, old)
        assert run_writer(way, folder, step).returncode == -signal.SIGKILL
        seen = visible(folder)
        if way in ("file", "folder"):
            assert seen in (old, new)
        elif way == "set" and "b" in seen:  # the file named `last` stands for the set
            assert seen == (old if seen["b"] == "old" else new)
        clean_up(folder)
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        outcomes.append(visible(folder))
    assert all(outcome in (old, new) for outcome in outcomes)
    # Once new, always new: no later kill brings the old content back.
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome == new)
    assert outcomes[-1] == new


def test_a_stage_of_a_living_process_stays(tmp_path):
    with staged_folder(tmp_path) as working:
        (working / "a").write_text("new")
        clean_up(tmp_path)
        assert (working / "a").read_text() == "new"
    assert visible(tmp_path) == {"a": "new"}


def test_a_stage_without_a_lock_is_removed_when_it_is_old(tmp_path):
    for name in (".cfsam-young", ".cfsam-old"):
        prepare(tmp_path / name, {"a": "half"})
    long_ago = time.time() - 2 * stage.ABANDONED_AFTER_SECONDS
    os.utime(tmp_path / ".cfsam-old", (long_ago, long_ago))
    clean_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".cfsam-young"]


def test_without_locks_only_age_tells(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(stage.locked.__wrapped__.__globals__["fcntl"], "flock", no_locks)
    with atomic_path(tmp_path / "a") as working:
        working.write_text("new")
        clean_up(tmp_path)
        assert working.exists()
    assert visible(tmp_path) == {"a": "new"}


def test_other_hidden_things_stay(tmp_path):
    prepare(tmp_path, {".cfsam-done.jsonl": "{}", ".cfsam/record": "{}", ".git/config": "", "a": "1"})
    clean_up(tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    clean_up(tmp_path / "nowhere")


@pytest.mark.parametrize("names", [["../../outside"], ["/etc/x"], [".."], [""], 3, None])
def test_a_forged_record_moves_nothing_out_of_the_folder(names, tmp_path):
    folder = tmp_path / "deep" / "folder"
    dead = folder / ".cfsam-dead"
    prepare(dead, {"lock": "", "new/a": "x"})
    record = {"names": names, "removed": [], "present": [], "keeps_old": True}
    (dead / stage.COMMIT).write_text(json.dumps(record))
    (tmp_path / "outside").write_text("kept")
    clean_up(folder)
    assert (tmp_path / "outside").read_text() == "kept"
    assert visible(folder) == {}


def test_a_lock_excludes_and_is_free_again(tmp_path):
    with locked(tmp_path / "lock", wait=False) as certain:
        assert certain
        with pytest.raises(LockUnavailableError, match="another process"), locked(tmp_path / "lock", wait=False):
            pass
    with locked(tmp_path / "lock", wait=True):
        pass


def test_an_exchange_that_cannot_be_done_changes_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    assert not exchange(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("possible", [True, False])
@pytest.mark.parametrize("name", ["replaced", "new", "old", "lock", "commit.json", "model"])
def test_a_folder_of_any_name_is_replaced(name, possible, tmp_path, monkeypatch):
    if not possible:
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    for content in ("first", "second"):
        with atomic_folder(tmp_path / name) as working:
            (working / content).write_text(content)
    assert visible(tmp_path) == {f"{name}/second": "second"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_folder_whose_second_move_fails_is_restored(error, tmp_path, monkeypatch):
    prepare(tmp_path, {"model/a": "old"})
    replace = os.replace

    def fails_at_the_new(source, target):
        if Path(source).parent.name == stage.NEW:
            raise error
        replace(source, target)

    monkeypatch.setattr(atomic, "exchange", lambda first, second: False)
    monkeypatch.setattr(os, "replace", fails_at_the_new)
    with pytest.raises(type(error)), atomic_folder(tmp_path / "model") as working:
        (working / "a").write_text("new")
    assert visible(tmp_path) == {"model/a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_reversal_that_is_interrupted_is_finished_later(tmp_path, monkeypatch):
    prepare(tmp_path, OLD)
    replace = os.replace

    def fails(source, target):
        if Path(target) in (tmp_path / "c", tmp_path / "b"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path, last="b", removed=["d"]) as working:
        prepare(working, NEW)
    monkeypatch.undo()
    clean_up(tmp_path)
    assert visible(tmp_path) == OLD


def test_a_file_in_the_way_of_a_folder_is_kept(tmp_path):
    prepare(tmp_path, {"model": "mine"})
    with pytest.raises(NotADirectoryError, match="model is a file"), atomic_folder(tmp_path / "model"):
        pass
    assert visible(tmp_path) == {"model": "mine"}


def test_the_next_replacement_finishes_the_one_before(tmp_path):
    prepare(tmp_path, {"other/a": "1"})
    dead = tmp_path / ".cfsam-dead"
    prepare(dead, {"lock": "", "new/model/a": "new", "old/model/a": "old"})
    record = {"names": ["model"], "removed": [], "present": ["model"], "keeps_old": False}
    (dead / stage.COMMIT).write_text(json.dumps(record))
    with atomic_folder(tmp_path / "other") as working:
        (working / "b").write_text("2")
    assert visible(tmp_path) == {"model/a": "new", "other/b": "2"}


def test_a_folder_is_removed_whole(tmp_path):
    prepare(tmp_path, {"model/a": "1", "model/deep/b": "2", "c": "3"})
    remove_folder(tmp_path / "model")
    remove_folder(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_stage_taken_by_another_process_is_not_used(tmp_path, monkeypatch):
    made, mkdtemp = [], stage.tempfile.mkdtemp

    def taken_the_first_time(**options):
        made.append(mkdtemp(**options))
        if len(made) == 1:
            os.rmdir(made[0])
            return str(tmp_path)  # exists, but not as a stage that holds its own lock file
        return made[-1]

    monkeypatch.setattr(stage.tempfile, "mkdtemp", taken_the_first_time)
    with locked(tmp_path / stage.LOCK, wait=False), open_stage(tmp_path) as opened:
        assert opened == Path(made[1])
