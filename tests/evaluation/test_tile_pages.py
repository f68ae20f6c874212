"""Why: the page of worst and best tiles must show the right tiles, and each nucleus in the colour of its class."""

import numpy as np
import pytest

from cfsam_hf.data import UNKNOWN_TYPE, Tile
from cfsam_hf.drawing.worst_and_best import FOUND, INVENTED, MISSED, OTHER_TYPE, UNTYPED
from cfsam_hf.evaluation import Prediction, ShownTile, ranked_tiles, score_tile, tiles_page
from cfsam_hf.evaluation.tile_pages import captions, differences

NAMES = {1: "round", 2: "long"}


def blocks(*ids):
    """Blocks of 12 x 12 pixels in the columns of their ids."""
    label_map = np.zeros((40, 100), np.int32)
    for nucleus in ids:
        label_map[10:22, 20 * nucleus - 12 : 20 * nucleus] = nucleus
    return label_map


def tile(truth, name="a", **fields):
    types = np.where(truth > 0, 1, 0).astype(np.int16)
    fields = {"mpp": 0.25, "tissue": "Colon", "type_names": NAMES} | fields
    return Tile(np.full((*truth.shape, 3), 200, np.uint8), truth, types, name, **fields)


def prediction(*ids, types):
    return Prediction(blocks(*ids), dict(zip(ids, types, strict=True)), NAMES, type_colors={1: (250, 0, 0)})


def shown(*ids, types=(1, 2, 1), truth=(1, 2, 3)):
    of_tile, found = tile(blocks(*truth)), prediction(*ids, types=types)
    return ShownTile(score_tile(of_tile, found), of_tile, found)


def test_each_nucleus_has_its_class():
    row = shown(1, 2, 4)
    found = differences(row.tile, row.prediction, types_compared=True)
    assert (found.found, found.other_type, found.invented, found.missed) == ({1}, {2}, {4}, {3})
    # Where types are not compared, there is no other type.
    for of_system in (row.prediction, Prediction(row.prediction.instance_map)):
        untyped = differences(row.tile, of_system, types_compared=False)
        assert (untyped.found, untyped.other_type) == ({1, 2}, None)
    # What nobody annotated has no class.
    hidden = tile(blocks(1, 2, 3), annotated=np.arange(100) < 60 + np.zeros((40, 1)))
    assert differences(hidden, row.prediction, types_compared=True).invented == set()


def test_what_matches_a_nucleus_of_unknown_type_is_found():
    of_tile = tile(blocks(1, 2, 3))
    of_tile.type_map[of_tile.instance_map == 2] = UNKNOWN_TYPE
    found = prediction(1, 2, 3, types=(1, 2, 2))
    classes = differences(of_tile, found, types_compared=True)
    assert (classes.found, classes.other_type) == ({1, 2}, {3})
    page = tiles_page("x", [ShownTile(score_tile(of_tile, found), of_tile, found)], [])
    assert (np.array(page) == UNTYPED).all(axis=-1).sum() > 50


def test_the_page_shows_every_colour_and_its_captions():
    page = np.array(tiles_page("mine on consep", [shown(1, 2, 4)], [shown(1, 2, 3)]))
    height = page.shape[0]
    for color in (FOUND, OTHER_TYPE, INVENTED, MISSED, (250, 0, 0)):
        assert (page[: height // 2] == color).all(axis=-1).sum() > 50, color
    lines = captions(shown(1, 2, 4))
    assert lines[0] == "a · Colon · 0.25 um per pixel"
    assert lines[1].startswith("PQ 0.67 · AJI 0.50")
    assert "F1 round" in lines[1]


def test_nuclei_without_types_are_drawn():
    of_tile, found = tile(blocks(1, 2)), Prediction(blocks(1))
    page = np.array(tiles_page("x", [ShownTile(score_tile(of_tile, found), of_tile, found)], []))
    assert (page == UNTYPED).all(axis=-1).sum() > 50


@pytest.mark.parametrize("size", [(1, 1), (30, 1200)])
def test_extreme_and_empty_tiles_are_drawn(size):
    of_tile, found = tile(np.zeros(size, np.int32), mpp=None, tissue=None), Prediction(np.zeros(size, np.int32))
    page = tiles_page("x", [ShownTile(score_tile(of_tile, found), of_tile, found)], [])
    assert page.width < 3 * 1000


def test_worst_and_best_tiles():
    truth = blocks(1, 2, 3, 4)
    tiles = [score_tile(tile(truth, str(n)), Prediction(blocks(*range(1, n + 1)))) for n in (3, 1, 4, 2)]
    tiles.append(score_tile(tile(truth * 0, "nothing"), Prediction(truth * 0)))
    assert ranked_tiles(tiles, 1) == ([1], [2])
    assert ranked_tiles(tiles, 3) == ([1, 3], [2, 0])
    assert ranked_tiles(tiles[:1], 3) == ([0], [])
    assert ranked_tiles(tiles[4:], 3) == ([], [])
