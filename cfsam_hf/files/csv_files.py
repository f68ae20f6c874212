"""CSV files whose text a spreadsheet never runs as a formula, and a terminal never as a control sequence."""

import os

import pandas as pd

from .atomic import atomic_path
from .plain_text import one_line

# How a spreadsheet recognises a formula: OWASP, "CSV Injection", with the full-width forms that some programs accept.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_csv_file(table: pd.DataFrame, path: str | os.PathLike[str], *, float_format: str | None = None) -> None:
    """Writes a table as CSV with one header line, whole or not at all; a missing value is an empty field.

    File names, type names and other text come from outside, and a spreadsheet would run a text such as `=1+2` as a
    formula. Text that begins like one (`FORMULA_BEGINNINGS`) gets a leading apostrophe, as OWASP recommends, and
    control characters are escaped (`\\x1b`). Numbers are never changed; Parquet and JSON hold the exact text.

    Args:
        table: the rows.
        path: the file; an existing one is replaced.
        float_format: of real numbers, such as "%.6g".

    Raises:
        OSError: the file cannot be written.
    """
    safe = table.apply(_as_text) if len(table) else table
    with atomic_path(path) as working:
        safe.to_csv(working, index=False, float_format=float_format, lineterminator="\n", encoding="utf-8")


def safe_cell(value: object) -> object:
    """The value of a cell as a spreadsheet and a terminal show it unchanged.

    >>> safe_cell("=1+2"), safe_cell("a-b"), safe_cell(-1)
    ("'=1+2", 'a-b', -1)
    """
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if value.startswith(FORMULA_BEGINNINGS) else text


def _as_text(column: pd.Series) -> pd.Series:
    return column if pd.api.types.is_numeric_dtype(column) else column.map(safe_cell, na_action="ignore")
