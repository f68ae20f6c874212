"""Why: a study is judged by its table and page: no slide may be missing, failures come first, names stay harmless."""

import io
import re

import pandas as pd

from cfsam_hf.outputs.cohort import CohortSlide, cohort_csv, cohort_page, partition_name


def slide(name, count, mm2=2.0, **options):
    share = {"tissue_area_mm2": mm2, "checkpoint": "tiny", "version": "1"}
    rows = [
        {"type": kind, "type_name": label, "count": part, "density_per_tissue_mm2": part / mm2, **share}
        for kind, label, part in ((-1, "all", count), (1, "T cell", count - 1), (2, "t-cell", 1))
    ]
    return CohortSlide(name, rows, f"{name}_overview.png", 12.5, **options)


SLIDES = [
    slide("few.svs", 10),
    slide("case 7/many.svs", 4000),
    CohortSlide('<script>"&=1+2', error="damaged <b>"),
    CohortSlide("=1+2.svs", error="no tissue"),
]


def test_the_table_has_a_row_for_each_slide_with_its_error():
    table = pd.read_csv(io.StringIO(cohort_csv(SLIDES))).set_index("slide")
    assert table.index.tolist() == ["few.svs", "case 7/many.svs", '<script>"&=1+2', "'=1+2.svs"]
    assert table["count"].tolist()[:2] == [10, 4000]
    assert table.loc["few.svs", "density_per_tissue_mm2"] == 5
    assert table.loc["few.svs", "seconds"] == 12.5
    # Two names that become one column keep their ids.
    assert table.loc["case 7/many.svs", ["count_1_t_cell", "count_2_t_cell"]].tolist() == [3999, 1]
    assert table["error"].isna().tolist() == [True, True, False, False]
    # Whole numbers, although some rows have none.
    assert "\nfew.svs,2,10,5,9," in cohort_csv(SLIDES)


def test_the_page_shows_failures_first_and_then_the_densest_slide():
    page = cohort_page(SLIDES, "study <1>")
    places = [page.index(text) for text in ("no tissue", "case 7/many.svs</strong>", "few.svs</strong>")]
    assert places == sorted(places)
    assert "2 slides are done, 2 failed" in page
    assert 'src="case%207/many.svs_overview.png"' in page


def test_names_cannot_change_the_page():
    page = cohort_page([*SLIDES, slide('"><img src=x>', 3)], "study <1>")
    assert "<script" not in page
    assert "<b>" not in page
    assert "<1>" not in page
    assert re.findall(r"<img [^>]*>", page) == [
        text for text in re.findall(r"<img [^>]*>", page) if 'loading="lazy"' in text
    ]


def test_folders_of_partitions_are_single_and_plain():
    assert partition_name("case 7/a=b%.svs") == "slide=case%207%2Fa%3Db%25.svs"
