"""The error analysis script and its sheet: counts that are right by construction, crops of the nuclei they name."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.drawing import error_map as error_map_module
from cfsam_hf.drawing.error_map import COLORS, error_map, error_panel
from cfsam_hf.drawing.error_sheet import CONCERNED, PANEL, encode_small, error_examples, error_sheet, evenly
from cfsam_hf.evaluation.errors import classify_nuclei

from ..evaluation.test_errors import NAMES, one_of_each, prediction, tile

CLASSES = ("matched", "loose", "split", "merged", "missed", "spurious", "mistyped")


@pytest.fixture
def folders(tmp_path):
    """Two tiles with one error of each class, as pairs and as somebody's label maps."""
    truth, found = one_of_each()
    tiles, maps = tmp_path / "tiles", tmp_path / "maps"
    tiles.mkdir()
    maps.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((60, 200, 3), 220, np.uint8)).save(tiles / f"{name}.png")
        Image.fromarray(truth.astype(np.uint16)).save(tiles / f"{name}_instances.png")
        Image.fromarray((truth > 0).astype(np.uint8)).save(tiles / f"{name}_types.png")
        Image.fromarray(found.astype(np.uint16)).save(maps / f"{name}.png")
        types = np.where(found == 22, 2, found > 0).astype(np.uint8)
        Image.fromarray(types).save(maps / f"{name}_types.png")
    (tiles / "index.csv").write_text("name,tissue,mpp\na,Colon,0.25\nb,Breast,0.25\n")
    (tmp_path / "split.json").write_text(json.dumps({"dataset": "made", "train": [], "validation": ["a", "b"]}))
    return tmp_path


def test_the_files_hold_the_counts(folders, run_example):
    names = json.dumps({str(i): name for i, name in NAMES.items()})
    item = f"reader=instance_pairs,path={folders / 'tiles'},split={folders / 'split.json'},type_names={names}"
    run_example(
        "studies/error_analysis",
        *("--data", item, "--predictions", str(folders / "maps"), "--output_dir", str(folders / "out")),
    )
    record = json.loads((folders / "out" / "errors.json").read_text())
    assert record["format"] == "cfsam_hf errors 1"
    made = record["results"]["made"]
    assert made["true_nuclei"] == {"matched": 4, "loose": 2, "split": 2, "merged": 4, "missed": 2}
    assert made["predictions"] == {"matched": 4, "loose": 2, "split": 4, "merged": 2, "spurious": 2}
    assert made["confusion"] == {"round": {"long": 2, "round": 2}}
    assert made["mean_iou_of_matches"] == pytest.approx(0.9)
    quality = made["pq_mean_over_images_repaired"]
    assert quality["none"] == pytest.approx(1.8 / 7)
    assert quality["merged"] == pytest.approx(3.6 / 7.5)
    assert list(made["tissues"]) == ["Breast", "Colon"]
    assert made["tissues"]["Colon"]["true_nuclei"]["merged"] == 2
    text = (folders / "out" / "errors.md").read_text()
    shares = "4 (29%) | 2 (14%) | 2 (14%) | 4 (29%) | 2 (14%) | 14 | 4 / 2 | 2 (14%) | 2 (50%)"
    assert f"| made | 2 | 14 | {shares} |" in text
    assert "| made, Breast | 0.257 | +0.223 |" in text
    assert "| **round** | 2 | 2 |" in text
    sheet = folders / "out" / "made_errors.png"
    assert sheet.stat().st_size < 400_000
    with Image.open(sheet) as page:
        assert page.format == "PNG"
        assert page.height > len(CLASSES) * PANEL
    with Image.open(folders / "out" / "made_map.png") as page:
        # Below title and legend, which show every colour.
        pixels = np.array(page.convert("RGB"))[150:]
    for name, color in COLORS.items():
        assert (pixels == color).all(axis=-1).any(), name


