"""Why: counts and densities go into papers; they must be right, and empty rather than wrong where mpp is unknown."""

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.outputs import SUMMARY_COLUMNS, summary_rows, write_summary
from cfsam_hf.outputs.summary import check_own_summary

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
