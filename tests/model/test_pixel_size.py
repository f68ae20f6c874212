"""Why: the size of nuclei hangs on the pixel size that a file states; print resolutions must not be taken for one."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.model.pixel_size import MICROMETRES, PixelSize, describe, disagreement, read_pixel_size

from ..picture_cases import GREY, PICTURE, huge_png

APERIO = "Aperio Image Library v12.0.15\r\n80x64 (64x64) JPEG Q=70|AppMag = 40|MPP = {}|Left = 25.69"


def tiff(path: Path, **options) -> Path:
    tifffile.imwrite(path, PICTURE, photometric="rgb", **options)
    return path


def ome(path: Path, unit: str = "µm", x: float = 0.25, y: float | None = 0.25) -> Path:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit}
    if y is not None:
        sizes |= {"PhysicalSizeY": y, "PhysicalSizeYUnit": unit}
    return tiff(path, ome=True, metadata={"axes": "YXS", **sizes})


def resolution(path: Path, x: float, y: float | None = None, unit: str = "CENTIMETER") -> Path:
    return tiff(path, resolution=(x, x if y is None else y), resolutionunit=unit, metadata=None)


def imagej(path: Path, unit: str, per_unit: float) -> Path:
    tifffile.imwrite(path, GREY, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    return path


@pytest.mark.parametrize("text", ["0.2520", " .2520 ", "0.252"])
def test_aperio(text, tmp_path):
    path = tiff(tmp_path / "a.svs", description=APERIO.format(text), metadata=None)
    assert read_pixel_size(path) == PixelSize(0.252, 0.252, "Aperio MPP")


@pytest.mark.parametrize(
    ("unit", "value"),
    [("µm", 0.25), ("μm", 0.25), ("nm", 250), ("mm", 0.00025), ("cm", 2.5e-5), ("m", 2.5e-7), ("Å", 2500)],
)
def test_ome_in_every_unit(unit, value, tmp_path):
    found = read_pixel_size(ome(tmp_path / "a.ome.tif", unit, value, value))
    assert found.source == "OME PhysicalSizeX"
    assert (found.x, found.y) == (pytest.approx(0.25), pytest.approx(0.25))


def test_ome_without_a_height_or_with_several_images(tmp_path):
    assert read_pixel_size(ome(tmp_path / "a.tif", x=0.5, y=None)) == PixelSize(0.5, 0.5, "OME PhysicalSizeX")
    image = '<Image ID="Image:{}"><Pixels SizeX="{}" SizeY="{}" PhysicalSizeX="{}"/></Image>'
    text = "<OME>" + image.format(0, 20, 20, 8) + image.format(1, 80, 64, 0.5) + "</OME>"
    path = tiff(tmp_path / "b.tif", description=text, metadata=None)
    assert read_pixel_size(path) == PixelSize(0.5, 0.5, "OME PhysicalSizeX")


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [("um", 4), ("micron", 4), ("microns", 4), ("\\u00B5m", 4), ("nm", 0.004), ("mm", 4000), ("cm", 40000)],
)
def test_imagej_in_every_unit(unit, per_unit, tmp_path):
    found = read_pixel_size(imagej(tmp_path / "a.tif", unit, per_unit))
    assert found.source == "ImageJ"
    assert found.mpp == pytest.approx(0.25)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_resolution_tags_of_every_kind_of_tiff(byteorder, bigtiff, tmp_path):
    options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "metadata": None}
    path = tiff(tmp_path / "a.tif", byteorder=byteorder, bigtiff=bigtiff, **options)
    assert read_pixel_size(path) == PixelSize(0.25, 0.25, "TIFF resolution")
    assert read_pixel_size(resolution(path, 101_600, unit="INCH")).mpp == pytest.approx(0.25)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
def test_the_headers_of_other_formats(ending, tmp_path):
    density = 50_800  # a JPEG holds at most 65,535
    PIL.Image.fromarray(PICTURE).save(tmp_path / f"a.{ending}", dpi=(density, density))
    assert read_pixel_size(tmp_path / f"a.{ending}").mpp == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("dpi", [1, 72, 96, 150, 300, 600, 2400, 4800])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp"])
def test_print_resolutions_are_no_pixel_sizes(dpi, ending, tmp_path):
    PIL.Image.fromarray(PICTURE).save(tmp_path / f"a.{ending}", dpi=(dpi, dpi))
    assert read_pixel_size(tmp_path / f"a.{ending}") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda path: tiff(path, metadata=None),
        lambda path: resolution(path, 40000, unit="NONE"),
        lambda path: tiff(path, description=APERIO.format("0"), metadata=None),
        lambda path: tiff(path, description=APERIO.format("250"), metadata=None),
        lambda path: tiff(path, description="MPP = 0.25, says somebody else", metadata=None),
        lambda path: ome(path, unit="pixel", x=0.25),
        lambda path: ome(path, unit="mm", x=0.25),
        lambda path: ome(path, x=0),
        lambda path: imagej(path, "inch", 72),
        lambda path: imagej(path, "pixel", 4),
        lambda path: tiff(path, description="<OME><Pixels PhysicalSizeX='broken", metadata=None),
        lambda path: tiff(path, description='<OME><Pixels PhysicalSizeX="big"/></OME>', metadata=None),
        lambda path: path.write_bytes(b"II*\0 and nothing more"),
        lambda path: path.write_text("no picture"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_files_that_state_none(write, tmp_path):
    write(tmp_path / "a.tif")
    assert read_pixel_size(tmp_path / "a.tif") is None


def test_a_huge_header_costs_nothing_and_a_missing_file_is_an_error(tmp_path):
    huge_png(tmp_path / "a.png")
    assert read_pixel_size(tmp_path / "a.png") is None
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        read_pixel_size(tmp_path / "b.png")


def test_smaller_copies_have_larger_pixels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        options = {"photometric": "rgb", "metadata": None}
        writer.write(PICTURE, description=APERIO.format(0.25), **options)
        writer.write(PICTURE[::2, ::2], description="Aperio Image Library\r\n80x64 -> 40x32", subfiletype=1, **options)
    assert read_pixel_size(tmp_path / "a.tif").x == 0.25
    assert read_pixel_size(tmp_path / "a.tif", page=2).x == 0.5


def test_an_open_file_is_left_at_its_beginning(tmp_path):
    path = resolution(tmp_path / "a.tif", 40000)
    file = io.BytesIO(path.read_bytes())
    file.seek(7)
    assert read_pixel_size(file).mpp == 0.25
    assert file.tell() == 0
    assert not file.closed


def test_square_pixels_and_others(tmp_path):
    nearly = read_pixel_size(resolution(tmp_path / "a.tif", 40000, 40200))
    assert nearly.is_square
    assert nearly.mpp**2 == pytest.approx(nearly.x * nearly.y)
    oblong = read_pixel_size(resolution(tmp_path / "b.tif", 40000, 20000))
    assert not oblong.is_square
    assert describe(oblong) == "0.25 x 0.5 micrometres per pixel (TIFF resolution)"
    with pytest.raises(ValueError, match=r"0\.25 x 0\.5 micrometres \(TIFF resolution\) are not square; resample"):
        oblong.mpp  # noqa: B018


@pytest.mark.parametrize(("mpp", "warns"), [(0.25, False), (0.26, False), (0.49, False), (0.5, True), (0.125, True)])
def test_a_factor_of_two_is_suspicious(mpp, warns):
    sentence = disagreement(mpp, PixelSize(0.25, 0.25, "Aperio MPP"))
    assert (sentence is not None) == warns
    if warns:
        assert "0.25 micrometres per pixel (Aperio MPP)" in sentence
        assert f"mpp={mpp:g}" in sentence
    assert disagreement(mpp, None) is None


def test_every_unit_is_found_by_its_lower_case_name():
    assert all(unit == unit.lower() and np.isfinite(size) for unit, size in MICROMETRES.items())
