"""Why: NuInsSeg has three kinds of masks; the one without summed ids is right, and vague areas are not background."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.nuinsseg import list_nuinsseg
from tests.data_cases import nuclei, painted, save_image, truncate


def write_tile(root: Path, organ: str, stem: str, vague: np.ndarray | None = None, folder="mask binary") -> Path:
    """Write a tile as distributed, RGBA image and summed `label masks` included."""
    label_map = nuclei(ids=(1, 2, 5))
    rgba = np.dstack([painted(label_map), np.full(label_map.shape, 255, dtype=np.uint8)])
    save_image(root / organ / "tissue images" / f"{stem}.png", rgba)
    save_image(root / organ / "label masks" / f"{stem}.tif", (label_map * 3).astype(np.uint16))
    save_image(root / organ / "mask binary" / f"{stem}.png", (label_map > 0).astype(np.uint8) * 255)
    if vague is not None:
        save_image(root / organ / "vague areas" / folder / f"{stem}.png", vague.astype(np.uint8) * 255)
    return save_image(root / organ / "label masks modify" / f"{stem}.tif", label_map.astype(np.uint16))


@pytest.mark.parametrize("folder", ["mask binary", "mask binary_vague"])
def test_tiles(tmp_path, folder):
    vague = np.zeros((40, 50), dtype=bool)
    vague[30:, 20:] = True
    write_tile(tmp_path, "human bladder", "human_bladder_02", vague, folder)
    tile = list_nuinsseg(tmp_path)[0].load()
    np.testing.assert_array_equal(tile.instance_map, nuclei(ids=(1, 2, 5)))
    np.testing.assert_array_equal(tile.image, painted(tile.instance_map))
    np.testing.assert_array_equal(tile.annotated, ~vague)
    assert (tile.tissue, tile.mpp, tile.type_map) == ("human bladder", 0.25, None)
    assert list_nuinsseg(tmp_path, ignore_vague=False)[0].load().annotated is None


def test_organs_and_names(tmp_path):
    root = tmp_path / "NuInsSeg"
    write_tile(root, "mouse liver", "mouse_liver_10")
    write_tile(root, "mouse liver", "mouse_liver_9")
    write_tile(root, "human tonsile", "01")
    write_tile(root, "human salivory gland", "01")
    records = list_nuinsseg(tmp_path)
    assert [(record.id, record.tissue) for record in records] == [
        ("human_salivory_gland_01", "human salivory gland"),
        ("human_tonsile_01", "human tonsile"),
        ("mouse_liver_9", "mouse liver"),
        ("mouse_liver_10", "mouse liver"),
    ]
    assert records[0].load().annotated is None


def test_damaged_files_are_named(tmp_path):
    label = write_tile(tmp_path, "human bladder", "human_bladder_02", np.zeros((40, 48)))
    with pytest.raises(ValueError, match=rf"{label.name}: the annotated area is 40 x 48"):
        list_nuinsseg(tmp_path)[0].load()
    save_image(label, np.zeros((40, 50), dtype=np.uint16))
    with pytest.raises(ValueError, match=rf"{label.name}: no nuclei"):
        list_nuinsseg(tmp_path, ignore_vague=False)[0].load()
    truncate(label, 0.1)
    with pytest.raises(OSError, match=label.name):
        list_nuinsseg(tmp_path)[0].load()
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r"label masks modify: no label map for human_bladder_02\.png"):
        list_nuinsseg(tmp_path)
    with pytest.raises(ValueError, match="no official splits"):
        list_nuinsseg(tmp_path, split="train")
    with pytest.raises(FileNotFoundError, match="label masks modify"):
        list_nuinsseg(tmp_path / "human bladder" / "mask binary")
