"""Why: counts and densities go into papers; they must be right, and empty rather than wrong where mpp is unknown."""

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.outputs import SUMMARY_COLUMNS, summary_rows, write_summary
from cfsam_hf.outputs.slide_record import slide_record
from cfsam_hf.outputs.slide_table import nuclei_batch, nuclei_schema
from cfsam_hf.outputs.summary import check_own_summary, slide_summary_rows

from ..export_cases import make_result, small_map


def test_counts_and_densities_by_hand():
    # 8 nuclei on 12 x 9 pixels of .5 um: 6 x 4.5 um, so 27e-6 mm2.
    rows = summary_rows(make_result(small_map(), mpp=0.5))
    assert [(row["type"], row["type_name"], row["count"]) for row in rows] == [
        (-1, "all", 8),
        (1, "epithelial", 3),
        (2, "inflammatory", 3),
        (3, "spindle-shaped", 2),
    ]
    assert rows[0]["image_area_mm2"] == pytest.approx(27e-6)
    assert rows[0]["density_per_mm2"] == pytest.approx(8 / 27e-6)
    assert rows[3]["fraction"] == 0.25
    # Types 1: ids 1 (8 px), 4 (5), 7 (1).
    assert rows[1]["mean_area_px"] == pytest.approx(14 / 3)
    assert rows[1]["mean_area_um2"] == pytest.approx(14 / 3 / 4)


def test_unknown_pixel_size_leaves_fields_empty(tmp_path):
    rows = summary_rows(make_result(small_map(), mpp=None, typed=False))
    assert [row["type_name"] for row in rows] == ["all", "nucleus"]
    write_summary(rows, tmp_path / "summary.csv")
    back = pd.read_csv(tmp_path / "summary.csv")
    assert list(back.columns) == list(SUMMARY_COLUMNS)
    assert back["count"].tolist() == [8, 8]
    assert back[["density_per_mm2", "image_area_mm2", "mean_area_um2", "mpp"]].isna().all(axis=None)


def test_an_image_without_nuclei_has_its_rows(tmp_path):
    rows = summary_rows(make_result(np.zeros((4, 5), np.int32)))
    assert [row["count"] for row in rows] == [0, 0, 0, 0]
    assert [row["density_per_mm2"] for row in rows] == [0, 0, 0, 0]
    assert rows[0]["fraction"] is None
    assert rows[0]["mean_area_px"] is None
    write_summary(rows, tmp_path / "summary.csv")
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 4


def test_several_images_in_one_file(tmp_path):
    rows = summary_rows(make_result(small_map(), image_name="a")) + summary_rows(
        make_result(small_map(), image_name="b")
    )
    write_summary(rows, tmp_path / "summary.csv")
    assert pd.read_csv(tmp_path / "summary.csv")["image"].tolist() == ["a"] * 4 + ["b"] * 4


HEADER = ",".join(SUMMARY_COLUMNS)


@pytest.mark.parametrize(
    "content", ["", "\0" * 9000, "\r\n", HEADER[:30], HEADER, f"{HEADER}\nx", f"\ufeff{HEADER}\r\nx", "image\0\0"]
)
def test_own_summaries_and_their_remains_may_be_replaced(content, tmp_path):
    (tmp_path / "summary.csv").write_bytes(content.encode())
    check_own_summary(tmp_path / "summary.csv")
    check_own_summary(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("content", ["case,grade\n1,3\n", f"{HEADER},mine\n", f"{HEADER[:-1]}\n", "image\n", "x"])
def test_other_tables_may_not(content, tmp_path):
    (tmp_path / "summary.csv").write_text(content)
    with pytest.raises(FileExistsError, match=r"summary\.csv exists and was not written by cfsam"):
        check_own_summary(tmp_path / "summary.csv")


def test_names_cannot_run_as_formulas(tmp_path):
    write_summary(summary_rows(make_result(small_map(), image_name="=1+2.png")), tmp_path / "summary.csv")
    back = pd.read_csv(tmp_path / "summary.csv")
    assert back["image"].unique().tolist() == ["'=1+2.png"]
    assert back["type"].tolist() == [-1, 1, 2, 3]


def test_a_summary_of_the_first_version_may_be_replaced(tmp_path):
    former = HEADER.removesuffix(",tissue_area_mm2,density_per_tissue_mm2")
    assert former != HEADER
    (tmp_path / "summary.csv").write_text(f"{former}\nx\n")
    check_own_summary(tmp_path / "summary.csv")


def slide_rows(result, parts=3, **record):
    """The rows of a slide made of the same image several times over."""
    batch = nuclei_batch(result, nuclei_schema(result.type_names))
    size = 12 * parts, 9
    facts = {"image": "s.svs", "image_size": size, "nuclei": parts * len(result), "mpp": (0.5, 0.5)}
    return slide_summary_rows([batch] * parts, slide_record(**facts | {"type_names": result.type_names} | record))


def test_a_slide_counts_per_tissue_too():
    tile = summary_rows(make_result(small_map(), mpp=0.5))
    rows = slide_rows(make_result(small_map(), mpp=0.5), tissue_area_um2=27.0)
    assert [row["count"] for row in rows] == [3 * row["count"] for row in tile]
    for name in ("type", "type_name", "fraction"):
        assert [row[name] for row in rows] == [row[name] for row in tile]
    for name in ("density_per_mm2", "mean_area_px", "mean_area_um2"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in tile])
    assert rows[0]["image_area_mm2"] == pytest.approx(81e-6)
    assert rows[0]["tissue_area_mm2"] == pytest.approx(27e-6)
    assert rows[1]["density_per_tissue_mm2"] == pytest.approx(9 / 27e-6)
    assert tile[1]["density_per_tissue_mm2"] is None


def test_a_slide_without_pixel_size_types_or_nuclei_has_empty_fields(tmp_path):
    rows = slide_rows(make_result(small_map(), mpp=None, typed=False), mpp=None)
    assert [(row["type_name"], row["count"]) for row in rows] == [("all", 24), ("nucleus", 24)]
    assert rows[0]["mean_area_um2"] is rows[0]["density_per_tissue_mm2"] is None
    empty = slide_rows(make_result(np.zeros((4, 5), np.int32)), tissue_area_um2=0.0)
    assert [row["count"] for row in empty] == [0, 0, 0, 0]
    assert empty[0]["mean_area_px"] is None
    tiles = summary_rows(make_result(small_map()))
    write_summary([*tiles, *rows, *empty], tmp_path / "summary.csv")
    back = pd.read_csv(tmp_path / "summary.csv")
    assert back["image"].tolist() == ["case 7/tile é.png"] * 4 + ["s.svs"] * 6
    assert back["tissue_area_mm2"].isna().tolist() == [True] * 6 + [False] * 4
