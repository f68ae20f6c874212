"""Why: other programs read the records, also after crashes; they must be valid JSON, whole lines, and on disk."""

import json
import os

import pytest

from cfsam_hf.files.json_files import append_json_line, write_json, write_json_lines


def test_values_that_are_not_finite_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": {"c": None}}
    assert text.startswith('{\n  "a"')


def test_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{"a": [1, 2]}\n'


def test_names_that_are_no_text_can_be_written(tmp_path):
    write_json(tmp_path / "a.json", {"name": os.fsdecode(b"caf\xe9")})
    assert os.fsencode(json.loads((tmp_path / "a.json").read_text())["name"]) == b"caf\xe9"


def test_lines_are_added_and_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    for value in (1, float("nan")):
        append_json_line(tmp_path / "a.jsonl", {"value": value, "name": "é"})
    lines = (tmp_path / "a.jsonl").read_text(encoding="ascii").splitlines()
    assert [json.loads(line) for line in lines] == [{"value": 1, "name": "é"}, {"value": None, "name": "é"}]
    assert len(flushed) == 2


def test_all_lines_at_once(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [{"value": float("inf")}, {"value": 2}])
    append_json_line(tmp_path / "a.jsonl", {"value": 3})
    assert (tmp_path / "a.jsonl").read_text() == '{"value": null}\n{"value": 2}\n{"value": 3}\n'
    write_json_lines(tmp_path / "a.jsonl", [])
    assert (tmp_path / "a.jsonl").read_bytes() == b""
