"""Why: people look at the overlay first, so it needs the right colours in the right places at any image size."""

import json

import numpy as np
import PIL.Image
import pytest

from cfsam_hf.drawing.overlay import draw_contours, overlay_scale, render_overlay, write_overlay

from ..export_cases import TYPE_COLORS, make_result, small_map

GREY = (200, 200, 200)


def grey_image(instance_map):
    return np.full((*instance_map.shape, 3), GREY, dtype=np.uint8)


def square_map(side=200):
    instance_map = np.zeros((side, side), dtype=np.int32)
    instance_map[40:80, 50:100] = 1
    instance_map[120:160, 30:60] = 2
    return instance_map


def test_contours_are_where_the_nuclei_end_in_their_types_colour():
    instance_map = square_map()
    canvas = draw_contours(make_result(instance_map), grey_image(instance_map))
    scale = canvas.shape[0] // 200
    for type_id, (x, y0, y1) in {1: (75, 40, 80), 2: (45, 120, 160)}.items():
        for y in (y0, y1):
            assert tuple(canvas[y * scale, x * scale]) == TYPE_COLORS[type_id]
        middle = (y0 + y1) // 2 * scale
        assert tuple(canvas[middle, x * scale]) == GREY
    changed = (canvas != GREY).any(axis=2)
    assert changed[:, 105 * scale :].sum() == 0
    assert 0.001 < changed.mean() < 0.1


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 4), ((512, 512), 3), ((1000, 900), 2), ((1500, 10), 1), ((12000, 10), 0.5)]
)
def test_small_images_are_enlarged_and_huge_ones_reduced(size, scale):
    assert overlay_scale(size) == scale


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (700, 3), (9, 12), (300, 6500)])
def test_any_size_and_no_nuclei_give_a_picture(shape):
    instance_map = np.zeros(shape, dtype=np.int32)
    picture = render_overlay(make_result(instance_map), grey_image(instance_map))
    assert picture.mode == "RGB"
    assert picture.width >= 560


@pytest.mark.parametrize("typed", [True, False])
def test_legend_shows_every_type_colour(typed):
    result = make_result(small_map(), typed=typed, mpp=None)
    picture = np.asarray(render_overlay(result, grey_image(small_map())))
    legend = picture[-60:].reshape(-1, 3)
    for color in result.type_colors.values():
        assert (legend == color).all(axis=1).any()


def test_many_types_and_long_names_fit():
    result = make_result(small_map(), image_name="a very long name\n" * 40)
    result.type_names = {i: f"a type of nucleus with a long name, number {i}" for i in range(1, 13)}
    picture = render_overlay(result, grey_image(small_map()))
    assert picture.width == 560
    assert picture.height < 800


def test_png_says_what_made_it(tmp_path):
    write_overlay(make_result(small_map()), grey_image(small_map()), tmp_path / "a.png")
    text = PIL.Image.open(tmp_path / "a.png").text
    assert text["Software"] == "cfsam_hf 0.0.1"
    assert json.loads(text["cfsam_hf"])["checkpoint"] == "cfsam-tiny"


@pytest.mark.parametrize("image", [np.zeros((9, 12), np.uint8), np.zeros((9, 12, 3)), np.zeros((12, 9, 3), np.uint8)])
def test_another_image_is_refused(image):
    with pytest.raises(ValueError, match=r"\(9, 12, 3\) uint8 RGB"):
        draw_contours(make_result(small_map()), image)
