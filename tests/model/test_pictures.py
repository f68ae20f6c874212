"""Why: any picture must become uint8 RGB by a documented rule, and anything else give one clear error."""

import os
import struct

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from cfsam_hf.model.pictures import image_name, read_rgb

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
GREY_AS_RGB = np.repeat(GREY[:, :, None], 3, axis=2)
RGBA = np.dstack([RGB, np.arange(35, dtype=np.uint8).reshape(5, 7) * 7])
RGBA_ON_WHITE = np.rint(RGB * (RGBA[:, :, 3:] / 255.0) + 255 * (1 - RGBA[:, :, 3:] / 255.0)).astype(np.uint8)

ARRAYS = {
    "rgb": (RGB, RGB),
    "rgb, channel first": (RGB.transpose(2, 0, 1), RGB),
    "grey": (GREY, GREY_AS_RGB),
    "grey, one channel last": (GREY[:, :, None], GREY_AS_RGB),
    "grey, one channel first": (GREY[None], GREY_AS_RGB),
    "rgba": (RGBA, RGBA_ON_WHITE),
    "rgba, channel first": (RGBA.transpose(2, 0, 1), RGBA_ON_WHITE),
    "bool": (GREY > 99, (GREY_AS_RGB > 99) * np.uint8(255)),
    "uint16": (RGB.astype(np.uint16) * 257, RGB),
    "int64": (RGB.astype(np.int64), RGB),
    "int16": (RGB.astype(np.int16), RGB),
    "float in 0..1": ((RGB / 255).astype(np.float32), RGB),
    "double in 0..1, overshooting": (np.clip(RGB / 254.9, -1e-4, 2), RGB),
    "half in 0..1": ((RGB / 255).astype(np.float16), RGB),
    "float in 0..255": (RGB.astype(np.float32), RGB),
    "not contiguous": (np.ascontiguousarray(RGB[::-1])[::-1], RGB),
    "tensor, channel first": (torch.from_numpy(RGB.transpose(2, 0, 1).copy()), RGB),
    "tensor, channel last": (torch.from_numpy(RGB), RGB),
    "bfloat16 tensor with gradient": (torch.from_numpy(RGB / 255).bfloat16().requires_grad_(), None),
    "3 x 5000": (np.repeat(RGB[:3, :1], 5000, axis=1), np.repeat(RGB[:3, :1], 5000, axis=1)),
    "1 x 1": (RGB[:1, :1], RGB[:1, :1]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name):
    array, expected = ARRAYS[name]
    image = read_rgb(array)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    if expected is None:
        assert np.abs(image.astype(int) - RGB).max() <= 1
    else:
        assert np.array_equal(image, expected)


def test_shapes_that_could_be_both_follow_the_convention_or_the_option():
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(read_rgb(cube), cube)
    assert np.array_equal(read_rgb(torch.from_numpy(cube)), cube.transpose(1, 2, 0))
    assert np.array_equal(read_rgb(cube, input_data_format="channels_first"), cube.transpose(1, 2, 0))
    with pytest.raises(ValueError, match="channels_first"):
        read_rgb(cube, input_data_format="channel_first")


def test_16_bits_round_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(read_rgb(values)[:, :, 0], np.rint(values / 257))


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), ValueError, "height 0, width 5"),
        (np.zeros((7, 5, 2), np.uint8), ValueError, r"\(7, 5, 2\)"),
        (np.zeros((7, 5, 6), np.uint8), ValueError, r"\(7, 5, 6\)"),
        (np.zeros(9, np.uint8), ValueError, r"\(9,\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "as a list"),
        (np.full((4, 5), np.nan, np.float32), ValueError, "20 NaN"),
        (np.full((4, 5), np.inf), ValueError, "infinite"),
        (np.full((4, 5), 300.0), ValueError, "300"),
        (np.full((4, 5), -1.0), ValueError, "-1"),
        (np.full((4, 5), -1, np.int16), ValueError, "-1"),
        (np.full((4, 5), 4000, np.int32), ValueError, "4000"),
        (np.zeros((4, 5), np.complex64), TypeError, "complex64"),
        (np.array([["a"]]), TypeError, "U1"),
        (None, TypeError, "NoneType"),
        (7, TypeError, "int"),
    ],
)
def test_impossible_arrays_are_refused_by_name(array, error, message):
    with pytest.raises(error, match=message):
        read_rgb(array)


