"""Why: the label map must come back bit for bit and say its pixel size and origin to other programs."""

import json

import numpy as np
import PIL.Image
import pytest
import skimage.io
import tifffile

from cfsam_hf.outputs import write_instance_map

from ..export_cases import blob_map, make_result, small_map


@pytest.mark.parametrize(
    "instance_map",
    [small_map(), blob_map(size=300), np.zeros((3, 2), np.int32), np.zeros((1, 700), np.int32)],
    ids=["small", "blobs", "empty", "strip"],
)
def test_comes_back_in_every_reader(instance_map, tmp_path):
    path = tmp_path / "a_instances.tif"
    write_instance_map(make_result(instance_map), path)
    back = tifffile.imread(path)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, instance_map)
    np.testing.assert_array_equal(skimage.io.imread(path), instance_map)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), instance_map)


def test_ids_beyond_sixteen_bits_survive(tmp_path):
    instance_map = np.arange(1, 70_001, dtype=np.int32).reshape(200, 350)
    write_instance_map(make_result(instance_map), tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), instance_map)


def test_tags_say_pixel_size_and_origin(tmp_path):
    write_instance_map(make_result(small_map(), mpp=0.25), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        tags = tiff.pages[0].tags
        numerator, denominator = tags["XResolution"].value
        assert numerator / denominator == pytest.approx(40_000)
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert tags["Software"].value == "cfsam_hf 0.0.1"
        record = json.loads(tags["ImageDescription"].value)
    assert (record["checkpoint"], record["mpp"], record["image"]) == ("cfsam-tiny", 0.25, "case 7/tile é.png")


def test_unknown_pixel_size_is_not_written(tmp_path):
    write_instance_map(make_result(small_map(), mpp=None), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].tags["XResolution"].value == (1, 1)
        assert json.loads(tiff.pages[0].tags["ImageDescription"].value)["mpp"] is None
