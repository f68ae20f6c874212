"""Counts and densities per type, for one image or many."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..files.csv_files import write_csv_file
from ..files.own_results import is_blank
from ..model.result import NucleiResult, type_styles

SUMMARY_NAME = "summary.csv"
SUMMARY_COLUMNS = (
    "image", "type", "type_name", "count", "fraction", "density_per_mm2", "mean_area_px", "mean_area_um2",
    "image_width_px", "image_height_px", "image_area_mm2", "mpp", "checkpoint", "version",
)  # fmt: skip


def summary_rows(result: NucleiResult) -> list[dict[str, Any]]:
    """One row for all nuclei of the image (`type` -1, `type_name` "all"), then one for each type, present or not.

    Returns:
        Rows with the keys `SUMMARY_COLUMNS`: `count`; `fraction` of the image's nuclei; `density_per_mm2` of the whole
        image's area, not of the tissue in it; mean areas. Values that need mpp are None if it is unknown, and a
        fraction or mean of no nuclei is None.
    """
    table = result.table
    width, height = (int(side) for side in result.image_size)
    area_mm2 = None if result.mpp is None else width * height * (result.mpp / 1e3) ** 2
    groups = [(-1, "all", table)]
    groups += [(style.type_id, style.name, table[table["type"] == style.type_id]) for style in type_styles(result)]
    return [
        {
            "image": result.image_name,
            "type": type_id,
            "type_name": name,
            "count": len(rows),
            "fraction": len(rows) / len(table) if len(table) else None,
            "density_per_mm2": len(rows) / area_mm2 if area_mm2 else None,
            "mean_area_px": float(rows["area_px"].mean()) if len(rows) else None,
            "mean_area_um2": float(rows["area_um2"].mean()) if len(rows) and result.mpp is not None else None,
            "image_width_px": width,
            "image_height_px": height,
            "image_area_mm2": area_mm2,
            "mpp": result.mpp,
            "checkpoint": result.checkpoint,
            "version": result.version,
        }
        for type_id, name, rows in groups
    ]


def write_summary(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes rows of [`summary_rows`], of one image or of many, as CSV; an unknown value is an empty field.

    Names that a spreadsheet would run as a formula get a leading apostrophe
    ([`cfsam_hf.files.csv_files.write_csv_file`]).

    Args:
        rows: the rows, in their order in the file.
        path: the file; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    table = pd.DataFrame([dict(row) for row in rows], columns=list(SUMMARY_COLUMNS))
    write_csv_file(table, path, float_format="%.6g")


def check_own_summary(path: Path) -> None:
    """Makes sure that an existing summary may be replaced.

    Raises:
        FileExistsError: it has other columns than ours. A file that is empty, holds only zero bytes, or ends within
            the header is what a power failure leaves of a summary, and may be replaced.
    """
    if not has_header(path, SUMMARY_COLUMNS):
        raise FileExistsError(f"{path} exists and was not written by cfsam; choose another folder with -o")


def has_header(path: Path, columns: Iterable[str]) -> bool:
    """Whether a CSV file is missing, blank, or has exactly these columns.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.exists() or is_blank(path):
        return True
    expected = ",".join(columns)
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read(len(expected) + 1)
    first, newline, _ = text.partition("\n")
    return first == expected if newline else expected.startswith(text.rstrip("\0"))