def test_the_map_draws_every_prediction_in_the_colour_of_its_class():
    truth, found = one_of_each()
    of_tile, of_system = tile(truth), prediction(found)
    panel = np.array(error_panel(of_tile, of_system, classify_nuclei(of_tile, of_system)))
    head = panel.shape[0] - round(error_map_module.PANEL * truth.shape[0] / truth.shape[1])
    picture = panel[head:]
    scale = picture.shape[1] / truth.shape[1]

    def colors_near(label_map: np.ndarray, nucleus: int) -> set[str]:
        rows, columns = np.nonzero(label_map == nucleus)
        window = picture[
            round(rows.min() * scale) : round((rows.max() + 1) * scale),
            round(columns.min() * scale) : round((columns.max() + 1) * scale),
        ]
        return {name for name, color in COLORS.items() if (window == color).all(axis=-1).any()}

    expected = {21: "matched", 22: "mistyped", 23: "split", 24: "split", 25: "merged", 26: "loose", 27: "spurious"}
    for nucleus, name in expected.items():
        assert name in colors_near(found, nucleus), nucleus
    assert colors_near(truth, 17) == {"missed"}
    page = error_map("made on made", [Image.fromarray(panel)] * 4)
    assert page.width > 3 * panel.shape[1]
    assert page.height > 2 * panel.shape[0]
    # Of a data set with nothing to show the legend is left.
    assert error_map("nothing", []).height < panel.shape[0] + 200


def test_examples_show_the_nuclei_they_are_of():
    truth, found = one_of_each()
    of_tile, of_system = tile(truth), prediction(found)
    examples = error_examples(of_tile, of_system, classify_nuclei(of_tile, of_system), 5)
    concerned = {name: [(set(e.true_ids), set(e.pred_ids), e.caption) for e in examples[name]] for name in CLASSES}
    assert concerned == {
        "matched": [({11}, {21}, "IoU 0.80 · Colon"), ({12}, {22}, "IoU 1.00 · Colon")],
        "loose": [({16}, {26}, "IoU 0.24 · Colon")],
        "split": [({13}, {23, 24}, "2 for one · Colon")],
        "merged": [({14, 15}, {25}, "one for 2 · Colon")],
        "missed": [({17}, set(), "round · Colon")],
        "spurious": [(set(), {27}, "round · Colon")],
        "mistyped": [({12}, {22}, "round > long · Colon")],
    }
    for name in CLASSES:
        for example in examples[name]:
            assert example.image.shape[:2] == example.truth.shape == example.found.shape
            assert example.true_ids <= set(np.unique(example.truth).tolist())
            assert example.pred_ids <= set(np.unique(example.found).tolist())


def test_the_sheet_outlines_what_is_concerned_on_its_side():
    truth, found = one_of_each()
    of_tile, of_system = tile(truth), prediction(found)
    examples = error_examples(of_tile, of_system, classify_nuclei(of_tile, of_system), 5)
    counts = {"missed": "1 (14%) of 7"}
    for name, sides in (("missed", (True, False)), ("spurious", (False, True)), ("loose", (True, True))):
        page = np.array(error_sheet("made", {name: examples[name]}, counts, columns=2))
        yellow = (page == CONCERNED).all(axis=-1)
        left, right = yellow[:, 10 : 10 + PANEL], yellow[:, 12 + PANEL : 12 + 2 * PANEL]
        assert (left.any(), right.any()) == sides, name
    empty = error_sheet("nothing", {}, {})
    assert empty.height < PANEL


def test_a_picture_is_encoded_under_its_limit_with_its_colours_as_far_as_they_go():
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    noise[:, :20] = CONCERNED
    large, small = (encode_small(Image.fromarray(noise), largest) for largest in (10**6, 4_000))
    assert len(small) < 4_000 < len(large)
    for encoded, colors in ((large, 256), (small, 32)):
        read = Image.open(io.BytesIO(encoded)).convert("RGB")
        assert 4 < len(read.getcolors()) <= colors
        assert (np.array(read)[:, :20] == CONCERNED).all()


def test_examples_at_the_border_come_last():
    truth = np.zeros((100, 300), np.int32)
    truth[48:52, 2:8], truth[48:52, 148:152] = 1, 2
    of_tile, of_system = tile(truth), prediction(np.zeros_like(truth))
    [example] = error_examples(of_tile, of_system, classify_nuclei(of_tile, of_system), 5)["missed"]
    assert example.true_ids == {2}
    assert example.truth[42:46, 42:46].all()
    truth[truth == 2] = 0
    [example] = error_examples(of_tile, of_system, classify_nuclei(of_tile, of_system), 5)["missed"]
    assert example.true_ids == {1}
    assert example.image.shape == (88, 88, 3)


def test_evenly():
    assert evenly(range(10), 3) == [1, 5, 8]
    assert evenly([1, 2], 3) == [1, 2]


def test_a_row_takes_from_every_tile_before_it_takes_twice(load_example):
    spread = load_example("studies/error_analysis").spread
    assert spread([["a1", "a2", "a3"], [], ["b1"]]) == ["a2", "b1", "a3", "a1"]
    assert spread([[f"{tile}{i}" for i in "123"] for tile in "abcdefghij"]) == ["b2", "d2", "f2", "h2", "j2"]
