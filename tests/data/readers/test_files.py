"""Why: images come in many modes and states; valid ones are read, others are named, and tiles are in natural order."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.data import list_tiles
from cfsam_hf.data.readers.files import images_by_stem, natural_key, pair_files, read_image
from cfsam_hf.data.readers.instance_pairs import list_instance_pairs
from cfsam_hf.data.readers.label_maps import read_label_map
from cfsam_hf.model.pictures import TooManyPixelsError, read_rgb
from cfsam_hf.model.tiff import turn_upright
from tests.data_cases import nuclei, painted, save_image, truncate
from tests.picture_cases import CASES, GREY, PICTURE, orientation

IMAGE = painted(nuclei(ids=range(1, 20)))


def training_pixels(path: Path) -> np.ndarray:
    """The pixels of the picture as training sees them: as a tile of the user's own data."""
    folder = path.parent / "labels"
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{path.stem}.tif", np.ones(read_rgb(path).shape[:2], np.int32))
    [record] = list_instance_pairs(path.parent, annotations=folder)
    return record.load().image


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case.answer, np.ndarray)])
def test_training_and_inference_see_the_same_pixels(name, tmp_path):
    case = CASES[name]
    path = tmp_path / f"case.{case.ending}"
    case.write(path)
    pixels = read_rgb(path)
    assert np.abs(pixels.astype(int) - case.answer).max() <= 2
    np.testing.assert_array_equal(training_pixels(path), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "shard", path.read_bytes()), pixels)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case.answer, str)])
def test_what_inference_refuses_training_refuses(name, tmp_path):
    path = tmp_path / f"case.{CASES[name].ending}"
    CASES[name].write(path)
    for read in (read_rgb, read_image):
        with pytest.raises((OSError, ValueError), match=path.name):
            read(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_images_and_label_maps_are_turned_by_their_own_orientation(value, ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(ending, {})
    PIL.Image.fromarray(PICTURE).save(path, exif=orientation(value), **options)
    upright = turn_upright(PICTURE, value)
    assert read_image(path).shape == upright.shape
    assert np.abs(training_pixels(path).astype(int) - upright).mean() < 3
    np.testing.assert_array_equal(training_pixels(path), read_rgb(path))
    if ending in ("png", "tif"):
        PIL.Image.fromarray(GREY).save(path, exif=orientation(value))
        np.testing.assert_array_equal(read_label_map(path), turn_upright(GREY, value))


def test_a_label_map_without_the_tag_belongs_to_the_upright_image(tmp_path):
    # As `cfsam segment` leaves it beside a photograph that was taken upside down.
    PIL.Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=orientation(3))
    label_map = nuclei(*PICTURE.shape[:2], ids=(1, 2, 3))
    save_image(tmp_path / "a_instances.png", label_map.astype(np.uint16))
    [record] = list_instance_pairs(tmp_path)
    tile = record.load()
    np.testing.assert_array_equal(tile.image, PICTURE[::-1, ::-1])
    np.testing.assert_array_equal(tile.instance_map, label_map)


@pytest.mark.parametrize("reader", [read_image, read_label_map])
def test_the_limit_of_pixels_is_checked_in_the_header(reader, tmp_path):
    for name in ("huge png", "huge tiff"):
        path = tmp_path / f"huge.{CASES[name].ending}"
        CASES[name].write(path)
        with pytest.raises(TooManyPixelsError, match=rf"{path.name}.*more than the limit max_pixels"):
            reader(path)


@pytest.mark.parametrize("reader", [read_image, read_label_map])
def test_a_png_with_a_wrong_checksum_is_damaged(reader, tmp_path):
    path = save_image(tmp_path / "a.png", GREY)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.png.*checksum.* get it again"):
        reader(path)


@pytest.mark.filterwarnings("ignore:Truncated|Corrupt EXIF:UserWarning")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5])
def test_truncated_images_are_named(tmp_path, suffix, share):
    path = truncate(save_image(tmp_path / f"a{suffix}", IMAGE), share)
    with pytest.raises(OSError, match=rf"a\{suffix}"):
        read_image(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(OSError, match=r"a\.png.*not an image"):
        read_image(tmp_path / "a.png")


def test_order_and_preference(tmp_path):
    for name in ("t10.jpg", "t2.png", "t2.jpg", "t1.TIF", "t01.png", ".hidden.png", "notes.txt"):
        save_image(tmp_path / "any.png", IMAGE).rename(tmp_path / name)
    (tmp_path / "folder.d").mkdir()
    assert [path.name for path in images_by_stem(tmp_path).values()] == ["t01.png", "t1.TIF", "t2.png", "t10.jpg"]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        images_by_stem(tmp_path / "elsewhere")


def test_natural_order():
    names = ["b", "a10b2", "a2", "a10b10", "a", "10", "9", "a10", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "a", "a2", "a10", "a10b2", "a10b10", "b"]


def test_unpaired_files_are_named_but_not_all(tmp_path):
    images = {f"t{number}": tmp_path / f"t{number}.png" for number in range(9)}
    labels = {"t0": tmp_path / "t0.mat"}
    with pytest.raises(FileNotFoundError, match=r"no \.mat file for t1\.png, .*t5\.png and 3 more of"):
        pair_files(images, labels, ".mat file", tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no image for t0\.mat of"):
        pair_files({}, labels, ".mat file", tmp_path, tmp_path)
    pair_files(images, dict.fromkeys(images, tmp_path), ".mat file", tmp_path, tmp_path)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("reader", "image", "name"),
    [
        ("coco", "a.png", "a.json"),
        ("monuseg", "a.tif", "a.xml"),
        ("cpm15", "image01.png", "image01_mask.txt"),
        ("parquet", "a.png", "a.parquet"),
        ("instance_pairs", "a.png", "a_instances.png"),
        ("qupath", "a.png", "a.geojson"),
        ("qupath", "a.png", "a.zip"),
    ],
)
def test_pipes_and_devices_are_not_read(tmp_path, reader, image, name, link):
    """Opening a pipe waits for a writer, and a device has no end."""
    save_image(tmp_path / image, painted(nuclei()))
    if link:
        (tmp_path / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / name)
    with pytest.raises((OSError, ValueError), match=rf"{Path(image).stem}[._]"):
        list_tiles(reader, tmp_path)[0].load()
