"""Why: the Data Science Bowl stores one mask per nucleus; each file must become one nucleus."""

import numpy as np
import pytest
import tifffile

from cfsam_hf.data.readers.mask_folders import list_mask_folders
from tests.data_cases import nuclei, painted, save_image, truncate


def write(folder, name="a1", ids=(1, 2, 3), size=(40, 50)):
    label_map = nuclei(*size, ids=ids)
    save_image(folder / name / "images" / f"{name}.png", painted(label_map))
    for label in ids:
        save_image(folder / name / "masks" / f"m{label}.png", ((label_map == label) * 255).astype(np.uint8))
    return label_map


def test_masks_become_ids(tmp_path):
    expected = write(tmp_path, "a10")
    write(tmp_path, "a2", ids=(1, 2))
    records = list_mask_folders(tmp_path, mpp=0.25)
    assert [(record.id, record.mpp) for record in records] == [("a2", 0.25), ("a10", 0.25)]
    np.testing.assert_array_equal(records[1].load().instance_map, expected)
    mask = np.zeros((40, 50), dtype=bool)
    mask[2:4, 2:9] = True
    save_image(tmp_path / "a2" / "masks" / "m9.png", mask)
    tile = list_mask_folders(tmp_path)[0].load()
    assert (tile.instance_map[2, 3], tile.overlaps.nuclei, tile.overlaps.pixels) == (3, 2, 8)


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path)
    path = save_image(tmp_path / "a1" / "masks" / "m4.png", np.eye(7, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"m4\.png: the mask is 7 x 7 but the image .*a1\.png is 40 x 50"):
        list_mask_folders(tmp_path)[0].load()
    save_image(path, (nuclei(ids=range(1, 10)) > 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"m4\.png: the mask has 9 separate pieces; it must hold a single nucleus"):
        list_mask_folders(tmp_path)[0].load()
    truncate(path, 0.2)
    with pytest.raises(OSError, match=r"m4\.png"):
        list_mask_folders(tmp_path)[0].load()
    save_image(tmp_path / "a1" / "images" / "second.png", painted(nuclei()))
    with pytest.raises(FileNotFoundError, match="images: holds 2 images; it must hold one"):
        list_mask_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match="one picture per nucleus"):
        list_mask_folders(tmp_path / "a1")
    with pytest.raises(ValueError, match="no official splits"):
        list_mask_folders(tmp_path, split="train")


def test_images_without_masks(tmp_path):
    write(tmp_path, ids=())
    with pytest.raises(ValueError, match="no nuclei"):
        list_mask_folders(tmp_path)[0].load()
    assert not list_mask_folders(tmp_path, allow_empty=True)[0].load().instance_map.any()


def test_masks_saved_as_colour_pictures(tmp_path):
    """OpenCV and screenshots write three or four equal channels."""
    expected = write(tmp_path)
    grey = ((expected == 1) * 255).astype(np.uint8)
    path = tmp_path / "a1" / "masks" / "m1.png"
    for channels in (3, 4):
        colour = np.repeat(grey[..., None], channels, axis=2)
        if channels == 4:
            colour[..., 3] = 255
        save_image(path, colour)
        np.testing.assert_array_equal(list_mask_folders(tmp_path)[0].load().instance_map, expected)
    save_image(path, painted(expected))
    with pytest.raises(ValueError, match=r"m1\.png: a mask has one colour on black"):
        list_mask_folders(tmp_path)[0].load()


def test_masks_in_other_files(tmp_path):
    expected = write(tmp_path, ids=(1,))
    folder = tmp_path / "a1" / "masks"
    (folder / "m1.png").unlink()
    mask = expected == 1
    clear = np.full((40, 50, 4), 255, dtype=np.uint8)
    clear[..., 3] = mask * 255
    for write_mask in (
        lambda: tifffile.imwrite(folder / "m.tif", mask),
        lambda: tifffile.imwrite(folder / "m.tif", mask.astype(np.uint8) * 255, photometric="miniswhite"),
        lambda: np.save(folder / "m.npy", mask),
        lambda: save_image(folder / "m.png", clear),
    ):
        write_mask()
        np.testing.assert_array_equal(list_mask_folders(tmp_path)[0].load().instance_map, expected)
        for file in folder.iterdir():
            file.unlink()


def test_files_that_differ_in_their_ending_are_masks_each(tmp_path):
    write(tmp_path, ids=(1, 2))
    masks = tmp_path / "a1" / "masks"
    (masks / "m2.png").rename(masks / "m1.bmp")
    assert list_mask_folders(tmp_path)[0].load().instance_map.max() == 2


def test_a_white_background_is_no_nucleus(tmp_path):
    write(tmp_path, size=(250, 250))
    path = tmp_path / "a1" / "masks" / "m2.png"
    save_image(path, np.where(nuclei(250, 250) == 2, 0, 255).astype(np.uint8))
    with pytest.raises(ValueError, match=r"m2\.png: the mask covers 100% of the tile: is its background white"):
        list_mask_folders(tmp_path)[0].load()
