"""Why: tools save label maps in many number types; each must keep its ids, and anything else is refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from cfsam_hf.data.readers.label_maps import read_label_map
from tests.data_cases import nuclei, painted, save_image, truncate


@pytest.mark.parametrize(
    ("suffix", "dtype", "largest"),
    [
        (".png", np.uint8, 255),
        (".png", np.uint16, 65535),
        (".tif", np.uint8, 255),
        (".tif", np.uint16, 65535),
        (".tif", np.int32, 2**31 - 1),
    ],
)
def test_label_maps_keep_their_ids(tmp_path, suffix, dtype, largest):
    label_map = nuclei(ids=(1, largest)).astype(dtype)
    read = read_label_map(save_image(tmp_path / f"a{suffix}", label_map))
    np.testing.assert_array_equal(read, label_map)
    assert read.dtype == np.int32


def test_a_palette_shows_ids_and_not_colours(tmp_path):
    label_map = nuclei(ids=(3, 5)).astype(np.uint8)
    image = Image.fromarray(label_map)
    image.putpalette([0, 0, 0, 255, 0, 0] * 128)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), label_map)


def test_coloured_label_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: a label map has one channel"):
        read_label_map(save_image(tmp_path / "a.png", painted(nuclei())))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_number_types_of_numpy_fiji_and_morpholibj(tmp_path, dtype, byteorder):
    label_map = nuclei(ids=(1, 100)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", label_map, byteorder=byteorder, photometric="minisblack")
    read = read_label_map(tmp_path / "a.tif")
    np.testing.assert_array_equal(read, label_map)
    assert read.dtype == np.int32


def test_an_imagej_file_of_floats(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", nuclei(ids=(7, 70_000)).astype(np.float32), imagej=True)
    assert set(np.unique(read_label_map(tmp_path / "a.tif"))) == {0, 7, 70_000}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (nuclei().astype(np.float32) / 2, "must hold whole numbers"),
        (np.full((8, 8), np.nan, dtype=np.float32), "must hold whole numbers"),
        (np.full((8, 8), 2**40), "ids must lie in 0 to"),
        (np.full((8, 8), 2**63 + 5, dtype=np.uint64), "ids must lie in 0 to"),
        (np.full((8, 8), -1, dtype=np.int32), "ids must lie in 0 to"),
        (np.zeros((3, 40, 50), dtype=np.uint16), "3 pictures"),
    ],
)
def test_other_numbers_are_refused(tmp_path, array, message):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with pytest.raises((OSError, ValueError), match=rf"a\.tif.*{message}"):
        read_label_map(tmp_path / "a.tif")


def test_a_jpeg_is_no_label_map(tmp_path):
    path = save_image(tmp_path / "a.jpg", nuclei().astype(np.uint8))
    with pytest.raises(ValueError, match=r"a\.jpg: JPEG compression changes ids"):
        read_label_map(path)


def test_missing_foreign_and_truncated_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such file"):
        read_label_map(tmp_path / "a.png")
    for name in ("a.png", "a.tif"):
        (tmp_path / name).write_bytes(b"not a picture")
        with pytest.raises(OSError, match=rf"{name}.* not an image|{name}.* cut short"):
            read_label_map(tmp_path / name)
        save_image(tmp_path / name, nuclei().astype(np.uint16))
        truncate(tmp_path / name)
        with pytest.raises((OSError, ValueError), match=name):
            read_label_map(tmp_path / name)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
def test_ids_of_a_file_in_which_0_is_white(tmp_path, dtype):
    """ImageJ's inverting tables and tifffile's boolean arrays; the ids are the stored values."""
    label_map = nuclei(ids=(1,)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", label_map, photometric="miniswhite")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif"), label_map)


def test_a_signalling_nan_is_refused_without_a_warning(tmp_path):
    """Damaged floats hold such values; numpy warns when it casts or rounds them."""
    label_map = nuclei().astype(np.float32)
    label_map.view(np.uint32)[3, 3] = 0x7F800001
    tifffile.imwrite(tmp_path / "a.tif", label_map, photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif: the label map .dtype float32. must hold whole numbers"):
        read_label_map(tmp_path / "a.tif")
