"""Why: names come from outside, and a spreadsheet must not run them; numbers must stay numbers."""

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.files.csv_files import FORMULA_BEGINNINGS, safe_cell, write_csv_file
from cfsam_hf.files.plain_text import one_line


@pytest.mark.parametrize("beginning", FORMULA_BEGINNINGS)
def test_text_that_begins_like_a_formula_is_marked(beginning, tmp_path):
    text = f"{beginning}1+2"
    write_csv_file(pd.DataFrame({"name": [text, "a" + text, ""]}), tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert back["name"].tolist() == [f"'{one_line(text)}", f"a{one_line(text)}", ""]


def test_text_cannot_steer_a_terminal_that_shows_the_file(tmp_path):
    write_csv_file(
        pd.DataFrame({"name": ["\x1b[31mred", "two\nlines", "\x9b31m", "\u202efdp", "é, \xb5"]}), tmp_path / "a.csv"
    )
    text = (tmp_path / "a.csv").read_text()
    assert text.splitlines() == ["name", "\\x1b[31mred", "two\\nlines", "\\x9b31m", "\\u202efdp", '"é, \xb5"']


def test_numbers_and_missing_values_are_unchanged(tmp_path):
    table = pd.DataFrame(
        {
            "count": [-1, 2],
            "share": [-0.123456789, np.nan],
            "any": [-3, None],
            "name": ["-a", None],
            "yes": [True, False],
        }
    )
    write_csv_file(table, tmp_path / "a.csv", float_format="%.4g")
    assert (tmp_path / "a.csv").read_text() == ("count,share,any,name,yes\n-1,-0.1235,-3,'-a,True\n2,,,,False\n")


@pytest.mark.parametrize("kind", ["str", "object", "category"])
def test_every_type_of_text_column(kind, tmp_path):
    write_csv_file(pd.DataFrame({"name": pd.Series(["=1", "b", "=1"], dtype=kind)}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "name\n'=1\nb\n'=1\n"


def test_an_empty_table_keeps_its_header(tmp_path):
    write_csv_file(pd.DataFrame({"a": [], "b": []}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "a,b\n"


def test_cells_that_are_no_text():
    for value in (-1, None, 2.5, True):
        assert safe_cell(value) is value
