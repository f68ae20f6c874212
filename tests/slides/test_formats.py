"""Why: a slide taken for an image is read as a whole, and parts of a slide must not be segmented on their own."""

import os
import shutil
from pathlib import PurePath

import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.slides import demo_slide, formats
from cfsam_hf.slides.formats import is_slide, parts_of_slides

from .slide_files import TILED, WRITERS, dicom, picture_levels, write_slide

LEVELS = picture_levels(width=384, height=256)


def names(folder):
    return [PurePath(path.name) for path in folder.iterdir()]


@pytest.mark.parametrize("kind", WRITERS)
def test_files_of_scanners_are_slides_whatever_they_are_called(kind, tmp_path):
    path = write_slide(kind, tmp_path / "a.tif", LEVELS)
    # DICOM finds the other files of a slide by their place and not by their names.
    assert is_slide(path.rename(path.with_name("renamed")))


def test_a_slide_of_one_level_is_one_by_its_vendor():
    assert is_slide(demo_slide())


def test_pictures_are_slides_only_if_they_are_large(tmp_path, monkeypatch):
    picture = LEVELS[0]
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "strips.tif", picture, photometric="rgb")
    tifffile.imwrite(tmp_path / "tiles.tif", picture, **TILED)
    files = [tmp_path / name for name in ("a.png", "strips.tif", "tiles.tif")]
    assert [is_slide(path) for path in files] == [False] * 3
    for limit, expected in (
        (picture.shape[0] * picture.shape[1], False),
        (picture.shape[0] * picture.shape[1] - 1, True),
    ):
        monkeypatch.setattr(formats, "SLIDE_PIXELS", limit)
        assert [is_slide(path) for path in files] == [expected] * 3


def test_what_cannot_be_read_is_a_slide_only_by_its_ending(tmp_path):
    for name in ("a.mrxs", "a.DCM", "a.czi", "a.tif", "a.svs"):
        (tmp_path / name).write_bytes(b"II*\0 nothing")
    assert [is_slide(tmp_path / name) for name in ("a.mrxs", "a.DCM", "a.czi")] == [True] * 3
    assert [is_slide(tmp_path / name) for name in ("a.tif", "a.svs", "none.mrxs")] == [False] * 3
    (tmp_path / "folder.mrxs").mkdir()
    assert not is_slide(tmp_path / "folder.mrxs")
    os.mkfifo(tmp_path / "pipe.svs")
    assert not is_slide(tmp_path / "pipe.svs")


def test_of_a_dicom_series_one_file_counts(tmp_path):
    for series in ("1.2.3.1", "1.2.3.2"):
        dicom(tmp_path, LEVELS, series)
    (tmp_path / "0.dcm").write_text("no DICOM")
    assert parts_of_slides(tmp_path, names(tmp_path)) == {f"1.2.3.{n}.{level}.dcm" for n in "12" for level in (1, 2)}


def test_parts_of_mirax_and_hamamatsu_slides(tmp_path):
    for name in ("a.mrxs", "b.vms", "b_map.jpg", "b(1,0).jpg", "photo.jpg", "b.opt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a").mkdir()
    (tmp_path / "b.vms").write_text(
        "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile(1,0)=b(1,0).jpg\r\nMapFile = b_map.jpg\r\n"
        "OptimisationFile=b.opt\r\nSelf=b.vms\r\n"
    )
    parts = parts_of_slides(tmp_path, names(tmp_path))
    assert parts & {"a", *map(str, names(tmp_path))} == {"a", "b_map.jpg", "b(1,0).jpg", "b.opt"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_hide_nothing(tmp_path):
    dicom(tmp_path, LEVELS[:1])
    shutil.copy(next(tmp_path.glob("*.dcm")), tmp_path / "closed.dcm")
    (tmp_path / "closed.dcm").chmod(0)
    assert parts_of_slides(tmp_path, names(tmp_path)) == set()


def test_pictures_of_a_folder_without_slides_are_no_parts(tmp_path):
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert parts_of_slides(tmp_path, [PurePath("a.png"), PurePath("missing.dcm")]) == set()
