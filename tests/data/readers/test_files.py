"""Files arrive in many modes and states: read what is plain, name what is not, and order tiles as people count."""

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.data.readers.files import images_by_stem, natural_key, pair_files, read_image
from tests.data_cases import nuclei, painted, save_image, truncate

IMAGE = painted(nuclei(ids=range(1, 20)))


def test_colour_grey_alpha_and_palette(tmp_path):
    picture = Image.fromarray(IMAGE)
    alpha = picture.copy()
    alpha.putalpha(Image.fromarray(np.where(nuclei() > 0, 255, 0).astype(np.uint8)))
    alpha.save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), IMAGE)
    picture.quantize(256).save(tmp_path / "palette.png")
    assert np.abs(read_image(tmp_path / "palette.png").astype(int) - IMAGE).max() <= 8
    grey = read_image(save_image(tmp_path / "grey.png", IMAGE[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(IMAGE[..., :1], 3, axis=-1))


def test_deep_images_are_refused(tmp_path):
    path = save_image(tmp_path / "deep.tif", np.full((4, 4), 4000, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"deep\.tif: expected an 8-bit image"):
        read_image(path)


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
    with pytest.raises(OSError, match=r"a\.png: not an image"):
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
