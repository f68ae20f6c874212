"""Why: Parquet must restore the table exactly, CSV as closely as text allows, and the file must state its origin."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from cfsam_hf.outputs import write_csv, write_table

from ..export_cases import make_result, small_map

CASES = {
    "typed": make_result(small_map()),
    "untyped": make_result(small_map(), typed=False, mpp=None),
    "empty": make_result(np.zeros((4, 5), np.int32)),
}


@pytest.mark.parametrize("case", CASES)
def test_parquet_comes_back(case, tmp_path):
    write_table(CASES[case], tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), CASES[case].table)


@pytest.mark.parametrize("case", CASES)
def test_csv_comes_back(case, tmp_path):
    write_csv(CASES[case], tmp_path / "a.csv")
    back = pd.read_csv(tmp_path / "a.csv")
    assert list(back.columns) == list(CASES[case].table.columns)
    pd.testing.assert_frame_equal(back, CASES[case].table, check_dtype=False, rtol=1e-5)


def test_parquet_metadata_says_what_made_it(tmp_path):
    write_table(CASES["typed"], tmp_path / "a.parquet")
    record = json.loads(pyarrow.parquet.read_schema(tmp_path / "a.parquet").metadata[b"cfsam_hf"])
    assert (record["version"], record["checkpoint"], record["mpp"]) == ("0.0.1", "cfsam-tiny", 0.25)
    assert [t["name"] for t in record["types"]] == ["epithelial", "inflammatory", "spindle-shaped"]
