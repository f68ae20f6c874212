"""Why: users bring folders of images with label maps; pairs, types and the index must be right."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cfsam_hf.data.readers.instance_pairs import list_instance_pairs
from tests.data_cases import nuclei, painted, save_image, truncate, types_by_id

NAMES = {1: "tumour", 2: "other"}


def write_pair(folder: Path, stem: str, suffix=".jpg", dtype=np.uint16, ids=(1, 2, 7), types=None) -> Path:
    """Write `<stem><suffix>`, `<stem>_instances.png` and, with `types`, `<stem>_types.png`; returns the label map."""
    label_map = nuclei(ids=ids)
    save_image(folder / f"{stem}{suffix}", painted(label_map))
    if types is not None:
        type_map = np.zeros(label_map.shape, dtype=np.uint8)
        for label, type_id in zip(ids, types, strict=True):
            type_map[label_map == label] = type_id
        save_image(folder / f"{stem}_types.png", type_map)
    return save_image(folder / f"{stem}_instances.png", label_map.astype(dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_pairs(tmp_path, suffix, dtype):
    write_pair(tmp_path, "a", suffix, dtype)
    (record,) = list_instance_pairs(tmp_path, mpp=0.5, tissue="Colon")
    tile = record.load()
    np.testing.assert_array_equal(tile.instance_map, nuclei(ids=(1, 2, 7)))
    assert tile.instance_map.dtype == np.int32
    assert tile.image.shape == (40, 50, 3)
    assert (tile.type_map, tile.mpp, tile.tissue, tile.fold) == (None, 0.5, "Colon", None)


def test_ids_beyond_255(tmp_path):
    write_pair(tmp_path, "a", ids=(300, 65535))
    assert set(np.unique(list_instance_pairs(tmp_path)[0].load().instance_map)) == {0, 300, 65535}


def test_label_maps_as_tiff(tmp_path):
    # The form in which `cfsam segment` writes them, so that corrected results can train.
    write_pair(tmp_path, "a").unlink()
    label_map = nuclei(ids=(5, 70_000))
    tifffile.imwrite(
        tmp_path / "a_instances.tif", label_map, photometric="minisblack", compression="zlib", metadata=None
    )
    np.testing.assert_array_equal(list_instance_pairs(tmp_path)[0].load().instance_map, label_map)


def test_folders_of_images_labels_and_types(tmp_path):
    for stem, suffix in (("a", "_instances.tif"), ("b", ".png")):
        save_image(tmp_path / "images" / f"{stem}.jpg", painted(nuclei()))
        save_image(tmp_path / "labels" / f"{stem}{suffix}", nuclei().astype(np.uint16))
    save_image(tmp_path / "types" / "b.png", np.where(nuclei() == 2, 2, nuclei() > 0).astype(np.uint8))
    (tmp_path / "index.csv").write_text("id,fold\na,1\nb,2\n")
    records = list_instance_pairs(tmp_path, type_names=NAMES)
    assert [(record.id, record.fold) for record in records] == [("a", "1"), ("b", "2")]
    untyped, typed = (record.load() for record in records)
    np.testing.assert_array_equal(untyped.instance_map, nuclei())
    assert untyped.type_map is None
    assert types_by_id(typed.instance_map, typed.type_map) == {1: [1], 2: [2], 3: [1]}
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels: no label map for b\.jpg of .*images"):
        list_instance_pairs(tmp_path, type_names=NAMES)


def test_types(tmp_path):
    write_pair(tmp_path, "a", types=(2, 0, 1))
    write_pair(tmp_path, "b")
    typed, untyped = (record.load() for record in list_instance_pairs(tmp_path, type_names=NAMES))
    assert types_by_id(typed.instance_map, typed.type_map) == {1: [2], 2: [-100], 7: [1]}
    assert typed.type_names == NAMES
    assert untyped.type_map is None
    with pytest.raises(ValueError, match=r"a_types\.png.*type_names"):
        list_instance_pairs(tmp_path)
    with pytest.raises(ValueError, match="unknown type ids"):
        list_instance_pairs(tmp_path, type_names={1: "tumour"})[0].load()


def test_index(tmp_path):
    for stem in ("t2", "t10", "t1"):
        write_pair(tmp_path, stem)
    (tmp_path / "index.csv").write_text(
        "﻿id,tissue,mpp,split,scanner\nt10,Liver,0.5,train,X\nt2,,,test,Y\nelsewhere,Lung,0.5,train,Z\n",
        encoding="utf-8",
    )
    records = list_instance_pairs(tmp_path, mpp=0.25, tissue="Colon")
    assert [(record.id, record.tissue, record.mpp, record.fold) for record in records] == [
        ("t1", "Colon", 0.25, None),
        ("t2", "Colon", 0.25, "test"),
        ("t10", "Liver", 0.5, "train"),
    ]
    assert records[2].metadata["scanner"] == "X"
    assert [record.id for record in list_instance_pairs(tmp_path, split="train")] == ["t10"]
    with pytest.raises(ValueError, match=r"no tile of split 'val'.*\['test', 'train'\]"):
        list_instance_pairs(tmp_path, split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,mpp\na,0.5\n", "no column id or name"),
        ("id,mpp\na,fine\n", "mpp of tile 'a' must be a number of micrometres per pixel, got 'fine'"),
        ("id,mpp\na,250\n", "mpp of tile 'a' must be .* got 250.* in nanometres, give 0.25"),
        ("id,mpp\na,nan\n", "mpp of tile 'a' must be .* got nan"),
        ("id,mpp\na,-1\n", "from 0.01 to 10"),
        ("id,mpp\na,nan\n", "from 0.01 to 10"),
        ("name,mpp\na,1\na,2\n", "two rows"),
    ],
)
def test_bad_index(tmp_path, text, message):
    write_pair(tmp_path, "a")
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"index\.csv: .*{message}"):
        list_instance_pairs(tmp_path)


def test_missing_halves_are_named(tmp_path):
    write_pair(tmp_path, "a", types=(1, 1, 1))
    write_pair(tmp_path, "b").unlink()
    with pytest.raises(FileNotFoundError, match=r"no label map <stem>_instances\.png for b\.jpg"):
        list_instance_pairs(tmp_path, type_names=NAMES)
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image for a_instances\.png"):
        list_instance_pairs(tmp_path, type_names=NAMES)
    (tmp_path / "a_instances.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image for a_types\.png"):
        list_instance_pairs(tmp_path, type_names=NAMES)


def test_damaged_files_are_named(tmp_path):
    label = write_pair(tmp_path, "a")
    save_image(label, nuclei(40, 48).astype(np.uint16))
    with pytest.raises(ValueError, match=r"a_instances\.png: the instance map is 40 x 48 but .*a\.jpg is 40 x 50"):
        list_instance_pairs(tmp_path)[0].load()
    save_image(label, painted(nuclei()))
    with pytest.raises(ValueError, match=r"a_instances\.png: a label map has one channel"):
        list_instance_pairs(tmp_path)[0].load()
    truncate(save_image(label, nuclei().astype(np.uint16)))
    with pytest.raises(OSError, match=r"a_instances\.png"):
        list_instance_pairs(tmp_path)[0].load()


def test_a_tile_without_nuclei(tmp_path):
    write_pair(tmp_path, "a", ids=())
    with pytest.raises(ValueError, match=r"a_instances\.png: no nuclei"):
        list_instance_pairs(tmp_path)[0].load()
    assert not list_instance_pairs(tmp_path, allow_empty=True)[0].load().instance_map.any()


def test_wrong_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_instance_pairs(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="folders images and labels"):
        list_instance_pairs(tmp_path)


def test_real_pairs(real_data):
    records = list_instance_pairs(real_data / "dsb2018")
    assert len(records) == 54
    for record in records[:5]:
        assert len(np.unique(record.load().instance_map)) - 1 == int(record.metadata["n_nuclei"])


def test_the_pixel_size_of_the_file_is_taken_unless_one_is_given(tmp_path):
    label_map = nuclei()
    for stem, sides in {"square": (20000, 20000), "wide": (20000, 40000)}.items():
        (tmp_path / stem).mkdir()
        tifffile.imwrite(
            tmp_path / stem / "a.tif",
            painted(label_map),
            photometric="rgb",
            resolution=sides,
            resolutionunit="CENTIMETER",
            metadata=None,
        )
        save_image(tmp_path / stem / "a_instances.png", label_map.astype(np.uint16))
    [record] = list_instance_pairs(tmp_path / "square")
    assert record.mpp == record.load().mpp == 0.5
    assert list_instance_pairs(tmp_path / "square", mpp=0.25)[0].mpp == 0.25
    with pytest.raises(ValueError, match=r"a\.tif: pixels of 0\.5 x 0\.25 micrometres .* are not square"):
        list_instance_pairs(tmp_path / "wide")
    assert list_instance_pairs(tmp_path / "wide", mpp=0.25)[0].mpp == 0.25
