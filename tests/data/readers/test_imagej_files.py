"""Why: ROI archives hold ovals, rectangles, composites and lines; areas become nuclei, and the rest is counted."""

import json
import sys
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
    assert tile.notes == ("1 ROI without area left out (lines, points, texts)",)
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


def test_an_archive_whose_directory_claims_a_gigabyte(tmp_path):
    """zipfile would allocate what the directory claims before it reads."""
    path = tmp_path / "a.zip"
    roifile.roiwrite(path, [roi()])
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + 20
    content[place : place + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.zip: the archive cannot be read"):
        read_imagej(path)


def cell(points, kind, name="Tumor"):
    made = roi(points)
    made.properties = {"qupath.object.type": kind, "qupath.object.classification": name}
    return made


def test_of_cells_sent_by_qupath_the_nuclei_are_read(tmp_path):
    """QuPath sends a cell as two ROIs."""
    inner = [[3, 3], [5, 3], [5, 6], [3, 6]]
    roifile.roiwrite(tmp_path / "a.zip", [cell(SQUARE, "cell"), cell(inner, "cell.nucleus")])
    found = read_imagej(tmp_path / "a.zip")
    assert [(feature.kind, feature.name) for feature in found.features] == [("detection", "Tumor")]
    assert found.features[0].polygons[0][0].tolist() == inner
    assert found.notes == ["outlines of cells left out, their nuclei read: 1"]
    roifile.roiwrite(tmp_path / "b.zip", [cell(SQUARE, "cell")])
    with pytest.raises(ValueError, match=r"b\.zip: 1 outlines of cells with 0 of nuclei"):
        read_imagej(tmp_path / "b.zip")


def test_groups_are_classes_where_no_roi_states_one(tmp_path):
    first, second, third = roi(), roi([[20, 2], [24, 2], [24, 7]]), roi([[30, 2], [34, 2], [34, 7]])
    first.group, second.group = 2, 1
    roifile.roiwrite(tmp_path / "a.zip", [first, second, third])
    found = read_imagej(tmp_path / "a.zip")
    assert [feature.name for feature in found.features] == ["group 2", "group 1", None]
    assert found.notes == ["no ROI states a class; the classes are ImageJ's groups"]


def test_texts_and_pictures_of_an_overlay_are_left_out(tmp_path):
    text, picture = roi(kind=roifile.ROI_TYPE.RECT), roi(kind=roifile.ROI_TYPE.RECT)
    text.subtype, picture.subtype = roifile.ROI_SUBTYPE.TEXT, roifile.ROI_SUBTYPE.IMAGE
    picture.image_data = b""
    roifile.roiwrite(tmp_path / "a.zip", [roi(), text, picture])
    found = read_imagej(tmp_path / "a.zip")
    assert len(found.features) == 1
    assert found.notes == ["2 ROIs without area left out (lines, points, texts)"]


def composite(rings):
    made = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT)
    path = [value for ring in rings for n, point in enumerate(ring) for value in (float(n > 0), *point)]
    made.multi_coordinates = np.array(path, dtype=np.float32)
    made.shape_roi_size = len(path)
    return made


def test_a_composite_keeps_its_hole_and_its_island(tmp_path):
    outer, hole, island = ([[a, a], [b, a], [b, b], [a, b]] for a, b in ((0, 20), (4, 16), (8, 12)))
    save_image(tmp_path / "a.png", painted(nuclei()))
    composite([island, outer, hole]).tofile(tmp_path / "a.roi")
    polygons = read_imagej(tmp_path / "a.roi").features[0].polygons
    assert sorted(len(polygon) for polygon in polygons) == [1, 2]
    assert (list_qupath(tmp_path)[0].load().instance_map > 0).sum() == 400 - 144 + 16


def test_curves_in_a_composite_are_refused_by_name(tmp_path):
    made = composite([SQUARE])
    made.multi_coordinates[3] = 2
    made.tofile(tmp_path / "a.roi")
    with pytest.raises(OSError, match=r"a\.roi: not a file of ImageJ ROIs"):
        read_imagej(tmp_path / "a.roi")


def test_without_roifile_a_check_names_the_way_out(monkeypatch, tmp_path, capsys):
    from cfsam_hf.commands.terminal import main

    save_image(tmp_path / "a.png", painted(nuclei()))
    roi().tofile(tmp_path / "a.roi")
    monkeypatch.setitem(sys.modules, "roifile", None)
    assert main(["data", "check", "qupath", str(tmp_path)]) == 1
    assert "pip install 'cfsam_hf[imagej]'" in "".join(capsys.readouterr())


def test_what_macos_adds_to_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/a.ROI", roi().tobytes())
        archive.writestr("__MACOSX/set/._a.ROI", b"\0\5\x16\7")
    assert len(read_imagej(tmp_path / "a.zip").features) == 1


def test_an_archive_of_something_else(tmp_path):
    """A ZIP beside an image is not always a set of ROIs; GeoJSON in it is read."""
    save_image(tmp_path / "a.png", painted(nuclei()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(OSError, match=r"a\.zip: the archive holds no \.roi file"):
        list_qupath(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.geojson", json.dumps({"type": "Polygon", "coordinates": [SQUARE]}))
    with pytest.raises(ValueError, match=r"a\.zip: a geometry, not a feature"):
        list_qupath(tmp_path)
