"""Why: in Lizard's files the type of nucleus 7 is not in row 7; types must follow the variable `id`."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cfsam_hf.data.readers.lizard import list_lizard
from tests.data_cases import nuclei, painted, save_image, truncate, types_by_id


def write_image(root: Path, stem: str, part: int = 1, ids=(9, 2, 5), types=(1, 6, 3), **mat) -> Path:
    """Write an image as distributed: `id` and `class` (N, 1), `bbox` (N, 4), `centroid` (N, 2)."""
    label_map = nuclei(48, 64, ids=ids)
    save_image(root / f"Lizard_Images{part}" / f"{stem}.png", painted(label_map))
    labels = root / "Lizard_Labels" / "Labels"
    labels.mkdir(parents=True, exist_ok=True)
    content = {
        "inst_map": label_map.astype(np.int32),
        "id": np.array(ids, dtype=np.int32).reshape(-1, 1),
        "class": np.array(types, dtype=np.int32).reshape(-1, 1),
        "bbox": np.zeros((len(ids), 4)),
        "centroid": np.zeros((len(ids), 2)),
    }
    savemat(labels / f"{stem}.mat", content | mat)
    return labels / f"{stem}.mat"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_image(tmp_path, "crag_10", 1)
    write_image(tmp_path, "crag_2", 2)
    write_image(tmp_path, "consep_1", 2)
    (tmp_path / "Lizard_Labels" / "read_label.py").write_text("")
    (tmp_path / "Lizard_Labels" / "info.csv").write_text(
        "Filename,Source,Split\nconsep_1,consep,3\ncrag_2,crag,1\ncrag_10,crag,2\ndpath_1,dpath,1\n"
    )
    return tmp_path


def test_types_go_by_id(folder):
    tile = list_lizard(folder)[0].load()
    assert types_by_id(tile.instance_map, tile.type_map) == {9: [1], 2: [6], 5: [3]}
    np.testing.assert_array_equal(tile.image, painted(nuclei(48, 64, ids=(9, 2, 5))))
    assert tile.mpp == 0.5


def test_folds_and_sources(folder):
    assert [(record.id, record.fold, record.metadata["source"]) for record in list_lizard(folder)] == [
        ("consep_1", "3", "consep"),
        ("crag_2", "1", "crag"),
        ("crag_10", "2", "crag"),
    ]
    assert [record.id for record in list_lizard(folder, split="2")] == ["crag_10"]
    with pytest.raises(ValueError, match="'1', '2', '3'"):
        list_lizard(folder, split="test")


def test_folders_that_the_archives_add(folder, tmp_path):
    for name in ("Lizard_Images1", "Lizard_Images2", "Lizard_Labels"):
        (tmp_path / name.lower()).mkdir()
        (folder / name).rename(tmp_path / name.lower() / name)
    assert len(list_lizard(tmp_path)) == 3


def test_damaged_files_are_named(folder):
    for options, message in (
        ({"types": (1, 7, 3)}, "unknown type ids"),
        ({"id": np.array([[9], [2], [4]])}, r"nuclei \[5\] of inst_map are not in the variable id"),
        ({"class": np.array([[1], [2]])}, "3 ids but 2 classes"),
        ({"inst_map": np.zeros((48, 64))}, "no nuclei"),
        ({"inst_map": nuclei(48, 60, ids=(9, 2, 5))}, "the instance map is 48 x 60"),
    ):
        write_image(folder, "consep_1", 2, **options)
        with pytest.raises(ValueError, match=rf"consep_1\.mat: {message}"):
            list_lizard(folder)[0].load()
    truncate(write_image(folder, "consep_1", 2), 0.3)
    with pytest.raises(OSError, match=r"consep_1\.mat: not a MATLAB file"):
        list_lizard(folder)[0].load()


def test_what_does_not_fit_together_is_named(folder):
    info = folder / "Lizard_Labels" / "info.csv"
    text = info.read_text()
    for wrong, message in (
        (text.replace("crag_2,crag,1\n", ""), "no row for crag_2"),
        (text.replace("crag_2,crag,1", "crag_2,crag,4"), "found '4' for crag_2"),
        (text.replace("Split", "Fold"), "every row needs Filename, Source and Split"),
    ):
        info.write_text(wrong)
        with pytest.raises(ValueError, match=rf"info\.csv: .*{message}"):
            list_lizard(folder)
    info.unlink()
    with pytest.raises(FileNotFoundError, match=r"info\.csv: no such file"):
        list_lizard(folder)
    write_image(folder, "crag_2", 1)
    with pytest.raises(ValueError, match="image crag_2 occurs twice"):
        list_lizard(folder)
    (folder / "Lizard_Labels" / "Labels" / "crag_10.mat").unlink()
    (folder / "Lizard_Images1" / "crag_2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.mat file for crag_10\.png"):
        list_lizard(folder)
