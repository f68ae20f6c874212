"""Why: the same slide in any format must give the same pixels at any pixel size, and a damaged one a sentence."""

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.model.pictures import read_rgb
from cfsam_hf.model.pixel_size import PixelSize
from cfsam_hf.slides import demo_slide, describe_slide, format_slide, open_slide, openslide_slide, resampling
from cfsam_hf.slides.overview import read_overview
from cfsam_hf.slides.slide import Level, Slide

from ..painted_model import paint

PIXELS = cv2.GaussianBlur(paint(500, 620, count=60, seed=1)[0], (0, 0), 1.5)
HALF, QUARTER = (cv2.resize(PIXELS, (620 // k, 500 // k), interpolation=cv2.INTER_AREA) for k in (2, 4))
TILED = {"photometric": "rgb", "tile": (128, 128)}
CENTIMETRES = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
APERIO = "Aperio Image Library v12.0\r\n620x500 (128x128) RAW|AppMag = 40|MPP = 0.25"


def pages(path, **options) -> None:
    """Levels in pages of their own, and a label."""
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as writer:
        for number, pixels in enumerate((PIXELS, HALF, QUARTER)):
            writer.write(
                pixels,
                subfiletype=min(number, 1),
                metadata=None,
                **TILED,
                **options,
                **(CENTIMETRES if not number else {}),
            )
        writer.write(PIXELS[:40, :50], photometric="rgb", metadata=None, description="label 50x40")


def ome(path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(PIXELS, subifds=2, metadata=metadata, **TILED)
        for pixels in (HALF, QUARTER):
            writer.write(pixels, subfiletype=1, **TILED)


def aperio(path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(PIXELS, description=APERIO, metadata=None, **TILED)
        writer.write(QUARTER[:, :100], description="Aperio Image Library v12.0\r\n", photometric="rgb", metadata=None)
        for pixels in (HALF, QUARTER):
            writer.write(pixels, description="Aperio Image Library v12.0\r\n620x500 -> ", metadata=None, **TILED)


def png(path) -> None:
    PIL.Image.fromarray(PIXELS).save(path, "PNG", dpi=(101_600, 101_600))


CONTAINERS = {
    "aperio": (aperio, "aperio", 3),
    "pages": (pages, "generic-tiff", 3),
    "pages, deflate": (lambda path: pages(path, compression="zlib", predictor=True), "generic-tiff", 3),
    "pages, BigTIFF": (lambda path: pages(path, bigtiff=True), "generic-tiff", 3),
    "pages, JPEG 2000": (lambda path: pages(path, compression="jpeg2000"), "generic-tiff", 3),
    "OME-TIFF": (ome, "ome-tiff", 3),
    "picture": (png, "picture", 1),
}


@pytest.fixture(params=CONTAINERS)
def container(request, tmp_path):
    write, vendor, levels = CONTAINERS[request.param]
    path = tmp_path / "a.bin"  # the ending says nothing
    write(path)
    return path, vendor, levels


def test_every_container_gives_the_same_slide(container):
    path, vendor, levels = container
    with open_slide(path) as slide:
        assert slide.vendor == vendor
        assert slide.size == (620, 500)
        assert [round(level.downsample) for level in slide.levels] == [1, 2, 4][:levels]
        assert slide.pixel_size.mpp == pytest.approx(0.25)
        np.testing.assert_array_equal(slide.read_region(100, 50, 200, 300), PIXELS[50:350, 100:300])
        half = slide.read_region(0, 0, 310, 250, mpp=0.5)
        assert np.abs(half.astype(int) - HALF).max() <= 1
        assert (
            np.abs(slide.read_region(0, 0, 103, 83, mpp=1.5).astype(int).mean((0, 1)) - PIXELS.mean((0, 1))).max() < 3
        )


def test_beyond_the_slide_all_is_white(container):
    with open_slide(container[0]) as slide:
        corner = slide.read_region(-10, -20, 40, 40)
        np.testing.assert_array_equal(corner[20:, 10:], PIXELS[:20, :30])
        assert (corner[:20] == 255).all()
        assert (corner[:, :10] == 255).all()
        assert (slide.read_region(600, 480, 50, 50)[20:] == 255).all()
        assert (slide.read_region(5000, 0, 9, 7, mpp=1.0) == 255).all()


def odd_aperio(path) -> None:
    """Levels whose sides are not whole fractions of level 0's, read by OpenSlide."""
    options = {"metadata": None, **TILED}
    with tifffile.TiffWriter(path) as writer:
        writer.write(PIXELS[:499, :619], description=APERIO.replace("620x500", "619x499"), **options)
        for pixels in (HALF[:249, :309], QUARTER[:124, :154]):
            writer.write(pixels, description="Aperio Image Library v12.0\r\n619x499 -> ", **options)


@pytest.mark.parametrize("write", [ome, odd_aperio, png])
@pytest.mark.parametrize(
    "steps", [(0.4, 0.4), (0.8, 0.8), (1, 1), (1.2, 1.2), (2, 2), (2.2, 2.3), (3.08, 3.1), (5.2, 5)]
)
def test_overlapping_regions_have_the_same_pixels(write, steps, tmp_path, monkeypatch):
    # Regions of several blocks, and cells of OpenSlide's levels.
    monkeypatch.setattr(resampling, "BLOCK", 32)
    monkeypatch.setattr(openslide_slide, "STRIP_ROWS", 48)
    write(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        width, height = (int(side / step) + 20 for side, step in zip((620, 500), steps, strict=True))

        def read(x, y, across, down):
            return slide.read_scaled(x * steps[0], y * steps[1], across, down, steps)

        whole = read(-10, -9, width, height)
        assert 0 < (whole == 255).all(-1).mean() < 0.6
        for x, y, across, down in ((7, 0, width - 7, height), (0, 11, width // 3, height - 11), (83, 87, 50, 30)):
            np.testing.assert_array_equal(read(x - 10, y - 9, across, down), whole[y : y + down, x : x + across])


class CountingSlide(Slide):
    """A white slide that counts what is read of it."""

    def __init__(self, *levels: Level):
        super().__init__("counting", "none", list(levels), PixelSize(0.25, 0.25, "made"))
        self.reads: list[int] = []

    def read_level(self, level, x, y, width, height):
        self.reads.append(width * height)
        return np.broadcast_to(np.uint8(255), (height, width, 3))

    def _read_inside(self, *arguments):
        raise NotImplementedError

    def read_associated(self, name):
        raise KeyError(name)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("mpp", [8.0, 8.01, 14.7])
@pytest.mark.parametrize("downsamples", [(1,), (1, 4)])
def test_an_overview_reads_a_large_slide_once_and_in_parts(mpp, downsamples):
    slide = CountingSlide(*(Level(20_064 // by, 20_064 // by, by) for by in downsamples))
    read_overview(slide, mpp)
    assert max(slide.reads) < 4600**2
    assert sum(slide.reads) < 1.3 * slide.levels[-1].width ** 2


def test_a_coarse_region_of_a_fine_level_reads_little_around_it():
    slide = CountingSlide(Level(60_000, 60_000, 1))
    slide.read_region(10_000, 10_000, 64, 64, mpp=8.0)
    assert sum(slide.reads) < (2048 + 2 * 1024 + 8) ** 2


@pytest.mark.parametrize("mpp", [0.2, 0.77])
def test_regions_between_the_pixels_of_the_grid_fit_together(mpp, tmp_path):
    ome(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        step = mpp / 0.25
        whole = slide.read_region(20, 30, 128, 64, mpp)
        parts = [slide.read_region(20 + index * 32 * step, 30, 32, 64, mpp) for index in range(4)]
    assert np.abs(np.concatenate(parts, axis=1).astype(int) - whole).max() <= 1


def test_pixels_that_are_not_square_become_square(tmp_path):
    wide = cv2.resize(PIXELS, (310, 500), interpolation=cv2.INTER_AREA)
    options = {"resolution": (20000, 40000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", wide, **TILED, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.pixel_size.x, slide.pixel_size.y) == (0.5, 0.25)
        region = slide.read_region(0, 0, 155, 125, mpp=1.0)
    assert np.abs(region.astype(int) - QUARTER).max() <= 2


def test_a_given_pixel_size_wins_and_none_is_an_error(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, metadata=None, **TILED)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.pixel_size is None
        with pytest.raises(ValueError, match=r"a\.tif.*states no pixel size; pass mpp="):
            slide.read_region(0, 0, 10, 10, mpp=0.5)
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.read_region(0, 0, 155, 125, mpp=2.0).shape == (125, 155, 3)
        with pytest.raises(ValueError, match="at least one pixel, got 0x5"):
            slide.read_region(0, 0, 0, 5)
    with pytest.raises(ValueError, match="mpp must be"):
        open_slide(tmp_path / "a.tif", mpp=250)


def test_associated_images_and_the_description(tmp_path):
    pages(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read_associated("label"), PIXELS[:40, :50])
        with pytest.raises(KeyError):
            slide.read_associated("macro")
    record = describe_slide(tmp_path / "a.tif")
    assert record["associated_images"] == {"label": [50, 40]}
    assert record["pixel_size"] == {"x": 0.25, "y": 0.25, "source": "TIFF resolution"}
    text = format_slide(record)
    for part in ("620 x 500 px, 0.155 x 0.125 mm", "0.25 x 0.25 micrometres (TIFF resolution)", "level 2", "label"):
        assert part in text
    aperio(tmp_path / "b.svs")
    assert describe_slide(tmp_path / "b.svs")["objective_power"] == 40
    png(tmp_path / "c.png")
    assert "not stated" in format_slide({**describe_slide(tmp_path / "c.png"), "pixel_size": None})


def cut(path) -> None:
    aperio(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def cut_ome(path) -> None:
    ome(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def channels(path) -> None:
    tifffile.imwrite(path, np.stack([PIXELS[..., 0]] * 4), photometric="minisblack", tile=(128, 128), ome=True)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (cut, "cannot read"),
        (cut_ome, "cannot read|cut short"),
        (channels, "4 pictures"),
        (lambda path: path.mkdir(), "is a folder without DICOM files"),
        (lambda path: path.write_text("no slide"), "not an image"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: None, "No such file"),
    ],
)
def test_bad_slides_are_named(write, words, tmp_path):
    path = tmp_path / "a.svs"
    write(path)
    with pytest.raises(OSError, match=words) as caught:
        open_slide(path)
    assert "a.svs" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_tile_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "a.tif"
    pages(path, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(OSError, match=r"a\.tif.*tile 0 is damaged"):
            slide.read_region(0, 0, 50, 50)
        np.testing.assert_array_equal(slide.read_region(300, 200, 50, 50), PIXELS[200:250, 300:350])


def test_a_real_slide():
    path = demo_slide()
    with open_slide(path) as slide:
        assert (slide.vendor, slide.size, slide.objective_power) == ("aperio", (2220, 2967), 20)
        assert slide.pixel_size.mpp == pytest.approx(0.499)
        assert set(slide.associated) == {"label", "macro", "thumbnail"}
        region = slide.read_region(500, 600, 300, 200)
        assert np.abs(region.astype(int) - read_rgb(path)[600:800, 500:800]).max() <= 2
        assert slide.read_region(0, 0, 554, 741, mpp=2.0).shape == (741, 554, 3)
