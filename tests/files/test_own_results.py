"""Why: results that lie among images must not be segmented, and files of others must not be overwritten."""

import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.drawing.overlay import write_overlay
from cfsam_hf.files.own_results import is_blank, is_own_result
from cfsam_hf.outputs import write_coco, write_geojson, write_instance_map, write_table

from ..export_cases import blob_map, make_result

WRITERS = {
    "tif": write_instance_map,
    "geojson": write_geojson,
    "parquet": write_table,
    "json": write_coco,
    "png": lambda result, path: write_overlay(result, np.full((*result.instance_map.shape, 3), 230, np.uint8), path),
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("size", [40, 600])
def test_every_result_is_recognised_under_any_name(ending, size, tmp_path):
    path = tmp_path / f"renamed.{ending}"
    WRITERS[ending](make_result(blob_map(size=size)), path)
    assert is_own_result(path)


def test_files_of_others_are_not_ours(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a_overlay.png")
    tifffile.imwrite(tmp_path / "a_instances.tif", picture[:, :, 0].astype(np.int32))
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "empty.png").write_bytes(b"")
    assert not any(map(is_own_result, tmp_path.iterdir()))
    assert not is_own_result(tmp_path)
    assert not is_own_result(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("content", "blank"), [(b"", True), (bytes(100_000), True), (b" \r\n\n", True), (bytes(70_000) + b"x", False)]
)
def test_blank_files(content, blank, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert is_blank(tmp_path / "a") is blank
