"""Why: `cfsam data` runs on gigabytes; it must report all problems at once and never write half of its output."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.commands import terminal as cli
from cfsam_hf.data import READERS, list_tiles

from ..data.readers.test_consep import write_tile
from ..data_cases import aperio_xml, nuclei, painted, save_image, truncate


def run(*arguments) -> int:
    return cli.main(["data", *map(str, arguments)])


@pytest.fixture
def consep(tmp_path):
    """Six training tiles and two of the test split, each another picture, with all seven raw types."""
    for number in range(8):
        split = "Train" if number < 6 else "Test"
        ids = range(number + 1, number + 8)
        write_tile(tmp_path / "CoNSeP" / split, f"{split.lower()}_{number}", range(1, 8), label_map=nuclei(ids=ids))
    return tmp_path / "CoNSeP"


@pytest.fixture
def split_file(tmp_path):
    path = tmp_path / "split.json"
    parts = {"train": ["train_0", "train_1"], "validation": ["train_2"]}
    path.write_text(json.dumps({"dataset": "consep", **parts}))
    return path


def test_info(consep, tmp_path, capsys):
    counts, sheet = tmp_path / "new" / "counts.json", tmp_path / "sheet.png"
    assert run("info", "consep", consep, "--json", counts, "--sheet", sheet, "--tiles", 4) == 0
    out = capsys.readouterr().out
    found = json.loads(counts.read_text())
    assert (found["dataset"], found["tiles"], found["nuclei"]) == ("consep", 8, 56)
    assert found["folds"]["test"]["types"] == {
        "miscellaneous": 2,
        "inflammatory": 2,
        "epithelial": 4,
        "spindle-shaped": 6,
    }
    for words in ("Tiles        8, 0 of them", "Nuclei       56;", "0.25 µm", "50 x 40 px", "4 of 8 tiles drawn"):
        assert words in out
    assert [line.split() for line in out.splitlines() if line.startswith(("train", "epithelial"))] == [
        ["epithelial", "16", "28.6", "%", "8", "1.3", "to", "1.3,", "median", "1.3", "µm"],
        ["train", "6", "42", "6", "6", "12", "18"],
    ]
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 480


def test_what_is_printed_in_a_file(consep, tmp_path, capsys):
    file = tmp_path / "new" / "counts.txt"
    for _ in range(2):
        assert run("info", "consep", consep, "-o", file) == 0
        out = capsys.readouterr().out
        assert out == f"{file.read_text(encoding='utf-8')}the text above -> {file}\n"
    assert "0.25 µm" in out
    assert [path.name for path in file.parent.iterdir()] == ["counts.txt"]


def test_info_of_a_split_file(consep, split_file, tmp_path, capsys):
    assert run("info", "consep", consep, "--split", split_file, "--json", tmp_path / "counts.json") == 0
    folds = json.loads((tmp_path / "counts.json").read_text())["folds"]
    assert {name: group["tiles"] for name, group in folds.items()} == {"train": 2, "validation": 1}
    assert "test_6" not in capsys.readouterr().out


def test_options_of_the_reader(consep, tmp_path, capsys):
    assert run("info", "consep", consep, "--option", "types=raw", "--option", "mpp=0.5") == 0
    out = capsys.readouterr().out
    assert "fibroblast" in out
    assert "0.5 µm" in out
    save_image(tmp_path / "own" / "a.png", painted(nuclei()))
    save_image(tmp_path / "own" / "a_instances.png", nuclei().astype(np.uint16))
    save_image(tmp_path / "own" / "a_types.png", (nuclei() > 0).astype(np.uint8))
    assert run("info", "instance_pairs", tmp_path / "own", "--option", 'type_names={"1": "tumour bud"}') == 0
    assert "tumour bud" in capsys.readouterr().out


def test_a_clean_data_set(consep, capsys):
    assert run("check", "consep", consep) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"consep {consep}: 8 of 8 tiles read, 56 nuclei; 0 empty tiles; overlaps in 0 tiles (0 nuclei, 0 hidden, 0 "
        "outlines without a pixel)",
        "  Size         50 x 40 px",
        "  Pixel size   0.25 µm",
        "  Annotated    100 % of the pixels",
        "  Diameter     1.3 to 1.3, median 1.3 µm",
        "  Types        miscellaneous: 8, inflammatory: 8, epithelial: 16, spindle-shaped: 24",
        f"note: consep {consep}: the median diameter of nuclei is 5.0 px, 1.3 um at 0.25 um per pixel, in 8 tiles; "
        "nuclei have 4 to 20 um: is mpp right, are the coordinates pixels, are the outlines nuclei?",
        "no problems",
    ]
    assert captured.err == ""


def test_check_lists_all_that_is_wrong(consep, split_file, capsys):
    train = consep / "Train"
    (train / "Images" / "train_3.png").unlink()
    (train / "Labels" / "train_4.mat").unlink()
    truncate(train / "Labels" / "train_0.mat", 0.2)
    save_image(train / "Images" / "train_1.png", painted(nuclei(40, 48)))
    (consep / "Test" / "Images" / "test_6.png").write_bytes((train / "Images" / "train_5.png").read_bytes())
    split_file.write_text(split_file.read_text().replace("train_2", "train_3"))
    assert run("check", "consep", consep, "--split", split_file) == 1
    out = capsys.readouterr().out.splitlines()
    problems = [line for line in out if line.startswith("problem: ")]
    for words in (
        "no image for train_3.mat",
        "no .mat file for train_4.png",
        "train_0.mat: not a MATLAB file",
        "train_1.mat: the instance map is 40 x 50 but",
        "train_5.png and " + str(consep / "Test" / "Images" / "test_6.png") + ": the same image",
        "train_3 of the split are not among",
    ):
        assert sum(words in problem for problem in problems) == 1, words
    assert len(problems) == 6
    assert out[-1] == "6 problems"
    assert "4 of 6 tiles read" in out[0]


def test_check_draws_a_sheet_and_prints_a_screen_of_notes(tmp_path, capsys):
    for number in range(30):
        save_image(tmp_path / "own" / f"t{number}.png", painted(nuclei(ids=range(number + 1, number + 4))))
        save_image(tmp_path / "own" / f"t{number}_instances.png", np.zeros((40, 50), dtype=np.uint8))
    save_image(tmp_path / "own" / "t30.png", painted(nuclei(ids=range(50, 53))))
    save_image(tmp_path / "own" / "t30_instances.png", nuclei().astype(np.uint8))
    options = ("--option", "allow_empty=true", "--sheet", tmp_path / "sheet.png", "--tiles", 4)
    assert run("check", "instance_pairs", tmp_path / "own", *options) == 0
    out = capsys.readouterr().out
    assert out.count("note: ") == 20
    assert "10 more notes; --all-notes prints them" in out
    assert "4 of 31 tiles drawn" in out
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.format == "PNG"
    assert run("check", "instance_pairs", tmp_path / "own", *options, "--all-notes") == 0
    assert capsys.readouterr().out.count("note: ") == 30
    assert run("check", "instance_pairs", tmp_path / "own", "--sheet", tmp_path / "sheet.gif") == 1


def test_leaks(tmp_path, capsys):
    def tile(folder, stem, first_id):
        label_map = nuclei(ids=range(first_id, first_id + 3))
        save_image(tmp_path / folder / f"{stem}.tif", painted(label_map))
        (tmp_path / folder / f"{stem}.xml").write_text(aperio_xml({"": {1: [(1, 1), (9, 1), (9, 9), (1, 9)]}}))

    tile("a", "TCGA-18-5592-01Z-00-DX1", 1)
    tile("a", "TCGA-HE-7128-01Z-00-DX1", 4)
    tile("b", "TCGA-18-5592-01Z-00-DX2", 7)
    tile("b", "anonymous", 4)
    assert run("check", "monuseg", tmp_path / "a", "--against", "monuseg", tmp_path / "b") == 1
    out = capsys.readouterr().out
    assert "problem: leak: patient TCGA-18-5592 is in monuseg" in out
    assert "anonymous.tif: the same image in monuseg" in out
    assert "2 problems" in out
    assert run("check", "monuseg", tmp_path / "a", "--against", "monuseg", tmp_path / "a") == 1
    assert "2 problems" in capsys.readouterr().out
    split = tmp_path / "split.json"
    parts = {"train": ["TCGA-18-5592-01Z-00-DX1"], "validation": ["TCGA-18-5592-01Z-00-DX2"]}
    split.write_text(json.dumps({"dataset": "monuseg", **parts}))
    assert run("check", "monuseg", tmp_path, "--split", split) == 1
    assert "leak: patient TCGA-18-5592 is in train (" in capsys.readouterr().out
    parts = {"train": [], "tuning": ["TCGA-18-5592-01Z-00-DX1"], "validation": ["TCGA-18-5592-01Z-00-DX2"]}
    split.write_text(json.dumps({"dataset": "monuseg", **parts}))
    assert run("check", "monuseg", tmp_path, "--split", split) == 1
    assert re.search(r"TCGA-18-5592 is in tuning \(.*\) and in validation", capsys.readouterr().out)


def test_convert_and_read_back(consep, tmp_path, capsys):
    assert run("convert", "consep", consep, "-o", tmp_path / "out", "--shard-size", "0.001KB") == 0
    out = capsys.readouterr().out
    assert out.startswith("8 tiles, ")
    assert "train-00005-of-00006.parquet" in out
    assert len(list((tmp_path / "out").iterdir())) == 8
    for one, other in zip(list_tiles("consep", consep), list_tiles("parquet", tmp_path / "out"), strict=True):
        one, other = one.load(), other.load()
        assert (one.id, one.type_names) == (other.id, other.type_names)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.type_map, other.type_map)
    assert run("info", "parquet", tmp_path / "out") == 0
    assert run("check", "parquet", tmp_path / "out", "--against", "consep", consep) == 1
    assert "tile train_0 is in parquet" in capsys.readouterr().out


def test_a_conversion_that_fails_leaves_nothing(consep, tmp_path, capsys):
    truncate(consep / "Train" / "Images" / "train_5.png")
    assert run("convert", "consep", consep, "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "train_5.png" in err
    assert "damaged" in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("action", ["info", "check", "convert"])
@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [
        ("ConSep", "CoNSeP", "unknown data set 'ConSep'; known: coco, conic, consep"),
        ("consep", "nowhere", "nowhere: no such folder"),
        ("consep", "empty", "empty: expected the layout {Train,Test}"),
        ("monuseg", "empty", "empty: expected the folders 'Tissue Images'"),
        ("parquet", "empty", "empty: expected .parquet files"),
    ],
)
def test_bad_input_has_one_line(action, name, folder, words, consep, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    more = ["-o", tmp_path / "out"] if action == "convert" else []
    assert run(action, name, tmp_path / folder, *more) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("cfsam: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(consep, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for arguments, words in (
        (["convert", "consep", consep, "-o", tmp_path / "file"], "is a file, where a folder is needed"),
        (["convert", "consep", consep, "-o", tmp_path / "file" / "x"], "cannot write here"),
        (["info", "consep", consep, "--sheet", tmp_path / "file" / "a.png"], "is a file"),
        (["info", "consep", consep, "--json", tmp_path / "file" / "a.json"], "is a file"),
        (["info", "consep", consep, "-o", tmp_path / "file" / "a.txt"], "is a file"),
        (["info", "consep", consep, "-o", consep], "is a folder, where a file is needed"),
        (["info", "consep", consep, "--sheet", tmp_path / "a.gif"], "must end in .png"),
        (["info", "consep", consep, "--option", "mpp"], "write KEY=VALUE"),
        (["info", "consep", consep, "--option", "mp=1"], "no option 'mp'; it has types, stored_types, mpp"),
        (["info", "consep", consep, "--split", tmp_path / "file"], "not a split file"),
    ):
        assert run(*arguments) == 1, arguments
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CoNSeP", "file"]


@pytest.mark.parametrize("size", ["0", "-1MB", "x", "nanGB", "5TB"])
def test_sizes_that_are_none(size, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("convert", "consep", tmp_path, "-o", tmp_path / "out", "--shard-size", size)
    assert "shard-size" in capsys.readouterr().err


def test_progress_on_a_terminal(consep, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("info", "consep", consep) == 0
    assert "\r3 of 8 tiles" in capsys.readouterr().err


def test_real_data(real_data, capsys):
    monuseg = real_data / "monuseg" / "MoNuSegTrainingData"
    assert run("check", "monuseg", monuseg) == 0
    out = capsys.readouterr().out
    assert out.count("note: ") == 2
    assert "93 nuclei, 0 hidden" in out


def test_help_names_every_data_set(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("info", "--help")
    words = capsys.readouterr().out.replace("\n", " ").replace(",", " ").split()
    assert set(READERS) <= set(words)
