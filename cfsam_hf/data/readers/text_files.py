"""Reads CSV files of other programs; every error names the file and says what is wrong."""

import csv
from pathlib import Path

from ...files.regular_file import check_regular


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file by the columns of its header.

    A missing cell is empty; cells beyond the header are dropped.

    Raises:
        OSError: the file is missing or not a CSV file.
    """
    check_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise OSError(f"{path}: not a CSV file that can be read ({error})") from error
    return [{column: cell or "" for column, cell in row.items() if column is not None} for row in rows]
