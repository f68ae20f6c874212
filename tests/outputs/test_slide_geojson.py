"""Why: QuPath must show a slide's nuclei as it shows a tile's, from a file that never was in memory as a whole."""

import gzip
import json

import geopandas
import numpy as np
import pytest
import shapely

from cfsam_hf.files.own_results import is_own_result
from cfsam_hf.model.result import provenance
from cfsam_hf.outputs import nucleus_features, write_geojson
from cfsam_hf.outputs.slide_geojson import slide_features, slide_geojson_ending, write_slide_geojson
from cfsam_hf.outputs.slide_table import BOX_COLUMNS, nuclei_batch, nuclei_schema

from ..export_cases import TYPE_NAMES, blob_map, make_result, small_map

SCHEMA = nuclei_schema(TYPE_NAMES)


@pytest.mark.parametrize("typed", [True, False])
def test_a_slide_of_one_part_gives_the_features_of_a_tile(typed, tmp_path):
    result = make_result(blob_map(), typed=typed, mpp=0.25 if typed else None)
    batch = nuclei_batch(result, nuclei_schema(result.type_names))
    record = provenance(result)
    assert list(slide_features([batch], record)) == list(nucleus_features(result))
    write_geojson(result, tmp_path / "tile.geojson")
    write_slide_geojson([batch.slice(0, 5), batch.slice(5)], tmp_path / "slide.geojson", record)
    assert (tmp_path / "slide.geojson").read_bytes() == (tmp_path / "tile.geojson").read_bytes()


def test_coordinates_are_those_of_level_0():
    result = make_result(small_map())
    batch = nuclei_batch(result, SCHEMA, offset=(1000.25, 7), scale=(1.98412, 2))
    for feature, row in zip(slide_features([batch], provenance(result)), batch.to_pylist(), strict=True):
        polygon = shapely.geometry.shape(feature["geometry"])
        np.testing.assert_allclose(polygon.area, row["area_px"], rtol=0.02)
        np.testing.assert_allclose(polygon.bounds, [row[name] for name in BOX_COLUMNS], atol=0.01)


def test_large_files_are_compressed_and_equal_results_give_equal_files(tmp_path):
    result = make_result(blob_map())
    batch, record = nuclei_batch(result, SCHEMA), provenance(result)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_slide_geojson([batch], tmp_path / folder / "s.geojson.gz", record)
    path = tmp_path / "a" / "s.geojson.gz"
    assert path.read_bytes() == (tmp_path / "b" / "s.geojson.gz").read_bytes()
    document = json.loads(gzip.decompress(path.read_bytes()))
    assert document["features"] == list(nucleus_features(result))
    assert document["metadata"] == record
    assert len(geopandas.read_file(f"/vsigzip/{path}")) == len(result)
    assert is_own_result(path)


def test_the_ending_follows_the_number_of_nuclei():
    assert [slide_geojson_ending(n) for n in (0, 50_000, 50_001)] == [".geojson", ".geojson", ".geojson.gz"]


def test_only_one_batch_is_in_use(tmp_path):
    batch, record = nuclei_batch(make_result(small_map()), SCHEMA), provenance(make_result(small_map()))
    sizes = []

    def batches():
        for _ in range(20):
            yield batch
            sizes.append(next(tmp_path.glob(".cfsam-*/new/s.geojson")).stat().st_size)

    write_slide_geojson(batches(), tmp_path / "s.geojson", record)
    assert len(set(sizes)) > 1, "nothing was written before the last batch"
