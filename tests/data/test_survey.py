"""Why: what `cfsam data info` counts goes into papers; every figure is checked against tiles counted by hand."""

import json

import numpy as np
import pytest

from cfsam_hf.data.polygons import Overlaps
from cfsam_hf.data.records import Tile
from cfsam_hf.data.survey import NO_GROUP, TileFacts, survey

NAMES = {1: "tumour", 2: "stroma"}


def facts(name: str, types, areas, **fields) -> TileFacts:
    fields = {"fold": "train", "tissue": "Colon", "mpp": 0.5, "size": (50, 40)} | fields
    return TileFacts(id=name, types=np.array(types, dtype=int), areas=np.array(areas, dtype=int), **fields)


@pytest.fixture
def tiles() -> list[TileFacts]:
    circle = round(np.pi * 100)  # a circle of 20 px
    return [
        facts("a", [1, 1, 2], [circle, circle, 4 * circle]),
        facts("b", [2], [circle], tissue=None, overlaps=Overlaps(2, 5, 1, 0)),
        facts("c", [], [], fold="test", size=(100, 80), annotated=0.5, overlaps=Overlaps(4, 6, 0, 3)),
    ]


def test_counts(tiles):
    found = survey(tiles, NAMES)
    assert (found["tiles"], found["nuclei"], found["empty_tiles"]) == (3, 4, 1)
    assert found["nuclei_per_tile"] == {"least": 0, "median": 1.0, "most": 3}
    assert found["sizes"] == {"50 x 40": 2, "100 x 80": 1}
    assert found["mpp"] == {"0.5": 3}
    assert found["overlaps"] == {"nuclei": 6, "pixels": 11, "hidden": 1, "undrawn": 3}
    # 2,000 + 2,000 + 8,000 / 2 of 12,000 pixels
    assert found["annotated_share"] == pytest.approx(8 / 12)
    assert found["folds"] == {
        "test": {"tiles": 1, "nuclei": 0, "types": {"tumour": 0, "stroma": 0}},
        "train": {"tiles": 2, "nuclei": 4, "types": {"tumour": 2, "stroma": 2}},
    }
    assert {name: group["tiles"] for name, group in found["tissues"].items()} == {"Colon": 2, NO_GROUP: 1}
    json.dumps(found, allow_nan=False)


def test_diameters_are_of_circles_in_micrometres(tiles):
    found = survey(tiles, NAMES)
    assert found["diameter_unit"] == "um"
    tumour = found["types"]["tumour"]
    assert (tumour["nuclei"], tumour["share"], tumour["tiles"]) == (2, 0.5, 1)
    assert tumour["diameter"] == dict.fromkeys(("p5", "median", "p95"), pytest.approx(10, abs=0.01))
    assert found["types"]["stroma"]["tiles"] == 2
    assert found["types"]["stroma"]["diameter"]["median"] == pytest.approx(15, abs=0.01)
    unknown = survey([*tiles, facts("d", [1], [314], mpp=None)], NAMES)
    assert unknown["diameter_unit"] == "px"
    assert unknown["mpp"] == {"0.5": 3, "unknown": 1}
    assert unknown["diameter"]["median"] == pytest.approx(20, abs=0.02)


def test_nuclei_without_a_type_have_a_line_where_there_are_types():
    found = survey([facts("a", [1, 0], [9, 9])], NAMES)
    assert {name: of_type["nuclei"] for name, of_type in found["types"].items()} == {
        "tumour": 1,
        "stroma": 0,
        "type unknown": 1,
    }
    assert found["types"]["stroma"]["diameter"] is None
    assert survey([facts("a", [0, 0], [9, 9])], {})["types"] == {}


def test_a_data_set_without_nuclei():
    found = survey([facts("a", [], [])], NAMES)
    assert (found["nuclei"], found["diameter"], found["types"]["tumour"]["share"]) == (0, None, 0.0)


def test_facts_of_a_tile():
    label_map = np.zeros((4, 6), dtype=np.int32)
    label_map[0, :3] = 5
    annotated = np.ones((4, 6), dtype=bool)
    annotated[:, 3:] = False
    tile = Tile(np.zeros((4, 6, 3), np.uint8), label_map, None, "t", "Liver", 0.25, "2", annotated=annotated)
    made = TileFacts.of(tile)
    assert (made.id, made.fold, made.tissue, made.mpp, made.size) == ("t", "2", "Liver", 0.25, (6, 4))
    assert (made.areas.tolist(), made.types.tolist(), made.annotated) == ([3], [0], 0.5)
