"""Why: a check must list every problem at once where a reader stops at the first, with the same code."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data import list_tiles
from cfsam_hf.data.problems import collecting_problems, is_collecting, noted, refuse
from cfsam_hf.data.readers.files import pair_files
from tests.data_cases import aperio_xml, nuclei, painted, save_image


def test_raising_and_noting():
    with pytest.raises(KeyError, match="first"):
        refuse(KeyError("first"))
    with collecting_problems() as problems:
        assert is_collecting()
        assert not noted()
        refuse(ValueError("one"))
        refuse(OSError("two"))
        assert noted()
        with collecting_problems() as inner:
            refuse(ValueError("inner"))
    assert (problems, inner) == (["one", "two"], ["inner"])
    assert not is_collecting()


def test_collecting_ends_with_an_exception():
    with pytest.raises(RuntimeError, match="unexpected"), collecting_problems():
        raise RuntimeError("unexpected")
    assert not is_collecting()


def test_unpaired_files_have_a_line_each():
    images = {stem: Path(f"{stem}.png") for stem in ("a", "b", "c")}
    labels = {stem: Path(f"{stem}.mat") for stem in ("b", "d")}
    with collecting_problems() as problems:
        pairs = pair_files(images, labels, ".mat file", Path("Images"), Path("Labels"))
    assert pairs == {"b": (Path("b.png"), Path("b.mat"))}
    assert problems == [
        "Labels: no .mat file for a.png of Images",
        "Labels: no .mat file for c.png of Images",
        "Images: no image for d.mat of Labels",
    ]


def test_listing_goes_on_without_what_is_wrong(tmp_path):
    for number in range(4):
        save_image(tmp_path / f"t{number}.png", painted(nuclei()))
        save_image(tmp_path / f"t{number}_instances.png", nuclei().astype(np.uint16))
    (tmp_path / "index.csv").write_text("id,mpp\nt0,0.25\nt0,0.5\nt1,fine\nt2,0.5\n")
    (tmp_path / "t3.png").unlink()
    with collecting_problems() as problems:
        records = list_tiles("instance_pairs", tmp_path)
    assert [(record.id, record.mpp) for record in records] == [("t0", 0.5), ("t1", None), ("t2", 0.5)]
    assert len(problems) == 3
    for problem, words in zip(
        problems, ("no image for t3_instances.png", "tile 't0' has two rows", "'fine'"), strict=True
    ):
        assert words in problem
    with pytest.raises(FileNotFoundError, match=r"t3_instances\.png"):
        list_tiles("instance_pairs", tmp_path)


def test_tiles_that_occur_twice_are_kept_once(tmp_path):
    for folder in ("one", "two"):
        save_image(tmp_path / folder / "TCGA-A7-A13E-01Z-00-DX1.tif", painted(nuclei()))
        (tmp_path / folder / "TCGA-A7-A13E-01Z-00-DX1.xml").write_text(aperio_xml({"": {1: [(1, 1), (9, 1), (9, 9)]}}))
    with collecting_problems() as problems:
        records = list_tiles("monuseg", tmp_path)
    assert [record.image_path.parent.name for record in records] == ["one"]
    assert len(problems) == 1
    assert "occurs twice" in problems[0]


@pytest.mark.parametrize("name", ["consep", "monuseg", "kumar", "cpm15", "tnbc", "instance_pairs", "qupath"])
def test_a_folder_with_nothing_in_it_has_one_line(name, tmp_path):
    with collecting_problems() as problems:
        assert list_tiles(name, tmp_path) == []
    assert len(problems) == 1
    assert str(tmp_path) in problems[0]
