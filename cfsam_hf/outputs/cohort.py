"""A study's slides in one table and one page: counts and densities of each, and what failed."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..files.csv_files import safe_cell
from ..files.own_results import SOFTWARE
from .slide_table import probability_columns
from .summary import ALL_TYPES

COHORT_TABLE, COHORT_PAGE = "cohort.csv", "cohort.html"
PARTITIONS = "nuclei"
"""The folder of the partitioned data set of all nuclei."""

COLUMNS = ("slide", "tissue_area_mm2", "count", "density_per_tissue_mm2")
LAST_COLUMNS = ("seconds", "error", "checkpoint", "version")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; margin: 2em auto; max-width: 1500px; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
.failed { border-left: 4px solid #b3261e; padding-left: 1em; margin: .6em 0; overflow-wrap: anywhere; }
.slides { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 1.5em; }
figure { margin: 0; border: 1px solid #dadce0; border-radius: 6px; padding: .7em; }
figcaption { overflow-wrap: anywhere; } figcaption strong { display: block; }
img { width: 100%; height: 300px; object-fit: contain; background: #fff; } small { color: #5f6368; }
"""


@dataclass(frozen=True)
class CohortSlide:
    """
    A slide of a study.

    Attributes:
        name: of the slide in the outputs.
        rows: its rows of the summary, none if it failed.
        overview: the path of its overview relative to the output folder, None if there is none.
        seconds: of work on it, None if that is not known.
        error: why it failed, None if it did not.
    """

    name: str
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)
    overview: str | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def total(self) -> Mapping[str, Any]:
        """The row of all nuclei, empty for a slide that failed."""
        return next((row for row in self.rows if row["type"] == ALL_TYPES), {})

    @property
    def types(self) -> list[Mapping[str, Any]]:
        """The rows of the types."""
        return [row for row in self.rows if row["type"] != ALL_TYPES]

    @property
    def density(self) -> float:
        """Nuclei per mm2 of tissue, 0 if that is not known."""
        return float(self.total.get("density_per_tissue_mm2") or 0)


def cohort_csv(slides: Sequence[CohortSlide]) -> str:
    """
    A CSV table with a row per slide: area of the tissue, counts and densities of all nuclei and of each type, seconds
    of work, and the error of a slide that failed.

    Args:
        slides: in the order of the rows.
    """
    rows = []
    for slide in slides:
        total = slide.total
        row = {"slide": slide.name, "seconds": slide.seconds, "error": slide.error}
        row |= {name: total.get(name) for name in ("tissue_area_mm2", "count", "density_per_tissue_mm2")}
        row |= {name: total.get(name) for name in ("checkpoint", "version")}
        columns = probability_columns({kind["type"]: kind["type_name"] for kind in slide.types})
        for kind in slide.types:
            name = columns[kind["type"]].removeprefix("probability_")
            row |= {f"count_{name}": kind["count"], f"density_{name}_per_tissue_mm2": kind["density_per_tissue_mm2"]}
        rows.append(row)
    of_types = list(dict.fromkeys(name for row in rows for name in row if name not in (*COLUMNS, *LAST_COLUMNS)))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *of_types, *LAST_COLUMNS])
    for name in table.columns:
        if name.startswith("count"):
            table[name] = table[name].astype("Int64")
        elif not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].map(safe_cell, na_action="ignore")
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, float_format="%.6g", lineterminator="\n")
    return buffer.getvalue()


def cohort_page(slides: Sequence[CohortSlide], title: str) -> str:
    """
    A page with what failed at its top, and the overviews of the others, from the densest slide to the emptiest.

    The overviews are linked, not embedded: the page lies in the output folder, beside the slides' files.

    Args:
        slides: in any order.
        title: of the page.
    """
    failed = [slide for slide in slides if slide.error is not None]
    done = sorted((slide for slide in slides if slide.error is None), key=lambda slide: (-slide.density, slide.name))
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{len(done):,} slides are done, {len(failed):,} failed.</p>"]
    if failed:
        parts.append("<h2>Failed</h2>")
        parts += [
            f'<p class="failed"><strong>{html.escape(slide.name)}</strong><br>{html.escape(slide.error or "")}</p>'
            for slide in sorted(failed, key=lambda slide: slide.name)
        ]
    parts.append("<h2>Slides by density</h2>")
    parts.append(f'<div class="slides">{"".join(map(_figure, done))}</div>')
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{SOFTWARE}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def partition_name(name: str) -> str:
    """
    The folder of a slide in the partitioned data set, as Hive and DuckDB write and read it.

    >>> partition_name("case 7/slide.svs")
    'slide=case%207%2Fslide.svs'
    """
    return f"slide={quote(name, safe='')}"


def _figure(slide: CohortSlide) -> str:
    total = slide.total
    name = html.escape(slide.name)
    picture = ""
    if slide.overview is not None:
        link = quote(slide.overview)
        picture = f'<a href="{link}"><img src="{link}" alt="Overview of {name}" loading="lazy"></a>'
    area = total.get("tissue_area_mm2")
    tissue = "" if area is None else f", {area:.2f} mm² of tissue, {slide.density:,.0f} per mm²"
    types = ", ".join(f"{html.escape(str(kind['type_name']))} {kind['count']:,}" for kind in slide.types)
    return (
        f"<figure>{picture}<figcaption><strong>{name}</strong>{total.get('count', 0):,} nuclei{tissue}"
        f"<br><small>{types}</small></figcaption></figure>"
    )
