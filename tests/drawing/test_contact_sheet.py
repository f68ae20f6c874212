"""Why: the sheet must show each change alone, at full probability, with outlines on the nuclei."""

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.data.crops.augmentation import AugmentationOptions
from cfsam_hf.data.records import Tile
from cfsam_hf.drawing.contact_sheet import augmentation_names, augmentation_sheet

from ..data_cases import nuclei, save_image

YELLOW = (255, 220, 0)


def tile() -> Tile:
    ids = nuclei(64, 64, range(1, 30))
    image = np.full((64, 64, 3), (220, 160, 200), dtype=np.uint8)
    image[ids > 0] = (90, 60, 140)
    return Tile(image, ids, None, "a")


def test_one_row_for_each_change():
    sheet = augmentation_sheet([tile()], AugmentationOptions.preset("strong"), size=32, columns=3)
    rows = len(augmentation_names()) - 1 + 2  # no stain transfer; the plain row and the training row
    assert sheet.shape == (rows * (32 + 4 + 18), 3 * 36 + 4, 3)
    bands = sheet.reshape(rows, 54, -1, 3)[:, 18:50]
    assert all((band == YELLOW).all(axis=-1).sum() > 50 for band in bands)
    assert all((bands[0] != band).any() for band in bands[1:])


def test_presets_without_probabilities_still_show_strengths():
    sheet = augmentation_sheet([tile()], AugmentationOptions.preset("none"), size=32, columns=2)
    bands = sheet.reshape(len(augmentation_names()) + 1, 54, -1, 3)[:, 18:50]
    np.testing.assert_array_equal(bands[0], bands[-1])
    assert (bands[0] != bands[4]).any()


def test_no_columns():
    with pytest.raises(ValueError, match="columns"):
        augmentation_sheet([tile()], AugmentationOptions(), columns=0)


def test_the_script_writes_a_sheet(load_example, tmp_path, monkeypatch):
    save_image(tmp_path / "tiles" / "a.png", tile().image)
    save_image(tmp_path / "tiles" / "a_instances.png", tile().instance_map.astype(np.uint16))
    output = tmp_path / "sheet.png"
    script = load_example("studies/show_augmentation")
    options = {
        "--output": str(output),
        "--data": f"reader=instance_pairs,path={tmp_path / 'tiles'}",
        "--crop_size": "32",
        "--columns": "2",
        "--augmentation_options": '{"blur_sigma": 2}',
    }
    monkeypatch.setattr("sys.argv", ["show_augmentation.py", *(word for pair in options.items() for word in pair)])
    script.main()
    assert Image.open(output).size == (2 * 36 + 4, 54 * (len(augmentation_names()) + 1))
