"""Why: these pictures guide the search for errors, so each must show the right nuclei in the right colour."""

import io

import numpy as np
from PIL import Image

from cfsam_hf.drawing.error_map import PANEL as MAP_PANEL
from cfsam_hf.drawing.error_sheet import CONCERNED, PANEL
from cfsam_hf.evaluation.error_pictures import COLORS, error_examples, error_map, error_panel, error_sheet, evenly
from cfsam_hf.evaluation.errors import classify_nuclei

from .test_errors import one_of_each, prediction, tile

CLASSES = ("matched", "loose", "split", "merged", "missed", "spurious", "mistyped")


def decoded(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_map_draws_every_prediction_in_the_colour_of_its_class():
    truth, found = one_of_each()
    of_tile, of_system = tile(truth), prediction(found)
    panel = np.array(error_panel(of_tile, of_system, classify_nuclei(of_tile, of_system)))
    head = panel.shape[0] - round(MAP_PANEL * truth.shape[0] / truth.shape[1])
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
    page = decoded(error_map("made on made", [Image.fromarray(panel)] * 4))
    assert page.shape[1] > 3 * panel.shape[1]
    assert page.shape[0] > 2 * panel.shape[0]
    # Without panels the title and the legend remain.
    assert decoded(error_map("nothing", [])).shape[0] < panel.shape[0] + 200


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
        page = decoded(error_sheet("made", {name: examples[name]}, counts, columns=2))
        yellow = (page == CONCERNED).all(axis=-1)
        left, right = yellow[:, 10 : 10 + PANEL], yellow[:, 12 + PANEL : 12 + 2 * PANEL]
        assert (left.any(), right.any()) == sides, name
    assert decoded(error_sheet("nothing", {}, {})).shape[0] < PANEL


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
