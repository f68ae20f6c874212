"""Why: the table of a slide is what people analyse: exact in any reader, and written with flat memory."""

import json
import weakref

import duckdb
import geopandas
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import shapely

from cfsam_hf.files.own_results import is_own_result
from cfsam_hf.model.result import TABLE_COLUMNS, provenance
from cfsam_hf.outputs import slide_table
from cfsam_hf.outputs.slide_table import (
    nuclei_batch,
    nuclei_schema,
    numbered,
    probability_columns,
    read_slide_batches,
    write_slide_table,
)

from ..export_cases import TYPE_NAMES, blob_map, make_result, small_map

SCHEMA = nuclei_schema(TYPE_NAMES)
RESULT = make_result(blob_map(), mpp=0.5)
OFFSET, SCALE = (1000.0, 250.5), (2.0, 1.5)


@pytest.fixture
def slide(tmp_path):
    """A slide's table of two parts: a region moved to its place, and one at the corner."""
    parts = [nuclei_batch(RESULT, SCHEMA, OFFSET, SCALE), nuclei_batch(make_result(small_map()), SCHEMA)]
    count = write_slide_table(numbered(parts), SCHEMA, tmp_path / "a.parquet", provenance(RESULT))
    assert count == len(RESULT) + 8
    return tmp_path / "a.parquet"


def test_a_batch_is_moved_to_pixels_of_level_0():
    batch = nuclei_batch(RESULT, SCHEMA, OFFSET, SCALE)
    assert batch.schema == SCHEMA
    frame, table = batch.to_pandas(), RESULT.table
    polygons = shapely.from_wkb(frame["geometry"])
    np.testing.assert_allclose(shapely.area(polygons), table["area_px"] * 3)
    np.testing.assert_allclose(frame["area_px"], table["area_px"] * 3)
    np.testing.assert_array_equal(frame["area_um2"], table["area_um2"])
    np.testing.assert_allclose(shapely.bounds(polygons), frame[list(slide_table.BOX_COLUMNS)])
    np.testing.assert_allclose(shapely.get_x(shapely.centroid(polygons)), frame["x"])
    np.testing.assert_allclose(shapely.get_y(shapely.centroid(polygons)), frame["y"])
    for name in ("id", "type", "type_name", "type_probability", "score"):
        assert frame[name].tolist() == table[name].tolist()
    shares = frame[list(probability_columns(TYPE_NAMES).values())].to_numpy()
    np.testing.assert_array_equal(shares, RESULT.probabilities)
    np.testing.assert_allclose(shares[np.arange(len(shares)), frame["type"] - 1], frame["type_probability"], rtol=1e-6)


def test_a_slide_has_the_columns_of_a_tile():
    assert [name for name in SCHEMA.names if name in TABLE_COLUMNS] == list(TABLE_COLUMNS)


def test_unknown_values_are_null():
    untyped = make_result(small_map(), typed=False, mpp=None)
    batch = nuclei_batch(untyped, nuclei_schema({}))
    assert {name for name in batch.schema.names if batch[name].null_count} == {"type_probability", "area_um2"}
    assert not any(name.startswith("probability_") for name in batch.schema.names)


def test_a_schema_of_other_types_is_refused():
    with pytest.raises(ValueError, match=r"do not fit the types \{1: 'epithelial'"):
        nuclei_batch(RESULT, nuclei_schema({1: "epithelial"}))


def test_names_of_types_that_look_alike_keep_columns_of_their_own():
    columns = probability_columns({1: "spindle-shaped", 2: "spindle shaped", 3: "上皮", 4: "+"})
    assert list(columns.values()) == [
        "probability_1_spindle_shaped",
        "probability_2_spindle_shaped",
        "probability_3_上皮",
        "probability_4_",
    ]


def test_geopandas_reads_all_and_a_window(slide):
    frame = geopandas.read_parquet(slide)
    assert frame.crs is None
    assert frame.geometry.is_valid.all()
    assert frame["id"].tolist() == list(range(1, len(frame) + 1))
    window = geopandas.read_parquet(slide, bbox=(0, 0, 12, 9))
    assert len(window) == 8
    assert "bbox" not in window.columns


def test_duckdb_and_pandas_read_it(slide):
    counts = duckdb.sql(f"SELECT type_name, count(*), sum(area_um2) FROM '{slide}' GROUP BY type_name").fetchall()
    frame = pd.read_parquet(slide)
    assert {name: count for name, count, _ in counts} == frame["type_name"].value_counts().to_dict()
    [row] = duckdb.sql(f"SELECT count(*) FROM '{slide}' WHERE bbox.xmin >= {OFFSET[0]}").fetchall()
    assert row == (len(RESULT),)


def test_metadata_says_what_made_it_and_that_the_unit_is_pixels(slide):
    metadata = pyarrow.parquet.read_schema(slide).metadata
    assert json.loads(metadata[b"cfsam_hf"]) == provenance(RESULT)
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"], column["crs"]) == ("1.1.0", "WKB", None)
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == geopandas.read_parquet(slide).total_bounds.tolist()
    frame = geopandas.read_parquet(slide)
    assert frame.geometry.exterior.is_ccw.all()
    assert is_own_result(slide)


def test_batches_come_back_in_the_order_and_columns_of_the_schema(slide):
    batches = list(read_slide_batches(slide, rows=7))
    assert max(map(len, batches)) == 7
    assert pyarrow.Table.from_batches(batches).schema.remove_metadata() == SCHEMA
    assert [i for batch in batches for i in batch["id"].to_pylist()] == list(range(1, len(RESULT) + 9))
    assert next(read_slide_batches(slide, ["x", "type"])).schema.names == ["x", "type"]


def test_no_nuclei_are_an_empty_table(tmp_path):
    empty = nuclei_batch(make_result(np.zeros((4, 5), np.int32)), SCHEMA)
    for batches in ([], [empty]):
        assert write_slide_table(batches, SCHEMA, tmp_path / "a.parquet", {}) == 0
        frame = geopandas.read_parquet(tmp_path / "a.parquet")
        assert len(frame) == 0
        assert list(frame.columns) == SCHEMA.names


def test_rows_of_any_batches_make_row_groups_of_one_size(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_table, "ROW_GROUP_SIZE", 10)
    batch = nuclei_batch(make_result(small_map()), SCHEMA)
    write_slide_table(
        numbered([batch, batch.slice(0, 0), batch.slice(0, 1), batch, batch]), SCHEMA, tmp_path / "a", {}
    )
    metadata = pyarrow.parquet.read_metadata(tmp_path / "a")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10, 10, 5]
    assert pd.read_parquet(tmp_path / "a")["id"].tolist() == list(range(1, 26))


def test_batches_are_released_as_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_table, "ROW_GROUP_SIZE", 8)
    alive: list[weakref.ref] = []

    def batches():
        for _ in range(50):
            batch = nuclei_batch(make_result(small_map()), SCHEMA)
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(each() is not None for each in alive) <= 2

    write_slide_table(batches(), SCHEMA, tmp_path / "a.parquet", {})
    assert len(alive) == 50


def test_a_failing_stream_leaves_the_former_file(slide):
    before = slide.read_bytes()

    def batches():
        yield nuclei_batch(RESULT, SCHEMA)
        raise OSError("the share is gone")

    with pytest.raises(OSError, match="the share is gone"):
        write_slide_table(batches(), SCHEMA, slide, {})
    assert slide.read_bytes() == before
    assert [path.name for path in slide.parent.iterdir()] == [slide.name]
