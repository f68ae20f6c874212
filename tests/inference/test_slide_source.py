"""Why: a slide in several files is the same slide as long as these files are, whatever lies beside them."""

import os

from cfsam_hf.inference.slide_source import SlideSource, content_of

from ..slides.slide_files import dicom, picture_levels

LEVELS = picture_levels(width=256, height=256)


def test_a_dicom_slide_consists_of_the_files_of_its_series(tmp_path):
    source = SlideSource(dicom(tmp_path, LEVELS, "1.2.3.1"), "a.dcm")
    fingerprint = source.fingerprint()
    assert sorted(fingerprint["files"]) == [f"1.2.3.1.{level}.dcm" for level in range(3)]
    dicom(tmp_path, LEVELS[:2], "1.2.3.2")
    (tmp_path / "other.dcm").write_text("no DICOM")
    assert source.matches(fingerprint)
    assert source.fingerprint() == fingerprint
    (tmp_path / "1.2.3.1.2.dcm").unlink()
    assert not source.matches(fingerprint)
    assert content_of(source.fingerprint()) != content_of(fingerprint)


def test_a_file_that_is_no_dicom_stands_alone(tmp_path):
    dicom(tmp_path, LEVELS[:1])
    (tmp_path / "a.dcm").write_text("no DICOM")
    assert list(SlideSource(tmp_path / "a.dcm", "a.dcm").fingerprint()["files"]) == ["a.dcm"]


def test_folders_and_pictures_beside_an_index_belong_to_it(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b.vms", "b_map.jpg", "c.jpg"):
        (tmp_path / name).write_text(name)
    fingerprint = SlideSource(tmp_path / "a.mrxs", "a.mrxs").fingerprint()
    assert set(fingerprint["files"]) == {"a.mrxs", "Slidedat.ini", "Data0000.dat"}
    source = SlideSource(tmp_path / "b.vms", "b.vms")
    before = source.fingerprint()
    assert set(before["files"]) == {"b.vms", "b_map.jpg"}
    os.utime(tmp_path / "b_map.jpg", ns=(0, 0))
    assert source.matches(before)
    (tmp_path / "b_map.jpg").write_text("b_map.JPG")
    assert not source.matches(before)
