"""Why: CoNIC packs its patches into two arrays; an offset by one puts every label on the wrong image."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.readers.conic import TYPES, list_conic
from tests.data_cases import nuclei, painted, truncate, types_by_id

NAMES = ("consep_1-0000", "consep_1-0001", "crag_12-0000")
COUNTS = "neutrophil,epithelial,lymphocyte,plasma,eosinophil,connective\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three patches of 1, 2 and 0 nuclei."""
    label_maps = [nuclei(256, 256, ids=range(1, count + 1)) for count in (1, 2, 0)]
    labels = [np.stack([ids, np.choose(ids, [0, 2, 6])], axis=-1) for ids in label_maps]
    np.save(tmp_path / "images.npy", np.array([painted(ids) for ids in label_maps]))
    np.save(tmp_path / "labels.npy", np.array(labels).astype(np.uint16))
    (tmp_path / "patch_info.csv").write_text("patch_info\n" + "\n".join(NAMES) + "\n")
    (tmp_path / "counts.csv").write_text(COUNTS + "0,1,0,0,0,0\n0,1,0,0,0,1\n0,0,0,0,0,0\n")
    return tmp_path


def test_patches(folder):
    records = list_conic(folder)
    assert [record.id for record in records] == list(NAMES)
    assert [record.metadata["source"] for record in records] == ["consep_1", "consep_1", "crag_12"]
    assert [record.metadata["count_connective"] for record in records] == ["0", "1", "0"]
    tile = records[1].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [2], 2: [6]}
    np.testing.assert_array_equal(tile.image, painted(nuclei(256, 256, ids=(1, 2))))
    assert (tile.mpp, tile.tissue, tile.fold, tile.type_names) == (0.5, "Colon", None, TYPES)
    assert not records[2].load().instance_map.any()
    assert [record.id for record in list_conic(folder.parent)] == list(NAMES)


def test_tables_are_optional(folder):
    (folder / "patch_info.csv").unlink()
    (folder / "counts.csv").unlink()
    records = list_conic(folder)
    assert [record.id for record in records] == ["0000", "0001", "0002"]
    assert records[0].metadata == {}


def test_damaged_files_are_named(folder):
    labels = np.load(folder / "labels.npy")
    labels[0, ..., 1][labels[0, ..., 0] > 0] = 7
    np.save(folder / "labels.npy", labels)
    with pytest.raises(ValueError, match=r"labels\.npy: unknown type ids \[7\]"):
        list_conic(folder)[0].load()
    with pytest.raises(ValueError, match=r"labels\.npy: no nuclei"):
        list_conic(folder, allow_empty=False)[2].load()
    (folder / "counts.csv").write_text("neutrophil,epithelial\n1,2\n")
    with pytest.raises(ValueError, match=r"counts\.csv: no column lymphocyte, plasma"):
        list_conic(folder)
    (folder / "patch_info.csv").write_text("patch_info\n" + NAMES[0] + "\n")
    with pytest.raises(ValueError, match=r"patch_info\.csv: 1 rows for 3 patches"):
        list_conic(folder)
    np.save(folder / "labels.npy", labels[:2])
    with pytest.raises(ValueError, match=r"labels\.npy: 2 label maps for the 3 images"):
        list_conic(folder)
    truncate(folder / "images.npy")
    with pytest.raises(OSError, match=r"images\.npy: not a \.npy file"):
        list_conic(folder)
    with pytest.raises(ValueError, match="no official splits"):
        list_conic(folder, split="train")