def test_fewer_bits_in_a_16_bit_image_are_warned_about():
    with pytest.warns(UserWarning, match="pass 8-bit values as uint8"):
        assert read_rgb(RGB.astype(np.uint16)).max() <= 1
    with pytest.warns(UserWarning, match="scale others up to 65535"):
        assert read_rgb(RGB.astype(np.uint16) * 16).max() <= 16
    assert read_rgb(np.zeros((4, 4), np.uint16)).max() == 0


PICTURES = {
    "RGB": (PIL.Image.fromarray(RGB), RGB),
    "L": (PIL.Image.fromarray(GREY), GREY_AS_RGB),
    "RGBA": (PIL.Image.fromarray(RGBA), RGBA_ON_WHITE),
    "empty alpha": (PIL.Image.fromarray(RGBA * np.uint8([1, 1, 1, 0])), np.full_like(RGB, 255)),
    "1": (PIL.Image.fromarray(GREY > 99), (GREY_AS_RGB > 99) * np.uint8(255)),
    "I;16": (PIL.Image.fromarray(GREY.astype(np.uint16) * 257), GREY_AS_RGB),
    "F": (PIL.Image.fromarray((GREY / 255).astype(np.float32)), GREY_AS_RGB),
    "I": (PIL.Image.fromarray(GREY.astype(np.int32)), GREY_AS_RGB),
    "LA": (PIL.Image.merge("LA", [PIL.Image.fromarray(GREY), PIL.Image.fromarray(RGBA[:, :, 3])]), None),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_pil_images(mode):
    picture, expected = PICTURES[mode]
    image = read_rgb(picture)
    assert image.shape == (5, 7, 3)
    if expected is not None:
        assert np.abs(image.astype(int) - expected).max() <= 1  # Pillow rounds "on white" its own way


def test_palette_with_and_without_transparency(tmp_path):
    palette = PIL.Image.fromarray(RGB).quantize(8)
    assert np.array_equal(read_rgb(palette), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "p.png", transparency=3)
    transparent = np.asarray(palette) == 3
    image = read_rgb(tmp_path / "p.png")
    assert (image[transparent] == 255).all()
    assert np.array_equal(image[~transparent], np.asarray(palette.convert("RGB"))[~transparent])


def test_cmyk_and_other_colour_spaces():
    for mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        white = PIL.Image.new("RGB", (7, 5), "white").convert(mode) if mode != "LAB" else PIL.Image.new("LAB", (7, 5))
        if mode != "LAB":
            assert np.abs(read_rgb(white).astype(int) - 255).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_turns_the_image_upright(tmp_path, suffix):
    picture = PIL.Image.fromarray(cv2.resize(RGB, (70, 50), interpolation=cv2.INTER_NEAREST))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / f"turned.{suffix}", exif=exif)
    image = read_rgb(tmp_path / f"turned.{suffix}")
    assert image.shape == (70, 50, 3)
    if suffix != "jpg":
        assert np.array_equal(image, np.rot90(np.asarray(picture), -1))


