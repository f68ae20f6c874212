"""Why: the page must draw each kind of difference in its own colour, and tiles of any size."""

import numpy as np
import pytest

from cfsam_hf.drawing.outlines import ColoredNuclei
from cfsam_hf.drawing.worst_and_best import (
    FOUND,
    INVENTED,
    MISSED,
    OTHER_TYPE,
    ComparedTile,
    Differences,
    tiles_page,
)

RED = (250, 0, 0)
ALL_KINDS = Differences(frozenset({1}), frozenset({2}), frozenset({4}), frozenset({3}))


def blocks(*ids: int) -> np.ndarray:
    """Blocks of 12 x 12 pixels in the columns of their ids."""
    label_map = np.zeros((40, 100), np.int32)
    for nucleus in ids:
        label_map[10:22, 20 * nucleus - 12 : 20 * nucleus] = nucleus
    return label_map


def compared(differences: Differences, mpp: float | None = 0.25) -> ComparedTile:
    truth, found = blocks(1, 2, 3), blocks(1, 2, 4)
    return ComparedTile(
        captions=["a", "PQ 0.67"],
        image=np.full((40, 100, 3), 200, np.uint8),
        truth=ColoredNuclei(truth, dict.fromkeys((1, 2, 3), RED)),
        prediction=ColoredNuclei(found, dict.fromkeys((1, 2, 4), RED)),
        counts=(3, 3),
        differences=differences,
        types={"round": RED},
        mpp=mpp,
    )


def count(page: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((page == color).all(axis=-1).sum())


def test_each_difference_has_its_colour():
    page = np.array(tiles_page("mine on consep", [compared(ALL_KINDS)], []))
    for color in (FOUND, OTHER_TYPE, INVENTED, MISSED, RED):
        assert count(page, color) > 400, color  # More than a patch of the legend.


def test_types_that_were_not_compared_are_not_in_the_legend():
    untyped = Differences(found=frozenset({1, 2}), invented=frozenset({4}), missed=frozenset({3}))
    assert count(np.array(tiles_page("x", [compared(untyped)], [])), OTHER_TYPE) == 0
    no_mistakes = Differences(found=frozenset({1, 2}), other_type=frozenset())
    assert count(np.array(tiles_page("x", [compared(no_mistakes)], [])), OTHER_TYPE) > 100


def test_the_best_tiles_follow_the_worst():
    one, two = (tiles_page("x", [compared(ALL_KINDS)], best) for best in ([], [compared(Differences())]))
    above = np.array(one)[: one.height - 40]
    np.testing.assert_array_equal(np.array(two)[: one.height - 40, : one.width], above)
    assert two.height > 1.6 * one.height


def test_tiles_are_taken_one_at_a_time():
    taken = []

    def tiles():
        for number in range(3):
            taken.append(number)
            yield compared(ALL_KINDS)

    assert tiles_page("x", tiles(), iter([])).height > 3 * 160
    assert taken == [0, 1, 2]


def test_there_is_a_scale_bar_if_the_pixel_size_is_known():
    with_bar, without = (np.array(tiles_page("x", [compared(ALL_KINDS, mpp)], [])) for mpp in (0.25, None))
    assert with_bar.shape == without.shape
    assert (with_bar != without).any()


@pytest.mark.parametrize("size", [(1, 1), (30, 1200)])
def test_extreme_and_empty_tiles_are_drawn(size):
    nothing = ColoredNuclei(np.zeros(size, np.int32), {})
    tile = ComparedTile([], np.zeros((*size, 3), np.uint8), nothing, nothing, (0, 0), Differences(), mpp=0.25)
    assert tiles_page("x", [tile], []).width < 3 * 1000
