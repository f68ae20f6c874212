"""Why: every picture draws nuclei with these functions; lines must follow the pixels in the right colour."""

import numpy as np
import shapely

from cfsam_hf.drawing.outlines import ColoredNuclei, display_line, draw_nuclei, enlarge, outlined
from cfsam_hf.model.result import TypeStyle

from ..export_cases import blob_map, make_result

RED, BLUE = (250, 0, 0), (0, 0, 250)


def test_the_drawn_line_stays_by_the_contour():
    result = make_result(blob_map(seed=3))
    for rings in result.contours:
        for ring in rings:
            line = display_line(ring)
            closed = np.vstack([ring, ring[:1]])
            length = int(np.abs(np.diff(closed, axis=0)).sum())
            assert line.shape == (length, 2)
            assert shapely.distance(shapely.LinearRing(closed), shapely.points(line)).max() <= 0.5


def test_one_pixel_is_drawn():
    line = display_line(np.array([[3, 3], [4, 3], [4, 4], [3, 4]]), scale=4)
    np.testing.assert_allclose(line, [[14, 12], [16, 14], [14, 16], [12, 14]])


def squares(*ids: int) -> np.ndarray:
    """Squares of 12 x 12 pixels, one per id, from left to right."""
    label_map = np.zeros((40, 100), np.int32)
    for place, nucleus in enumerate(ids, start=1):
        label_map[10:22, 20 * place - 12 : 20 * place] = nucleus
    return label_map


def is_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(axis=-1)


def test_outlines_have_the_colour_of_their_nucleus_and_all_pieces_are_drawn():
    label_map = squares(7, 2)
    label_map[30:38, 60:70] = 2
    picture = outlined(np.full((40, 100, 3), 200, np.uint8), ColoredNuclei(label_map, {7: RED, 2: BLUE}), 4.0)
    assert picture.shape == (160, 400, 3)
    red, blue = is_color(picture, RED), is_color(picture, BLUE)
    assert red[:, :96].any()
    assert not red[:, 96:].any()
    assert blue[40:88].any()
    assert blue[120:152].any()
    assert not (red | blue)[60, 52]


def test_nuclei_without_a_colour_are_not_drawn():
    canvas = np.full((160, 400, 3), 200, np.uint8)
    draw_nuclei(canvas, ColoredNuclei(squares(7, 2), {2: BLUE, 99: RED}), 4.0, 2)
    assert is_color(canvas, BLUE).any()
    assert (canvas[:, :96] == 200).all()
    draw_nuclei(canvas, ColoredNuclei(np.zeros((40, 100), np.int32), {}), 4.0, 2)
    assert not is_color(canvas, RED).any()


def test_the_later_colour_lies_on_top():
    label_map = np.zeros((20, 40), np.int32)
    label_map[5:15, 5:20], label_map[5:15, 20:35] = 1, 2
    image = np.zeros((20, 40, 3), np.uint8)
    for colors, top in (({1: RED, 2: BLUE}, BLUE), ({2: BLUE, 1: RED}, RED)):
        assert is_color(outlined(image, ColoredNuclei(label_map, colors), 4.0), top)[40, 79:81].any()


def test_types_give_the_colours():
    styles = [TypeStyle(2, "b", BLUE), TypeStyle(1, "a", RED)]
    nuclei = ColoredNuclei.by_type(squares(3, 5, 9, 11), np.array([3, 5, 9, 11]), np.array([1, 2, 1, 0]), styles)
    assert list(nuclei.colors.items()) == [(5, BLUE), (3, RED), (9, RED)]


def test_a_window_keeps_its_part():
    nuclei = ColoredNuclei(squares(3, 5), {3: RED, 5: BLUE}).only((slice(0, 20), slice(0, 24)))
    assert nuclei.label_map.shape == (20, 24)
    assert set(np.unique(nuclei.label_map)) == {0, 3}
    assert is_color(outlined(np.zeros((20, 24, 3), np.uint8), nuclei, 4.0), RED).any()


def test_enlarging_leaves_the_image_alone_and_one_pixel_at_least():
    image = np.zeros((3, 5, 3), np.uint8)
    for scale, shape in ((1.0, (3, 5, 3)), (2.0, (6, 10, 3)), (0.1, (1, 1, 3))):
        canvas = enlarge(image, scale)
        assert canvas.shape == shape
        canvas[:] = 9
        assert not image.any()