TIFFS = {
    "8-bit": (RGB, {}, RGB),
    "16-bit colour": (RGB.astype(np.uint16) * 257, {}, RGB),
    "16-bit planes": (
        RGB.transpose(2, 0, 1).astype(np.uint16) * 257,
        {"photometric": "rgb", "planarconfig": "separate"},
        RGB,
    ),
    "16-bit grey": (GREY.astype(np.uint16) * 257, {}, GREY_AS_RGB),
    "32-bit grey": (GREY.astype(np.uint32), {}, GREY_AS_RGB),
    "float colour": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}, RGB),
    "deflate": (RGB, {"compression": "zlib"}, RGB),
    "big": (RGB, {"bigtiff": True}, RGB),
    "big endian": (RGB.astype(np.uint16) * 257, {"byteorder": ">"}, RGB),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff(tmp_path, name):
    array, options, expected = TIFFS[name]
    tifffile.imwrite(tmp_path / "image.tif", array, **options)
    assert np.array_equal(read_rgb(tmp_path / "image.tif"), expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "jpeg"])
def test_tiff_compressions(tmp_path, compression):
    PIL.Image.fromarray(RGB).save(tmp_path / "image.tif", compression=compression)
    image = read_rgb(tmp_path / "image.tif")
    assert image.shape == RGB.shape
    assert compression == "jpeg" or np.array_equal(image, RGB)


def test_tiled_tiff(tmp_path):
    large = np.random.default_rng(1).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "tiled.tif", large, tile=(32, 48))
    assert np.array_equal(read_rgb(tmp_path / "tiled.tif"), large)


@pytest.mark.parametrize("array", [RGB.astype(np.uint16) * 257, GREY.astype(np.uint16) * 257])
def test_16_bit_png(tmp_path, array):
    cv2.imwrite(str(tmp_path / "image.png"), array[..., ::-1] if array.ndim == 3 else array)
    assert np.array_equal(read_rgb(tmp_path / "image.png"), RGB if array.ndim == 3 else GREY_AS_RGB)


@pytest.mark.parametrize("name", ["with space.png", "größe-細胞核.png", "new\nline.png"])
def test_file_names(tmp_path, name):
    PIL.Image.fromarray(RGB).save(tmp_path / name)
    assert np.array_equal(read_rgb(str(tmp_path / name)), RGB)
    assert image_name(tmp_path / name) == name


def _bad_file(folder, kind):
    path = folder / f"{kind}.png"
    PIL.Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    if kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "truncated tiff":
        tifffile.imwrite(path, RGB.astype(np.uint16))
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "tiff without pages":
        path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 0))
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "fifo", "empty", "text", "truncated", "truncated tiff", "tiff without pages"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_bad_files_are_named(tmp_path, kind):
    path = _bad_file(tmp_path, kind)
    with pytest.raises(OSError, match=f"{kind}.png") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_large_files_are_refused_before_they_are_decoded(tmp_path, dtype):
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((2000, 2000, 3), dtype), compression="zlib")
    header = path.read_bytes()
    path.write_bytes(header[: len(header) // 2])  # a decoder would fail on this
    with pytest.raises(ValueError, match=r"large.tif.*4000000 pixels.*max_pixels=1000000"):
        read_rgb(path, max_pixels=1_000_000)
    with pytest.raises(ValueError, match="max_pixels=34"):
        read_rgb(RGB, max_pixels=34)
    with pytest.raises(ValueError, match="max_pixels=34"):
        read_rgb(PIL.Image.fromarray(RGB), max_pixels=34)


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_pillows_own_limit_does_not_get_in_the_way(tmp_path, monkeypatch, name):
    path = tmp_path / name
    PIL.Image.fromarray(RGB).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
        assert np.array_equal(read_rgb(path), RGB)
        assert np.array_equal(read_rgb(path, page=1), RGB)
        assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_decoded_pictures_have_no_name():
    assert image_name(RGB) is None


def test_the_official_files_of_the_public_data_sets(real_data):
    files = [
        *sorted((real_data / "monuseg" / "MoNuSegTrainingData" / "Tissue Images").glob("*.tif"))[:2],
        *sorted((real_data / "consep" / "Train" / "Images").glob("*1.*"))[:2],
        *sorted((real_data / "dsb2018").glob("*.jpg"))[:2],
    ]
    assert files
    for path in files:
        image = read_rgb(path)
        assert image.shape[2] == 3
        assert 80 < image.mean() < 250  # stained tissue on a bright field
