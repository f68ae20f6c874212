"""Why: ROI archives hold ovals, rectangles, composites and lines; areas become nuclei, and the rest is counted."""

import zipfile

import numpy as np
import pytest

from cfsam_hf.data.readers.imagej_files import read_imagej
from cfsam_hf.data.readers.qupath import list_qupath
from tests.data_cases import nuclei, painted, save_image, truncate

roifile = pytest.importorskip("roifile")

SQUARE = [[2, 2], [6, 2], [6, 7], [2, 7]]


def roi(points=SQUARE, kind=None):
    made = roifile.ImagejRoi.frompoints(points)
    made.roitype = kind or roifile.ROI_TYPE.POLYGON
    return made


@pytest.mark.parametrize("name", ["a.zip", "a_rois.zip", "a_RoiSet.zip"])
def test_an_archive_beside_its_image(tmp_path, name):
    save_image(tmp_path / "a.png", painted(nuclei()))
    kinds = roifile.ROI_TYPE
    rois = [roi(), roi([[10, 2], [19, 11]], kinds.OVAL), roi([[30, 2], [33, 6]], kinds.RECT), roi(kind=kinds.POLYLINE)]
    roifile.roiwrite(tmp_path / name, rois)
    tile = list_qupath(tmp_path)[0].load()
    areas = np.bincount(tile.instance_map.ravel())[1:].tolist()
    assert (areas[0], areas[2]) == (20, 20)
    assert abs(areas[1] - np.pi * 25) < 6
    assert tile.notes == ("1 ROI without area left out (lines, points)",)
    assert tile.type_map is None


def test_a_single_roi(tmp_path):
    save_image(tmp_path / "a.png", painted(nuclei()))
    roi().tofile(tmp_path / "a.roi")
    assert (list_qupath(tmp_path)[0].load().instance_map == 1).sum() == 20


@pytest.mark.parametrize("share", [0, 0.1, 0.3])
def test_damaged_files_are_named(tmp_path, share):
    roifile.roiwrite(tmp_path / "a.zip", [roi(), roi()])
    with pytest.raises(OSError, match=r"a\.zip: the archive cannot be read"):
        read_imagej(truncate(tmp_path / "a.zip", share))
    roi().tofile(tmp_path / "a.roi")
    with pytest.raises(OSError, match=r"a\.roi: not a file of ImageJ ROIs"):
        read_imagej(truncate(tmp_path / "a.roi", share))


def test_an_archive_that_unpacks_to_too_much(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(80_000_000))
    with pytest.raises(OSError, match=r"a\.zip: unpacks to more than is plausible"):
        read_imagej(tmp_path / "a.zip")
