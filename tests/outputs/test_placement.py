"""Why: nuclei of a tile must land where they lie in the slide, in polygons and in the table alike."""

import json

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.model.result import TABLE_COLUMNS
from cfsam_hf.outputs import Placement, place_result, write_geojson, write_table

from ..export_cases import blob_map, make_result, small_map


def test_shifted_by_whole_pixels():
    result = make_result(blob_map())
    placed = place_result(result, Placement(1000, 20_000))
    for name, start in (("x", 1000), ("bbox_x0", 1000), ("bbox_x1", 1000), ("y", 20_000), ("bbox_y1", 20_000)):
        np.testing.assert_allclose(placed.table[name], result.table[name] + start)
    for name in ("area_px", "area_um2", "score", "type_name"):
        pd.testing.assert_series_equal(placed.table[name], result.table[name])
    assert placed.table.dtypes.astype(str).tolist() == result.table.dtypes.astype(str).tolist()
    ring = placed.contours[3][0]
    assert np.issubdtype(ring.dtype, np.integer)
    np.testing.assert_array_equal(ring, result.contours[3][0] + (1000, 20_000))
    assert placed.instance_map is result.instance_map


def test_a_downsampled_tile():
    result = make_result(small_map())
    placed = place_result(result, Placement(10.5, -3, 2))
    np.testing.assert_allclose(placed.table["x"], 10.5 + 2 * result.table["x"])
    assert (placed.table["area_px"] == 4 * result.table["area_px"]).all()
    assert (placed.table["area_um2"] == result.table["area_um2"]).all()
    assert (placed.table["bbox_x0"] <= 10.5 + 2 * result.table["bbox_x0"]).all()
    assert (placed.table["bbox_x1"] >= 10.5 + 2 * result.table["bbox_x1"]).all()
    np.testing.assert_allclose(placed.contours[0][0], result.contours[0][0] * 2 + (10.5, -3))


def test_files_state_the_placement(tmp_path):
    placed = place_result(make_result(small_map()), Placement(100, 200, 2))
    write_geojson(placed, tmp_path / "a.geojson")
    write_table(placed, tmp_path / "a.parquet")
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["metadata"]["placement"] == {"x": 100, "y": 200, "downsample": 2}
    corner = np.min(content["features"][0]["geometry"]["coordinates"][0], axis=0)
    assert corner.tolist() == [100, 200]
    assert list(pd.read_parquet(tmp_path / "a.parquet").columns) == list(TABLE_COLUMNS)


@pytest.mark.parametrize("numbers", [(float("nan"), 0), (0, float("inf")), (0, 0, 0), (0, 0, -1), (0, 0, 1e9)])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="of a tile must"):
        Placement(*numbers)
