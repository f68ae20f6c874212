"""Why: PanNuke's channels overlap, ids have gaps and files are gigabytes; single patches must be read correctly."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.polygons import Overlaps
from cfsam_hf.data.readers.pannuke import TISSUES, TYPES, list_pannuke
from tests.data_cases import nuclei, painted, truncate, types_by_id


def patch(*placed: tuple[int, int, int]) -> np.ndarray:
    """Masks `(256, 256, 6)` float64 with a 10 px square per (channel, id, row and column of its corner)."""
    masks = np.zeros((256, 256, 6))
    for channel, label, corner in placed:
        masks[corner : corner + 10, corner : corner + 10, channel] = label
    masks[..., 5] = ~masks[..., :5].any(axis=-1)
    return masks


def write_fold(root: Path, fold: int, masks: list[np.ndarray], tissues: list[str]) -> None:
    """Write a fold as distributed: float64 images and masks, tissue names as `<U13`."""
    folder = root / f"Fold {fold}"
    images = [painted(nuclei(256, 256, ids=(number + 1,))).astype(np.float64) for number in range(len(masks))]
    for path, array in (
        (folder / "images" / f"fold{fold}" / "images.npy", np.array(images)),
        (folder / "images" / f"fold{fold}" / "types.npy", np.array(tissues, dtype="<U13")),
        (folder / "masks" / f"fold{fold}" / "masks.npy", np.array(masks)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two patches in fold 1, the second without nuclei, and one in fold 3, in which channels overlap."""
    plain = patch((0, 4, 0), (1, 9, 20), (2, 4, 40), (3, 1, 60), (4, 130, 80), (0, 7, 100))
    write_fold(tmp_path, 1, [plain, patch()], ["Breast", "Bile-duct"])
    write_fold(tmp_path, 3, [patch((0, 1, 0), (4, 2, 5))], ["Adrenal_gland"])
    (tmp_path / "Fold 1" / "README.md").write_text("PanNuke")
    return tmp_path


def test_patches(folder):
    records = list_pannuke(folder)
    assert [(record.id, record.fold, record.tissue) for record in records] == [
        ("fold1_0000", "1", "Breast"),
        ("fold1_0001", "1", "Bile-duct"),
        ("fold3_0000", "3", "Adrenal_gland"),
    ]
    tile = records[0].load()
    assert (tile.mpp, tile.type_names, tile.instance_map.shape) == (0.25, TYPES, (256, 256))
    # Ids 4 of two channels are two nuclei.
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [1], 3: [2], 4: [3], 5: [4], 6: [5]}
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [100] * 6
    np.testing.assert_array_equal(tile.image, painted(nuclei(256, 256, ids=(1,))))
    assert tile.image.dtype == np.uint8
    assert not records[1].load().instance_map.any()


def test_the_last_channel_wins(folder):
    tile = list_pannuke(folder, split="3")[0].load()
    assert (tile.type_map[2, 2], tile.type_map[7, 7], tile.type_map[12, 12]) == (1, 5, 5)
    assert np.bincount(tile.instance_map.ravel())[1:].tolist() == [75, 100]
    assert tile.overlaps == Overlaps(nuclei=2, pixels=25)
    assert not list_pannuke(folder, split="1")[0].load().overlaps
    hiding = patch((0, 1, 0), (2, 3, 0), (3, 8, 60))
    write_fold(folder, 2, [hiding], ["Liver"])
    assert list_pannuke(folder, split="2")[0].load().overlaps == Overlaps(nuclei=2, pixels=100, hidden=1)


def test_folds(folder, tmp_path):
    assert [record.id for record in list_pannuke(folder, split="1")] == ["fold1_0000", "fold1_0001"]
    assert len(list_pannuke(folder / "Fold 3")) == 1
    (tmp_path / "fold_1").mkdir()
    (folder / "Fold 1").rename(tmp_path / "fold_1" / "Fold 1")
    assert len(list_pannuke(tmp_path, split="1")) == 2
    with pytest.raises(ValueError, match="belongs to the split '2'"):
        list_pannuke(folder, split="2")
    with pytest.raises(ValueError, match="'1', '2', '3'"):
        list_pannuke(folder, split="train")
    with pytest.raises(FileNotFoundError, match="Fold n/images/foldn"):
        list_pannuke(folder / "fold_1" / "Fold 1" / "images" / "fold1")


def test_empty_patches_can_be_refused(folder):
    with pytest.raises(ValueError, match=r"masks\.npy: no nuclei"):
        list_pannuke(folder, allow_empty=False)[1].load()


def test_damaged_files_are_named(folder):
    tissues = folder / "Fold 1" / "images" / "fold1" / "types.npy"
    masks = folder / "Fold 1" / "masks" / "fold1" / "masks.npy"
    np.save(tissues, np.array(["Breast", "breast"]))
    with pytest.raises(ValueError, match=r"types\.npy: unknown tissues \['breast'\]"):
        list_pannuke(folder)
    np.save(tissues, np.array(["Breast"]))
    with pytest.raises(ValueError, match="Fold 1: 2 images, 2 masks and 1 tissue names"):
        list_pannuke(folder)
    np.save(masks, np.zeros((2, 256, 256, 5)))
    with pytest.raises(ValueError, match=r"masks\.npy: expected an array of any x 256 x 256 x 6"):
        list_pannuke(folder)
    np.save(masks, np.full((2, 256, 256, 6), 0.5))
    np.save(tissues, np.array(["Breast", "Breast"]))
    with pytest.raises(ValueError, match=r"masks\.npy: the masks of patch 0 .* whole numbers"):
        list_pannuke(folder)[0].load()
    for share in (0.9, 0):
        truncate(masks, share)
        with pytest.raises(OSError, match=r"masks\.npy: not a \.npy file"):
            list_pannuke(folder)
    masks.unlink()
    with pytest.raises(FileNotFoundError, match=r"masks\.npy"):
        list_pannuke(folder)


def test_published_names():
    assert len(set(TISSUES)) == 19
    assert max(len(tissue) for tissue in TISSUES) <= 13
