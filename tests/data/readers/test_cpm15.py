"""Why: CPM-15 circulates as text files and as .mat files with different numbering; both must be read correctly."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.cpm15 import list_cpm15
from tests.data.readers.test_hovernet_folders import write_tile
from tests.data_cases import nuclei, painted, save_image


def write_text(root: Path, number: int, size=(40, 50), text: str | None = None) -> Path:
    """Write a tile as published: "width height", then one id a line, row by row."""
    label_map = nuclei(*size, ids=(1, 2, 3, 300))
    save_image(root / f"image{number:02d}.png", painted(label_map))
    save_image(root / f"image{number:02d}_poly.png", painted(label_map))
    path = root / f"image{number:02d}_mask.txt"
    lines = [f"{size[1]} {size[0]}", *map(str, label_map.ravel().tolist())]
    path.write_text("\n".join(lines) + "\n" if text is None else text)
    return path


def test_text_files(tmp_path):
    for number in (8, 7, 10):
        write_text(tmp_path, number, size=(40 + number, 50))
    records = list_cpm15(tmp_path)
    assert [(r.id, r.mpp, r.fold) for r in records] == [
        ("image07", 0.5, None),
        ("image08", 0.25, None),
        ("image10", 0.25, None),
    ]
    tile = records[2].load()
    np.testing.assert_array_equal(tile.instance_map, nuclei(50, 50, ids=(1, 2, 3, 300)))
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))
    assert list_cpm15(tmp_path, mpp=0.4)[0].load().mpp == 0.4


def test_folders_of_mat_files(tmp_path):
    write_tile(tmp_path, "image_00", size=(48, 64))
    (record,) = list_cpm15(tmp_path)
    assert record.load().instance_map.shape == (48, 64)
    assert (record.id, record.fold, record.mpp) == ("image_00", None, None)
    with pytest.raises(ValueError, match="no official splits"):
        list_cpm15(tmp_path, split="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "says 0 x 0 pixels"),
        ("50", "says 0 x 0 pixels"),
        ("50 40\n0\n1\n", r"says 50 x 40 pixels \(width x height\) and holds 2 ids"),
        ("2 2\n0 1 0 x", "not a text file of whole numbers"),
        ("2 2\n0 1 0 1.5", "not a text file of whole numbers"),
        ("2 2\n0 1 0 1\u00b2", "not a text file of whole numbers"),
        ("2 2\n0 1 0 1", "the instance map is 2 x 2 but the image"),
        ("50 40\n" + "0\n" * 2000, "no nuclei"),
        ("50 40\n" + "-1\n" * 2000, "instance ids must lie in"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    write_text(tmp_path, 1, text=text)
    with pytest.raises(ValueError, match=rf"image01_mask\.txt: {message}"):
        list_cpm15(tmp_path)[0].load()


def test_missing_halves_are_named(tmp_path):
    write_text(tmp_path, 1)
    write_text(tmp_path, 2).unlink()
    with pytest.raises(FileNotFoundError, match=r"no _mask\.txt file for image02\.png"):
        list_cpm15(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"or image01\.png"):
        list_cpm15(tmp_path / "..")
