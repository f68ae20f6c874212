"""Why: HoVer-Net, CellViT and TIAToolbox save nuclei in JSON of their own; every contour and type must be read."""

import json

import pytest

from cfsam_hf.data.readers.qupath import list_qupath
from tests.data_cases import nuclei, painted, save_image, types_by_id

SQUARE, OTHER = [[2, 2], [6, 2], [6, 7], [2, 7]], [[20, 20], [25, 20], [25, 24], [20, 24]]


def nucleus(contour, **members) -> dict:
    return {"bbox": [[2, 2], [7, 6]], "centroid": [4, 4], "contour": contour, "type_prob": 0.9} | members


def load(folder, content):
    save_image(folder / "a.png", painted(nuclei()))
    (folder / "a.json").write_text(json.dumps(content))
    return list_qupath(folder)[0].load()


@pytest.mark.parametrize("member", [None, "nuc"])
def test_nuclei_by_their_ids(tmp_path, member):
    """HoVer-Net's, and TIAToolbox's without the member. Type 0 is the background: no type is known."""
    content = {"1": nucleus(SQUARE, type=2), "2": nucleus(OTHER, type=0), "7": nucleus(SQUARE[:2], type=1)}
    tile = load(tmp_path, content if member is None else {"mag": 40, member: content})
    assert tile.type_names == {1: "2"}
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [-100]}
    assert tile.instance_map[2:7, 2:6].all()
    assert tile.notes == ("1 nucleus without area left out",)


def test_cells_of_cellvit(tmp_path):
    names = {"0": "Background", "1": "Neoplastic", "2": "Inflammatory"}
    cells = [nucleus(SQUARE, type=2), nucleus(OTHER, type=1)]
    tile = load(tmp_path, {"wsi_metadata": {}, "type_map": names, "cells": cells})
    assert tile.type_names == {1: "Inflammatory", 2: "Neoplastic"}
    assert types_by_id(tile.instance_map, tile.type_map) == {1: [1], 2: [2]}


def test_nuclei_without_types(tmp_path):
    tile = load(tmp_path, {"mag": None, "nuc": {"1": nucleus(SQUARE, type=None)}})
    assert (tile.instance_map.max(), tile.type_map) == (1, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nuc": {"5": nucleus("x")}}, "nucleus '5' cannot be used .a ring must be a list"),
        ({"nuc": {"5": nucleus(SQUARE), "6": [1]}}, "nucleus '6' cannot be used .a nucleus is an object"),
        ({"cells": [nucleus(SQUARE, type=True)]}, "cell 0 cannot be used .its class must be text"),
        ({"nuc": {"5": {"centroid": [1, 1]}}}, "not a file of outlines that is read here"),
        ({"objects": [], "size": {}}, r"its members are \['objects', 'size'\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        load(tmp_path, content)
