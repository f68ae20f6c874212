"""Why: TIFF is many formats: the right page must go to a decoder that reads it correctly, or the error says why."""

import itertools
import logging

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from cfsam_hf.model.pictures import TooManyPixelsError, read_rgb
from cfsam_hf.model.tiff import turn_upright

from ..picture_cases import DEEP, DEEP_GREY, GREY, PICTURE, orientation, with_tag

DTYPES = {"8": PICTURE, "16": DEEP, "float": (PICTURE / 255).astype(np.float32), "double": PICTURE / 255}
LAYOUTS = {
    "plain": {},
    "tiles": {"tile": (32, 48)},
    "deflate": {"compression": "zlib"},
    "strips": {"rowsperstrip": 7},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
}


@pytest.mark.parametrize(("depth", "layout"), list(itertools.product(DTYPES, LAYOUTS)))
def test_every_depth_in_every_layout(depth, layout, tmp_path):
    pixels, path = DTYPES[depth], tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", **LAYOUTS[layout])
    np.testing.assert_array_equal(read_rgb(path), PICTURE)
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **LAYOUTS[layout])
    np.testing.assert_array_equal(read_rgb(path), PICTURE)
    tifffile.imwrite(path, planes[0], photometric="minisblack", **LAYOUTS[layout])
    np.testing.assert_array_equal(read_rgb(path)[:, :, 0], GREY)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("pixels", [PICTURE, GREY, DEEP_GREY], ids=["colour", "grey", "16-bit grey"])
def test_compressions_that_pillow_reads(compression, pixels, tmp_path):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[:, :, -1], PICTURE[:, :, 0 if pixels.ndim == 2 else 2])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_deep_lzw(kind, channels, tmp_path):
    rgba = np.dstack([PICTURE, np.full_like(GREY, 255)])[:, :, :channels]
    deep = rgba.astype(np.uint16) * 257 if kind is np.uint16 else (rgba / 255).astype(kind)
    backwards = deep[:, :, [0] if channels == 1 else [2, 1, 0, 3][:channels]]
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 10]
    cv2.imwrite(str(tmp_path / "a.tif"), backwards, [int(option) for option in options])
    expected = np.repeat(rgba, 3, axis=2) if channels == 1 else rgba[:, :, :3]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), expected)


def test_damaged_lzw_is_an_error(tmp_path):
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 65536, (64, 80, 3), dtype=np.uint16)
    cv2.imwrite(str(path), noise, [int(cv2.IMWRITE_TIFF_COMPRESSION), 5])
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + length // 2 : offset + length // 2 + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"a\.tif"):
        read_rgb(path)


@pytest.mark.parametrize("compression", ["jpeg2000", "aperio_jp2000_rgb", "webp", "jpegxl", "lerc", "png", "zstd"])
def test_compressions_of_slides(compression, tmp_path):
    args = {"lossless": True} if compression == "webp" else None
    tifffile.imwrite(
        tmp_path / "a.tif", PICTURE, photometric="rgb", tile=(64, 64), compression=compression, compressionargs=args
    )
    difference = np.abs(read_rgb(tmp_path / "a.tif").astype(int) - PICTURE)
    assert difference.max() <= 2


def test_colours_of_aperio_jpeg_2000_in_ycbcr(tmp_path):
    ycbcr = np.asarray(PIL.Image.fromarray(PICTURE).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", ycbcr, photometric="rgb", tile=(64, 64), compression="jpeg2000")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(33003)
    assert np.abs(read_rgb(tmp_path / "a.tif").astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize("pixels", [PICTURE, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("code", [34661, 34676, 34713])
def test_compressions_that_are_not_read_are_named(pixels, code, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(code)
    with pytest.raises(OSError, match=r"a\.tif.* compression .* is not read here; save it uncompressed or as Deflate"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("value", range(1, 9))
def test_turned_pages_of_every_depth(value, tmp_path):
    exif = orientation(value)
    PIL.Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / "a.png")))
    tag = {"extratags": [(274, 3, 1, value, True)]}
    for pixels in DTYPES.values():
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **tag)
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), expected)
    np.testing.assert_array_equal(turn_upright(PICTURE, value), expected)
    np.testing.assert_array_equal(turn_upright(PICTURE, 0), PICTURE)  # no value of the tag


@pytest.mark.parametrize(
    ("pixels", "white"), [(GREY, 255), (DEEP_GREY, 65535), (GREY.astype(np.uint32) * 16843009, 2**32 - 1)]
)
def test_grey_with_white_as_0(pixels, white, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (white - pixels).astype(pixels.dtype), photometric="miniswhite")
    if white == 2**32 - 1:
        with pytest.raises(ValueError, match=r"0\.\.255"):
            read_rgb(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[:, :, 0], GREY)


