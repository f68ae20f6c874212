"""Why: every scanner's file must give the same slide, and messages about bad files must name them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cfsam_hf.slides import dicom_series, find_tissue, open_slide, whole_slide

from .slide_files import MPP, TILED, WRITERS, aperio, aperio_jpeg, big_tiff, dicom, picture_levels, write_slide

VENDORS = {
    "Aperio, JPEG": "aperio",
    "Aperio, JPEG 2000": "aperio",
    "OME-TIFF": "ome-tiff",
    "BigTIFF": "generic-tiff",
    "QPTIFF": "perkinelmer",
    "DICOM": "dicom",
}
OTHER_IMAGES = {
    "Aperio, JPEG": {"thumbnail", "label", "macro"},
    "Aperio, JPEG 2000": {"thumbnail", "label", "macro"},
    "QPTIFF": {"thumbnail", "label", "overview"},
}
LEVELS = picture_levels()


@pytest.mark.parametrize("kind", WRITERS)
def test_every_scanner_gives_the_same_slide(kind, tmp_path):
    path = write_slide(kind, tmp_path / "a.tif", LEVELS)
    with open_slide(path) as slide:
        assert slide.vendor == VENDORS[kind]
        assert slide.size == (512, 384)
        assert [(level.width, level.height) for level in slide.levels] == [(512, 384), (256, 192), (128, 96)]
        assert (slide.pixel_size.x, slide.pixel_size.y) == pytest.approx((MPP, MPP), rel=1e-4)
        assert slide.objective_power == (None if kind in ("OME-TIFF", "BigTIFF") else 20)
        assert set(slide.associated) == OTHER_IMAGES.get(kind, set())
        for name, (width, height) in slide.associated.items():
            assert slide.read_associated(name).shape == (height, width, 3)
        # JPEG of such fine colours errs by 3 on average; a swap of channels or a shift of a pixel by more than 15.
        for number, level in enumerate(LEVELS):
            pixels = slide.read_level(number, 3, 5, 100, 80).astype(int)
            assert np.abs(pixels - level[5:85, 3:103]).mean() < 5
        half = slide.read_region(0, 0, 256, 192, mpp=2 * MPP).astype(int)
        assert np.abs(half - LEVELS[1]).mean() < 5
        assert find_tissue(slide).mask.mean() > 0.9


@pytest.mark.parametrize("compression", ["jpeg2000", "zstd"])
def test_an_aperio_slide_compressed_anew_keeps_its_pixel_size(compression, tmp_path):
    # OpenSlide knows neither the JPEG 2000 of TIFF, which is not Aperio's, nor Zstandard.
    aperio(tmp_path / "a.svs", LEVELS, compression=compression)
    with open_slide(tmp_path / "a.svs") as slide:
        assert (slide.vendor, slide.size, len(slide.levels)) == ("aperio", (512, 384), 3)
        assert slide.pixel_size.mpp == pytest.approx(MPP)
        assert slide.objective_power == 20
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 384), LEVELS[0])


def test_a_dicom_folder_is_a_slide_unless_it_holds_two(tmp_path):
    folder = tmp_path / "case"
    first = dicom(folder, LEVELS, "1.2.3.1")
    (folder / "notes.txt").write_text("no DICOM")
    with open_slide(folder) as slide:
        assert (slide.vendor, slide.size, len(slide.levels)) == ("dicom", (512, 384), 3)
    assert dicom_series(folder) == {"1.2.3.1": first}
    second = dicom(folder, LEVELS[1:], "1.2.3.2")
    with pytest.raises(OSError, match=r"case' holds 2 DICOM slides; name a file of one of them \(1\.2\.3\.1"):
        open_slide(folder)
    with open_slide(second) as slide:
        assert slide.size == (256, 192)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="empty' is a folder without DICOM files; name the slide's file"):
        open_slide(tmp_path / "empty")


def test_a_dicom_slide_without_its_largest_level_keeps_its_scale(tmp_path):
    dicom(tmp_path / "a", LEVELS).unlink()
    with open_slide(tmp_path / "a") as slide:
        assert slide.size == (256, 192)
        assert slide.pixel_size.mpp == pytest.approx(2 * MPP)


def test_no_pixel_size(tmp_path):
    with open_slide(dicom(tmp_path / "a", LEVELS, mpp=None).parent) as slide:
        assert slide.pixel_size is None
        assert whole_slide(slide).area_um2 is None
        with pytest.raises(ValueError, match="states no pixel size; pass mpp="):
            slide.read_region(0, 0, 10, 10, mpp=1.0)


def read_all_levels(path: Path) -> None:
    with open_slide(path) as slide:
        for number, level in enumerate(slide.levels):
            slide.read_level(number, 0, 0, level.width, level.height)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated_files_are_named(kind, share, tmp_path):
    path = write_slide(kind, tmp_path / "a.tif", LEVELS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(OSError, match=path.name) as caught:
        read_all_levels(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_level_that_decodes_to_black_is_named(number, tmp_path):
    levels = [level if i != number else np.zeros_like(level) for i, level in enumerate(LEVELS)]
    big_tiff(tmp_path / "a.tif", levels)
    with open_slide(tmp_path / "a.tif") as slide:
        for find in (find_tissue, whole_slide):
            with pytest.raises(OSError, match=rf"level {number} of .*a\.tif' .* is black while others are not"):
                find(slide)


def test_a_slide_that_is_black_on_all_levels_has_no_tissue(tmp_path):
    big_tiff(tmp_path / "a.tif", [np.zeros_like(level) for level in LEVELS])
    with open_slide(tmp_path / "a.tif") as slide:
        assert not find_tissue(slide).mask.any()


def test_tiles_that_were_not_scanned_are_white(tmp_path):
    def tiles():
        for row in range(3):
            for column in range(4):
                left, top = column * 128, row * 128
                yield None if (row, column) == (1, 2) else LEVELS[0][top : top + 128, left : left + 128]

    tifffile.imwrite(tmp_path / "a.tif", tiles(), shape=LEVELS[0].shape, dtype=np.uint8, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = slide.read_region(0, 0, 512, 384)
    assert (pixels[128:256, 256:384] == 255).all()
    np.testing.assert_array_equal(pixels[:128], LEVELS[0][:128])


def test_label_and_macro_alone_are_no_slide(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.svs") as writer:
        for name, pixels in (("label 50x40", LEVELS[2][:40, :50]), ("macro 90x30", LEVELS[2][:30, :90])):
            text = f"Aperio Image Library v12.0.15\r\n{name}"
            writer.write(pixels, photometric="rgb", description=text, metadata=None)
    with pytest.raises(OSError, match=r"a\.svs' holds no tissue, only the label and macro of a slide"):
        open_slide(tmp_path / "a.svs")


def test_a_share_that_fails_while_it_is_read_is_named(tmp_path):
    def shorten(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 8)

    for write in (big_tiff, aperio_jpeg):
        path = tmp_path / f"{write.__name__}.tif"
        write(path, LEVELS)
        with open_slide(path) as slide:
            shorten(path)
            with pytest.raises(OSError, match=rf"{path.name}.*network share, check the connection and run again"):
                slide.read_region(0, 0, 512, 384)


def test_a_damaged_picture_beside_the_tissue_does_no_harm(tmp_path):
    path = tmp_path / "a.svs"
    aperio_jpeg(path, LEVELS)
    with tifffile.TiffFile(path) as tiff:
        macro = tiff.pages[-1]
        offset, width = macro.dataoffsets[0], macro.tags["ImageWidth"].valueoffset
    assert (offset, width) > (0, 0)
    copy = shutil.copy(path, tmp_path / "b.svs")
    data = bytearray(Path(copy).read_bytes())
    data[width : width + 2] = (60_000).to_bytes(2, "little")
    Path(copy).write_bytes(data)
    with open_slide(copy) as slide:
        assert slide.read_region(0, 0, 50, 50).shape == (50, 50, 3)
        with pytest.raises(OSError, match=r"cannot read the macro image of .*b\.svs"):
            slide.read_associated("macro")


def test_a_level_that_does_not_fit_the_largest_is_named(tmp_path):
    """Scaling by its stated size would read millions of pixels for a hundred."""
    path = tmp_path / "a.svs"
    aperio_jpeg(path, LEVELS)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[2].tags["ImageWidth"].valueoffset
    data = bytearray(path.read_bytes())
    data[place : place + 2] = (50_000).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"a\.svs' is damaged: its level 1 of 50000 x 192 px does not fit"):
        open_slide(path)
