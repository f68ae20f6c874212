"""Why: the record decides what is skipped and summarised; damage and other runs must not mislead it."""

import json
import threading
from pathlib import PurePath

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.files import json_files
from cfsam_hf.files.disk import locked
from cfsam_hf.inference import ArraySource, Job, RunRecord
from cfsam_hf.inference.record import FORMER_NAME, LOCK_NAME, MERGED_NAME, RECORDS_NAME
from cfsam_hf.outputs import summary_rows

from ..export_cases import make_result, small_map

MADE_BY = {"version": "1", "mpp": 0.25}


def job(name: str, target: str | None = None) -> Job:
    return Job(ArraySource(np.zeros((9, 12, 3), np.uint8), name), PurePath(target or name))


def do(record: RunRecord, one: Job, text: str = "x", made_by: dict = MADE_BY) -> None:
    """Writes a result and records it."""
    file = record.folder / f"{one.target}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    rows = summary_rows(make_result(small_map(), image_name=one.source.name))
    record.add(one, one.source.fingerprint(), made_by, [file], rows)


def images(folder) -> list[str]:
    return pd.read_csv(folder / "summary.csv")["image"].unique().tolist()


def test_nothing_done_leaves_nothing(tmp_path):
    with RunRecord(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_is_current_for_the_next_run(tmp_path):
    with RunRecord(tmp_path) as record:
        do(record, job("a"))
        assert record.is_current(job("a"), MADE_BY)
    later = RunRecord(tmp_path)
    assert later.is_current(job("a"), MADE_BY)
    assert not later.is_current(job("a"), {**MADE_BY, "mpp": 0.5})
    assert not later.is_current(job("b"), MADE_BY)
    assert not later.is_current(job("other name", "a"), MADE_BY)
    changed = Job(ArraySource(np.ones((9, 12, 3), np.uint8), "a"), PurePath("a"))
    assert not later.is_current(changed, MADE_BY)
    (tmp_path / "a.parquet").write_text("longer")
    assert not later.is_current(job("a"), MADE_BY)


def test_the_summary_is_the_same_whichever_run_ends_last(tmp_path):
    summaries = []
    for order in ((0, 1), (1, 0)):
        folder = tmp_path / str(order)
        folder.mkdir()
        records = [RunRecord(folder), RunRecord(folder)]
        for record, name in zip(records, ("b", "a"), strict=True):
            do(record, job(name))
        for index in order:
            records[index].finish()
            assert records[index].images == ["a", "b"]
        summaries.append((folder / "summary.csv").read_text())
    assert summaries[0] == summaries[1]
    assert images(tmp_path / "(0, 1)") == ["a", "b"]


def test_a_run_that_was_killed_is_in_the_summary(tmp_path):
    killed = RunRecord(tmp_path)
    do(killed, job("a"))
    with open(next((tmp_path / RECORDS_NAME).glob("run-*")), "a") as file:
        file.write('{"target": "b", "ima')
    with RunRecord(tmp_path) as record:
        do(record, job("c"))
    assert images(tmp_path) == ["a", "c"]


def test_of_two_runs_with_the_same_image_the_one_whose_files_are_there_counts(tmp_path):
    first, second = RunRecord(tmp_path), RunRecord(tmp_path)
    do(second, job("a"), "second", {"mpp": 2})
    do(first, job("a"), "first one", {"mpp": 1})
    # The files of the second run replace those of the first, although its entry is older.
    (tmp_path / "a.parquet").write_text("second")
    first.finish()
    second.finish()
    later = RunRecord(tmp_path)
    assert later.is_current(job("a"), {"mpp": 2})
    assert not later.is_current(job("a"), {"mpp": 1})


def test_the_summary_waits_for_the_run_that_is_writing_it(tmp_path):
    record = RunRecord(tmp_path)
    do(record, job("a"))
    finishing = threading.Thread(target=record.finish)
    with locked(tmp_path / RECORDS_NAME / LOCK_NAME, wait=True):
        finishing.start()
        other = RunRecord(tmp_path)
        do(other, job("b"))
        assert not (tmp_path / "summary.csv").exists()
    finishing.join(60)
    assert images(tmp_path) == ["a", "b"]


def test_an_image_under_another_name_is_known(tmp_path):
    with RunRecord(tmp_path) as record:
        do(record, job("a.png", "a"))
        do(record, job("b.png", "b"))
    assert RunRecord(tmp_path).other_targets(job("a.png", "a.png")) == [PurePath("a")]
    assert RunRecord(tmp_path).other_targets(job("a.png", "a")) == []


WHOLE = {"target": "a", "source": {}, "made_by": {}, "files": {}, "rows": []}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "3",
        "null",
        '"text"',
        "{}",
        '{"target": "a"}',
        "\0" * 50,
        *(
            json.dumps({**WHOLE, **change})
            for change in (
                {"target": 3},
                {"target": "../outside"},
                {"target": "/outside"},
                {"rows": 3},
                {"rows": [3]},
                {"files": ["a"]},
                {"files": {"a": "many"}},
                {"source": 1},
                {"finished": "today"},
            )
        ),
    ],
)
@pytest.mark.parametrize("name", [FORMER_NAME, f"{RECORDS_NAME}/{MERGED_NAME}", f"{RECORDS_NAME}/run-1.jsonl"])
def test_damaged_lines_are_skipped(line, name, tmp_path):
    with RunRecord(tmp_path) as record:
        do(record, job("b"))
    path = tmp_path / name
    path.write_text(f"{line}\n{path.read_text() if path.exists() else ''}")
    with RunRecord(tmp_path) as record:
        assert record.is_current(job("b"), MADE_BY)
        do(record, job("c"))
    assert images(tmp_path) == ["b", "c"]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    record = RunRecord(tmp_path)
    do(record, job("a"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        do(record, job("b"))
    monkeypatch.undo()
    do(record, job("c"))
    record.finish()
    assert images(tmp_path) == ["a", "c"]


def test_a_summary_of_others_is_refused(tmp_path):
    (tmp_path / "summary.csv").write_text("case,grade\n1,3\n")
    with pytest.raises(FileExistsError, match=r"summary\.csv exists and was not written by cfsam"):
        RunRecord(tmp_path)
