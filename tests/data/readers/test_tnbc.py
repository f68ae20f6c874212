"""Why: TNBC gives masks, not nuclei; components must be separated, and anything that is not a mask refused."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.tnbc import list_tnbc
from tests.data_cases import nuclei, painted, save_image, truncate


def write_tile(root: Path, slide: int, number: int, mask: np.ndarray, alpha: bool = False) -> Path:
    stem = f"{slide:02d}_{number}.png"
    image, truth = painted(nuclei()), (mask > 0).astype(np.uint8) * 255
    if alpha:
        opaque = np.full(truth.shape, 255, dtype=np.uint8)
        image, truth = np.dstack([image, opaque]), np.dstack([truth, truth, truth, opaque])
    save_image(root / f"Slide_{slide:02d}" / stem, image)
    return save_image(root / f"GT_{slide:02d}" / stem, truth)


@pytest.mark.parametrize("alpha", [False, True])
def test_components_are_nuclei(tmp_path, alpha):
    mask = nuclei(ids=(1, 2, 3))
    mask[7, 6] = 1  # touches the first block with a corner only
    mask[2:7, 14:18] = 1  # joins the second block to a neighbour
    write_tile(tmp_path, 1, 1, mask, alpha)
    tile = list_tnbc(tmp_path)[0].load()
    np.testing.assert_array_equal(tile.image, painted(nuclei()))
    assert sorted(np.bincount(tile.instance_map.ravel())[1:].tolist()) == [1, 20, 60]
    assert tile.type_map is None


def test_slides(tmp_path):
    for slide, number in ((2, 10), (2, 9), (11, 1), (12, 1)):
        write_tile(tmp_path / "TNBC_NucleiSegmentation", slide, number, nuclei())
    (tmp_path / "TNBC_NucleiSegmentation" / "Slide_notes").mkdir()
    (tmp_path / "__MACOSX" / "Slide_01").mkdir(parents=True)
    records = list_tnbc(tmp_path)
    assert [(record.id, record.tissue, record.metadata["patient"]) for record in records] == [
        ("02_9", "Breast", "02"),
        ("02_10", "Breast", "02"),
        ("11_1", "Breast", "11"),
        ("12_1", "Brain", "12"),
    ]
    assert {record.mpp for record in records} == {0.25}


def test_damaged_files_are_named(tmp_path):
    truth = write_tile(tmp_path, 1, 1, nuclei())
    save_image(truth, nuclei().astype(np.uint8))
    with pytest.raises(ValueError, match=r"GT_01/01_1\.png: expected a mask of 0 and 255"):
        list_tnbc(tmp_path)[0].load()
    write_tile(tmp_path, 1, 1, np.zeros((40, 50)))
    with pytest.raises(ValueError, match=r"GT_01/01_1\.png: no nuclei"):
        list_tnbc(tmp_path)[0].load()
    write_tile(tmp_path, 1, 1, nuclei(40, 48))
    with pytest.raises(ValueError, match=r"GT_01/01_1\.png: the instance map is 40 x 48"):
        list_tnbc(tmp_path)[0].load()
    truncate(truth)
    with pytest.raises(OSError, match=r"GT_01/01_1\.png"):
        list_tnbc(tmp_path)[0].load()
    truth.unlink()
    with pytest.raises(FileNotFoundError, match=r"GT_01: no mask for 01_1\.png"):
        list_tnbc(tmp_path)
    with pytest.raises(ValueError, match="no official splits"):
        list_tnbc(tmp_path, split="train")
    with pytest.raises(FileNotFoundError, match="Slide_01"):
        list_tnbc(tmp_path / "GT_01")
