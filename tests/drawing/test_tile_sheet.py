"""Why: people judge a data set by its sheet; it must show all kinds of tiles and the right colours of nuclei."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.records import UNKNOWN_TYPE, Tile, TileRecord
from cfsam_hf.data.true_nuclei import UNKNOWN_TYPE_COLOR
from cfsam_hf.drawing.tile_sheet import CAPTION, CELL, GAP, TEXT, choose_tiles, tile_sheet
from cfsam_hf.model.configuration_cfsam import default_type_color, rgb

HEAD = 3 * TEXT


def records(**groups: int) -> list[TileRecord]:
    """So many tiles of each tissue, mixed."""
    made = [
        TileRecord("own", f"{tissue}{number}", Path("a"), Path("b"), decode=lambda _: None, tissue=tissue)
        for tissue, count in groups.items()
        for number in range(count)
    ]
    return sorted(made, key=lambda record: record.id[::-1])


def tile(types=(1, 2), height=60, width=60, **fields) -> Tile:
    label_map = np.zeros((height, width), dtype=np.int32)
    label_map[5:25, 5:25], label_map[35:55, 35:55] = 1, 2
    type_map = np.array([0, *types], dtype=np.int16)[label_map]
    image = np.full((height, width, 3), 230, dtype=np.uint8)
    return Tile(image, label_map, type_map, "t", type_names={1: "tumour", 2: "stroma"}, **fields)


def has_color(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels.astype(int) - color).max(axis=-1) < 12).any())


@pytest.mark.parametrize(
    ("most", "expected"),
    [(3, {"a": 1, "b": 1, "c": 1}), (7, {"a": 2, "b": 1, "c": 4}), (9, {"a": 2, "b": 1, "c": 6}), (1, {"c": 1})],
)
def test_every_tissue_has_its_share(most, expected):
    available = records(a=2, b=1, c=40)
    chosen = choose_tiles(available, most)
    counts = Counter(record.tissue for record in chosen)
    assert counts == expected if most > 1 else sum(counts.values()) == 1
    assert [record.id for record in chosen] == [record.id for record in available if record in chosen]


def test_tiles_are_spread_over_the_listing():
    chosen = choose_tiles(records(c=40)[:40], 4)
    assert [record.id for record in chosen] == [records(c=40)[place].id for place in (5, 15, 25, 35)]
    assert len(choose_tiles(records(a=3), 24)) == 3


def test_contours_have_the_colours_of_their_types():
    picture = np.asarray(tile_sheet([tile(), tile(types=(UNKNOWN_TYPE, UNKNOWN_TYPE))], "title"))
    first, second = (picture[HEAD : HEAD + CELL, x : x + CELL] for x in (GAP, 2 * GAP + CELL))
    half = CELL // 2
    assert has_color(first[:half, :half], rgb(default_type_color(1)))
    assert not has_color(first[:half, :half], rgb(default_type_color(2)))
    assert has_color(first[half:, half:], rgb(default_type_color(2)))
    assert has_color(second, UNKNOWN_TYPE_COLOR)
    assert not has_color(second, rgb(default_type_color(1)))
    legend = picture[HEAD + CELL + CAPTION :]
    for color in (rgb(default_type_color(1)), rgb(default_type_color(2)), UNKNOWN_TYPE_COLOR):
        assert has_color(legend, color)


def test_what_is_not_annotated_is_grey():
    annotated = np.zeros((60, 60), dtype=bool)
    annotated[:, :30] = True
    picture = np.asarray(tile_sheet([tile(annotated=annotated)], "title"))
    left, right = picture[HEAD + CELL // 2, GAP + 10], picture[HEAD + 10, GAP + CELL - 10]
    assert (left.tolist(), right.max() < 180) == ([230, 230, 230], True)


def test_rows_are_as_high_as_their_highest_tile():
    wide = tile(height=60, width=120)
    low = tile_sheet([wide] * 2, "title")
    assert low.height < tile_sheet([wide, tile()], "title").height
    assert tile_sheet([wide] * 9, "t").width == 3 * CELL + 4 * GAP


def test_no_tiles_no_sheet():
    with pytest.raises(ValueError, match="at least one tile"):
        tile_sheet([], "title")


def test_any_size_and_name():
    tiny = Tile(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.int32), None, "Ünë \n" * 30, "Bile-duct", 0.25, "1")
    huge = Tile(np.zeros((3, 900, 3), np.uint8), np.zeros((3, 900), np.int32), None, "x")
    assert tile_sheet([tiny, huge], "name " * 60).width == 2 * CELL + 3 * GAP
