"""Counts and densities per type, for one image or many."""

import os
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ..files.atomic import atomic_path
from ..model.result import NucleiResult, type_styles

SUMMARY_COLUMNS = (
    "image", "type", "type_name", "count", "fraction", "density_per_mm2", "mean_area_px", "mean_area_um2",
    "image_width_px", "image_height_px", "image_area_mm2", "mpp", "checkpoint", "version",
)  # fmt: skip


def summary_rows(result: NucleiResult) -> list[dict[str, Any]]:
    """One row for all nuclei of the image (`type` -1, `type_name` "all"), then one for each type, present or not.

    Returns:
        Rows with the keys `SUMMARY_COLUMNS`: `count`; `fraction` of the image's nuclei; `density_per_mm2` of the whole
        image's area, not of the tissue in it; mean areas. Whatever needs mpp is None where it is unknown, and a
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


def write_summary(rows: Iterable[dict[str, Any]], path: str | os.PathLike) -> None:
    """Writes rows of [`summary_rows`], of one image or of many, as CSV; an unknown value is an empty field.

    Args:
        rows: the rows, in the order they are to stand in.
        path: the file to write; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    table = pd.DataFrame(list(rows), columns=list(SUMMARY_COLUMNS))
    with atomic_path(path) as working:
        table.to_csv(working, index=False, float_format="%.6g", lineterminator="\n")