def test_premultiplied_alpha_is_undone_before_white_is_put_behind(tmp_path):
    alpha = np.linspace(0, 65535, 80).round().astype(np.uint16)[None].repeat(64, axis=0)
    multiplied = (DEEP * (alpha[..., None] / 65535)).round().astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"]
    )
    share = alpha[..., None] / 65535
    expected = PICTURE * share + 255 * (1 - share)
    assert np.abs(read_rgb(tmp_path / "a.tif") - expected).max() < 2


def test_deep_grey_with_alpha(tmp_path):
    pixels = np.dstack([DEEP_GREY, np.full_like(DEEP_GREY, 65535)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[:, :, 1], GREY)


STACK = np.stack([PICTURE, 255 - PICTURE, PICTURE // 2])


def test_each_page_is_the_one_asked_for(tmp_path):
    for index, pixels in enumerate(STACK, start=1):
        for name, stack in (("8", STACK), ("16", STACK.astype(np.uint16) * 257)):
            tifffile.imwrite(tmp_path / f"{name}.tif", stack, photometric="rgb")
            np.testing.assert_array_equal(read_rgb(tmp_path / f"{name}.tif", page=index), pixels)
    deep = [(page.astype(np.uint16) * 257)[:, :, ::-1] for page in STACK]
    cv2.imwritemulti(str(tmp_path / "lzw.tif"), deep, [int(cv2.IMWRITE_TIFF_COMPRESSION), 5])
    np.testing.assert_array_equal(read_rgb(tmp_path / "lzw.tif", page=3), STACK[2])
    with pytest.raises(OSError, match=r"no page=4: it has 3 pages, counted from 1"):
        read_rgb(tmp_path / "8.tif", page=4)
    with pytest.raises(OSError, match="no page=0"):
        read_rgb(tmp_path / "8.tif", page=0)


def test_frames_of_animations(tmp_path):
    first, *others = (PIL.Image.fromarray(page) for page in STACK)
    for suffix, options in (("png", {}), ("webp", {"lossless": True})):
        path = tmp_path / f"a.{suffix}"
        first.save(path, save_all=True, append_images=others, **options)
        np.testing.assert_array_equal(read_rgb(path, page=2), STACK[1])
        with pytest.raises(OSError, match="3 pictures of up to 80x64 px"):
            read_rgb(path)
    PIL.Image.fromarray(PICTURE).save(tmp_path / "one.png")
    with pytest.raises(OSError, match="no page=2: it has 1 page, "):
        read_rgb(tmp_path / "one.png", page=2)


def write_pages(path, *pages, flags=None):
    with tifffile.TiffWriter(path) as writer:
        for index, pixels in enumerate(pages):
            writer.write(pixels, photometric="rgb", metadata=None, subfiletype=flags[index] if flags else 0)


def test_copies_and_pictures_are_told_apart(tmp_path):
    half, third = PICTURE[::2, ::2], PICTURE[::3, ::3]
    for pages, flags in (
        ((PICTURE, half, third), (0, 1, 1)),
        ((PICTURE, half, third), None),  # a pyramid that does not say so
        ((half, PICTURE), (1, 0)),  # the thumbnail first
        ((PICTURE, 255 - PICTURE), (0, 1)),
        ((PICTURE, PICTURE[:20, :20]), (0, 9)),  # a slide's label
    ):
        write_pages(tmp_path / "a.tif", *pages, flags=flags)
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), PICTURE)
    for pages in ((PICTURE, PICTURE), (PICTURE, PICTURE[:20, :20]), (PICTURE, PICTURE[:, :79])):
        write_pages(tmp_path / "a.tif", *pages)
        with pytest.raises(OSError, match="2 pictures"):
            read_rgb(tmp_path / "a.tif")


def test_the_room_of_huge_tiles_counts(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, photometric="rgb", tile=(512, 512), compression="zlib")
    with pytest.raises(TooManyPixelsError, match="262144 pixels"):
        read_rgb(tmp_path / "a.tif", max_pixels=100_000)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif", max_pixels=262_144), PICTURE)


def test_nothing_is_logged_or_warned_about_broken_files(tmp_path, caplog, recwarn):
    for name, content in (
        ("no pages", b"II*\0\xff\xff\0\0"),
        ("nothing", b"II*\0"),
        ("a loop", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"),
    ):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(content)
        with caplog.at_level(logging.DEBUG, "tifffile"), pytest.raises(OSError, match=f"{name}.tif"):
            read_rgb(path)
    with_tag(tmp_path / "a.tif", "BitsPerSample", 0)
    with pytest.raises((OSError, ValueError), match=r"a\.tif"):
        read_rgb(tmp_path / "a.tif")
    assert caplog.records == []
    assert [str(warning.message) for warning in recwarn] == []
