"""Why: other programs write JSON in several encodings and with an object on each line; errors must name the file."""

import json

import pytest

from cfsam_hf.files.json_input import read_json

OBJECTS = [{"a": 1}, {"a": "é", "b": [1, 2]}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("begin", ["", "\x1e", "  "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_an_object_on_each_line(tmp_path, encoding, begin, end):
    lines = "".join(f"{begin}{json.dumps(entry, ensure_ascii=False)}{end}" for entry in OBJECTS)
    (tmp_path / "a.json").write_bytes(lines.encode(encoding))
    assert read_json(tmp_path / "a.json") == OBJECTS


def test_a_single_object_is_itself(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text('\x1e{"a": 1}\n')
    assert read_json(tmp_path / "a.json") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a":', r"a\.json: not a JSON file .* \(object 2: Expecting value"),
        ('{"a": [1,]}', r"a\.json: not a JSON file .* \((Expecting value|Illegal trailing comma)"),
        ('{"a": 1} x', r"a\.json: not a JSON file .* \(Extra data"),
        ('{\n "a": 1,\n "b"', r"a\.json: not a JSON file .* \(Expecting ':' delimiter: line 3"),
        ("[" * 100_000, r"a\.json: not a JSON file .* \(nested too deeply"),
        ("{}\n" + "[" * 100_000, r"a\.json: not a JSON file .* \(nested too deeply"),
        ("", r"a\.json: not a JSON file"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(OSError, match=message):
        read_json(tmp_path / "a.json")
