"""Why: ImageJ must measure the same nuclei, QuPath must read their classes, and our own reader must restore them."""

import json
import sys
import zipfile

import numpy as np
import pytest

from cfsam_hf.data.polygons import rasterise_shapes
from cfsam_hf.data.readers.imagej_files import read_imagej
from cfsam_hf.files.own_results import is_own_result
from cfsam_hf.outputs import nucleus_rois, write_rois

from ..export_cases import TYPE_COLORS, blob_map, make_result, small_map

roifile = pytest.importorskip("roifile")


@pytest.mark.parametrize(
    "instance_map", [small_map(), blob_map(), np.ones((1, 1), np.int32)], ids=["small", "blobs", "1px"]
)
def test_read_back_as_the_same_label_map(instance_map, tmp_path):
    write_rois(make_result(instance_map), tmp_path / "a_rois.zip")
    found = read_imagej(tmp_path / "a_rois.zip")
    assert found.notes == []
    drawn, _, _ = rasterise_shapes([feature.polygons for feature in found.features], *instance_map.shape)
    np.testing.assert_array_equal(drawn, instance_map)


def test_class_group_colour_and_measurements(tmp_path):
    result = make_result(small_map(), mpp=0.5)
    write_rois(result, tmp_path / "a_rois.zip")
    rois = roifile.roiread(tmp_path / "a_rois.zip")
    assert [roi.group for roi in rois] == result.table["type"].tolist()
    assert rois[1].name == "000002-inflammatory"
    assert rois[1].stroke_color == bytes((255, *TYPE_COLORS[2]))
    properties = rois[1].properties
    assert properties["qupath.object.classification"] == "inflammatory"
    assert properties["qupath.object.type"] == "detection"
    assert properties["qupath.object.measurements.score"] == round(result.table["score"][1], 6)
    names = [feature.name for feature in read_imagej(tmp_path / "a_rois.zip").features]
    assert names == result.table["type_name"].tolist()


def test_boxes_are_those_of_the_table():
    result = make_result(blob_map(seed=4))
    for roi, row in zip(nucleus_rois(result), result.table.itertuples(), strict=True):
        assert (roi.left, roi.top, roi.right, roi.bottom) == (row.bbox_x0, row.bbox_y0, row.bbox_x1, row.bbox_y1)


def test_nuclei_without_types_or_pixel_size(tmp_path):
    write_rois(make_result(small_map(), typed=False, mpp=None), tmp_path / "a.zip")
    for roi in roifile.roiread(tmp_path / "a.zip"):
        assert roi.group == 0
        assert set(roi.properties) == {
            f"qupath.object.{name}" for name in ("type", "classification", "measurements.score")
        }


def test_coordinates_beyond_16_bits(tmp_path):
    instance_map = np.zeros((4, 70_000), dtype=np.int32)
    instance_map[1:3, 69_990:69_995] = 1
    write_rois(make_result(instance_map), tmp_path / "a.zip")
    ring = read_imagej(tmp_path / "a.zip").features[0].polygons[0][0]
    assert ring.min(axis=0).tolist() == [69_990, 1]
    assert ring.max(axis=0).tolist() == [69_995, 3]


def test_type_names_from_outside_cannot_leave_the_archive_or_forge_properties(tmp_path):
    result = make_result(small_map())
    result.type_names[1] = "../x\nqupath.object.type: annotation"
    write_rois(result, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert not any("/" in name or "\n" in name for name in archive.namelist())
    assert {roi.properties["qupath.object.type"] for roi in roifile.roiread(tmp_path / "a.zip")} == {"detection"}


def test_an_archive_is_a_result_with_its_provenance_and_the_same_each_time(tmp_path):
    result = make_result(blob_map())
    for name in ("a.zip", "b.zip"):
        write_rois(result, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert is_own_result(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.comment)["nuclei"] == len(result)


def test_without_roifile_the_way_out_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(ImportError, match=r"pip install 'cfsam_hf\[imagej\]'"):
        write_rois(make_result(small_map()), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
