"""Counts and densities per type, for one image or many."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from ..files.csv_files import write_csv_file
from ..files.own_results import is_blank
from ..model.result import NucleiResult, provenance, record_styles, type_styles

SUMMARY_NAME = "summary.csv"
# The row of all nuclei.
ALL_TYPES, ALL_NAME = -1, "all"
SUMMARY_COLUMNS = (
    "image", "type", "type_name", "count", "fraction", "density_per_mm2", "mean_area_px", "mean_area_um2",
    "image_width_px", "image_height_px", "image_area_mm2", "mpp", "checkpoint", "version", "tissue_area_mm2",
    "density_per_tissue_mm2",
)  # fmt: skip
# What version 0.1.0 wrote.
FORMER_COLUMNS = SUMMARY_COLUMNS[:-2]


@dataclass(frozen=True)
class _Group:
    """The nuclei of a type, or all: their number and mean areas, None without any or without a pixel size."""

    type_id: int
    name: str
    count: int
    mean_area_px: float | None
    mean_area_um2: float | None


def summary_rows(result: NucleiResult) -> list[dict[str, Any]]:
    """One row for all nuclei of the image (`type` -1, `type_name` "all"), then one for each type, present or not.

    Returns:
        Rows with the keys `SUMMARY_COLUMNS`: `count`; `fraction` of the image's nuclei; `density_per_mm2` of the whole
        image's area, not of the tissue in it; mean areas. Values that need mpp are None if it is unknown, and so are
        a fraction or mean of no nuclei. The columns of the tissue are those of slides, and None.
    """
    table = result.table
    parts = [(ALL_TYPES, ALL_NAME, table)]
    parts += [(style.type_id, style.name, table[table["type"] == style.type_id]) for style in type_styles(result)]
    return _rows(
        [
            _Group(
                type_id,
                name,
                len(rows),
                float(rows["area_px"].mean()) if len(rows) else None,
                float(rows["area_um2"].mean()) if len(rows) and result.mpp is not None else None,
            )
            for type_id, name, rows in parts
        ],
        provenance(result),
    )


def slide_summary_rows(batches: Iterable[pyarrow.RecordBatch], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a slide, as [`summary_rows`] gives those of a tile.

    `density_per_mm2` is again that of the whole image, glass included; `density_per_tissue_mm2` is that of the tissue,
    whose area `tissue_area_mm2` states. Areas in pixels are those of level 0.

    Args:
        batches: nuclei with the columns `type`, `area_px` and `area_um2` of `nuclei_schema`, and any others.
        record: the provenance record of the slide, as `slide_record` makes it.
    """
    styles = record_styles(record)
    counts = np.zeros(max(style.type_id for style in styles) + 1, dtype=np.int64)
    areas_px, areas_um2 = np.zeros(len(counts)), np.zeros(len(counts))
    for batch in batches:
        types = batch.column("type").to_numpy()
        counts += np.bincount(types, minlength=len(counts))
        for sums, name in ((areas_px, "area_px"), (areas_um2, "area_um2")):
            sums += np.bincount(types, batch.column(name).to_numpy(zero_copy_only=False), minlength=len(counts))
    parts: list[tuple[int, str, list[int]]] = [(ALL_TYPES, ALL_NAME, [style.type_id for style in styles])]
    parts += [(style.type_id, style.name, [style.type_id]) for style in styles]
    groups = []
    for type_id, name, ids in parts:
        count = int(counts[ids].sum())
        mean_px, mean_um2 = (float(sums[ids].sum() / count) if count else None for sums in (areas_px, areas_um2))
        groups.append(_Group(type_id, name, count, mean_px, None if record["mpp"] is None else mean_um2))
    return _rows(groups, record)


def _rows(groups: list[_Group], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an image from its groups, the first of which has all nuclei, and its provenance record."""
    width, height = record["image_size"]
    mpp, tissue_mm2, total = record["mpp"], record.get("tissue_area_mm2"), groups[0].count
    area_mm2 = None if mpp is None else width * height * (mpp / 1e3) ** 2
    return [
        {
            "image": record["image"],
            "type": group.type_id,
            "type_name": group.name,
            "count": group.count,
            "fraction": group.count / total if total else None,
            "density_per_mm2": group.count / area_mm2 if area_mm2 else None,
            "mean_area_px": group.mean_area_px,
            "mean_area_um2": group.mean_area_um2,
            "image_width_px": width,
            "image_height_px": height,
            "image_area_mm2": area_mm2,
            "mpp": mpp,
            "checkpoint": record["checkpoint"],
            "version": record["version"],
            "tissue_area_mm2": tissue_mm2,
            "density_per_tissue_mm2": group.count / tissue_mm2 if tissue_mm2 else None,
        }
        for group in groups
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
        FileExistsError: it has other columns than ours, of this version or an earlier one. A file that is empty, holds
            only zero bytes, or ends within the header is what a power failure leaves of a summary, and may
            be replaced.
    """
    if not any(has_header(path, columns) for columns in (SUMMARY_COLUMNS, FORMER_COLUMNS)):
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
