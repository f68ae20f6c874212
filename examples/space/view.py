"""What the page shows of a result: its nuclei filtered, the picture, chart, table and files. No model here."""

import dataclasses
import html
import os
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from cfsam_hf import NucleiResult
from cfsam_hf.drawing.overlay import draw_contours, frame_overlay
from cfsam_hf.outputs import summary_rows, type_styles, write_geojson, write_table

# Share of the type's colour in a filled nucleus; the tissue inside must remain visible.
FILL_STRENGTH = 0.45
# More rows make the browser slow.
TABLE_ROWS = 1000
# Columns of the page's table with the decimals they show; the files hold all columns in full.
SHOWN_COLUMNS = {
    "id": 0,
    "type_name": 0,
    "type_probability": 3,
    "score": 3,
    "x": 1,
    "y": 1,
    "area_px": 0,
    "area_um2": 1,
}

CHART_STYLE = """
.cfsam-chart { color: var(--body-text-color); font-variant-numeric: tabular-nums; padding: 4px 2px; }
.cfsam-chart .total { font-size: 2.1em; font-weight: 600; line-height: 1.1; }
.cfsam-chart .quiet { opacity: 0.7; font-weight: normal; }
.cfsam-chart .type { margin-top: 14px; }
.cfsam-chart .words { display: flex; justify-content: space-between; gap: 1em; white-space: nowrap; }
.cfsam-chart .name { overflow: hidden; text-overflow: ellipsis; }
.cfsam-chart .track { height: 12px; margin-top: 3px; border-radius: 6px; background: var(--border-color-primary); }
.cfsam-chart .bar { height: 12px; border-radius: 6px; }
"""


def filtered(result: NucleiResult, minimum_score: float, types: Collection[int]) -> NucleiResult:
    """The nuclei of these types with at least this score, renumbered from 1 in their order.

    Legends, charts and files lack the types that are left out, unless all are: then they keep all names. A model
    without types has the single type 0.

    Args:
        result: the nuclei of an image, which stay unchanged.
        minimum_score: 0 to 1.
        types: type ids.
    """
    kept = ((result.table["score"] >= minimum_score) & result.table["type"].isin(list(types))).to_numpy()
    renumber = np.zeros(len(kept) + 1, dtype=np.int32)
    renumber[1:][kept] = np.arange(1, kept.sum() + 1)
    table = result.table[kept].reset_index(drop=True)
    table["id"] = np.arange(1, len(table) + 1)
    names = {type_id: name for type_id, name in result.type_names.items() if type_id in types} or result.type_names
    return dataclasses.replace(
        result,
        instance_map=renumber[result.instance_map],
        table=table,
        type_names=names,
        type_colors={type_id: color for type_id, color in result.type_colors.items() if type_id in names or not names},
    )


def overlay(result: NucleiResult, image: np.ndarray, opacity: float = 1.0, fill: bool = False) -> Image.Image:
    """The picture of a result: title, image with contours in the types' colours, legend, scale bar.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB.
        opacity: opacity of contours and fillings, from 0 (the image alone) to 1.
        fill: whether to tint the nuclei as well.

    Raises:
        ValueError: the image has another size than the result, or the opacity is outside 0 to 1.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {opacity}")
    drawn = draw_contours(result, tinted(result, image) if fill else image)
    plain = draw_contours(filtered(result, 0, ()), image)
    return frame_overlay(result, cv2.addWeighted(drawn, opacity, plain, 1 - opacity, 0))


def tinted(result: NucleiResult, image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 with every nucleus tinted in the colour of its type."""
    types = result.table["type"].to_numpy()
    colors = np.zeros((len(types) + 1, 3), dtype=np.float32)
    for style in type_styles(result):
        colors[1:][types == style.type_id] = style.color
    inside = result.instance_map > 0
    picture = image.copy()
    picture[inside] = np.rint(
        (1 - FILL_STRENGTH) * image[inside] + FILL_STRENGTH * colors[result.instance_map[inside]]
    ).astype(np.uint8)
    return picture


def chart(result: NucleiResult, total: int) -> str:
    """Counts and densities per type as HTML, each with a bar relative to the most frequent type.

    Args:
        result: the nuclei that are shown.
        total: the number of nuclei found, whether shown or not.
    """
    everything, *rows = summary_rows(result)
    area = everything["image_area_mm2"]
    longest = max(1, *(row["count"] for row in rows))
    colors = {style.type_id: "#{:02x}{:02x}{:02x}".format(*style.color) for style in type_styles(result)}
    shown = "nucleus" if total == everything["count"] == 1 else "nuclei"
    if everything["count"] < total:
        shown = f"of {total:,} nuclei shown"
    where = "pixel size unknown: no densities" if area is None else f"{_density(everything)} on {area:.3g} mm²"
    bars = "".join(
        f'<div class="type"><div class="words"><span class="name">{html.escape(row["type_name"])}</span>'
        f'<span><b>{row["count"]:,}</b><span class="quiet">{_density(row, " · ")}</span></span></div>'
        f'<div class="track"><div class="bar" style="width: {100 * row["count"] / longest:.1f}%; '
        f'background: {colors[row["type"]]}"></div></div></div>'
        for row in rows
    )
    head = f'<div><span class="total">{everything["count"]:,}</span> {shown}</div><div class="quiet">{where}</div>'
    return f'<style>{CHART_STYLE}</style><div class="cfsam-chart">{head}{bars}</div>'


def table(result: NucleiResult) -> pd.DataFrame:
    """The first `TABLE_ROWS` nuclei with the columns of interest, rounded, without columns that are all unknown."""
    shown = result.table.loc[: TABLE_ROWS - 1, list(SHOWN_COLUMNS)].round(SHOWN_COLUMNS)
    return shown.drop(columns=[name for name in shown if shown[name].isna().all() and len(shown)])


def write_downloads(result: NucleiResult, folder: str | os.PathLike, *, is_part: bool) -> tuple[Path, Path]:
    """Writes the nuclei as GeoJSON and Parquet, named after the image.

    Args:
        result: the nuclei that are shown.
        folder: where to write them.
        is_part: whether some nuclei are filtered out, which the names then indicate.

    Returns:
        The GeoJSON and the Parquet file.

    Raises:
        OSError: a file cannot be written.
    """
    stem = Path(result.image_name or "nuclei").stem + "_filtered" * is_part
    geojson, parquet = Path(folder, f"{stem}.geojson"), Path(folder, f"{stem}.parquet")
    write_geojson(result, geojson)
    write_table(result, parquet)
    return geojson, parquet


def _density(row: dict, before: str = "") -> str:
    density = row["density_per_mm2"]
    return "" if density is None else f"{before}{density:,.0f} /mm²"
