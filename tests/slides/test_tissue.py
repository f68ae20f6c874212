"""Why: tissue that is not found is never segmented, and ink, borders and bubbles cost hours of work."""

import json

import cv2
import numpy as np
import PIL.Image
import pytest

from cfsam_hf.slides import TissueMask, demo_slide, find_tissue, open_slide, read_tissue, tissue_geojson, whole_slide
from cfsam_hf.slides.areas import read_areas
from cfsam_hf.slides.stain_cues import stained_tissue

from .synthetic_slides import INKS, SyntheticSlide, measure


def with_tissue(**options) -> SyntheticSlide:
    slide = SyntheticSlide(**options)
    slide.add_tissue(400, 450, 210)
    slide.add_tissue(950, 250, 100)
    return slide


def inked(color) -> SyntheticSlide:
    slide = with_tissue()
    slide.add_stroke(color, (75, 50), (100, 875), (750, 900))
    slide.add_stroke(color, (1100, 450), (1100, 850))
    return slide


def cover_slip() -> SyntheticSlide:
    slide = with_tissue()
    slide.add_line((120, 120, 122), (50, 30), (1225, 45), 3)
    slide.add_line((150, 150, 152), (1200, 0), (1190, 949), 5)
    return slide


def glass_edge() -> SyntheticSlide:
    slide = with_tissue()
    slide.pixels[:, :100] *= np.linspace(0.35, 0.9, 100)[None, :, None]
    return slide


def black_border() -> SyntheticSlide:
    slide = with_tissue()
    slide.pixels[:60] = 6
    slide.pixels[:, -75:] = 3
    slide.pixels[900:] = (12, 8, 14)
    return slide


def bubbles() -> SyntheticSlide:
    slide = with_tissue()
    for x, y, radius in ((850, 600, 100), (1100, 700, 45), (700, 800, 30), (1150, 150, 60)):
        slide.add_bubble(x, y, radius)
    return slide


def haze() -> SyntheticSlide:
    slide = with_tissue()
    slide.add_haze(900, 650, 175, strength=0.15)
    return slide


def fat() -> SyntheticSlide:
    slide = with_tissue()
    slide.add_fat(850, 650, 190, strength=0.2)
    return slide


def pale() -> SyntheticSlide:
    slide = SyntheticSlide()
    slide.add_tissue(600, 450, 250, strength=0.25)
    return slide


def everywhere() -> SyntheticSlide:
    slide = SyntheticSlide()
    slide.add_tissue(625, 475, 2000)
    return slide


CASES = {
    **{name: lambda color=color: inked(color) for name, color in INKS.items()},
    "edge of the cover slip": cover_slip,
    "edge of the glass": glass_edge,
    "black border": black_border,
    "bubbles": bubbles,
    "haze of eosin": haze,
    "faint fat": fat,
    "pale tissue": pale,
    "yellow glass": lambda: with_tissue(glass=(238, 232, 214)),
    "grey glass": lambda: with_tissue(glass=(205, 204, 207)),
    "tissue everywhere": everywhere,
    "no tissue": SyntheticSlide,
}


@pytest.mark.parametrize("name", CASES)
def test_tissue_is_found_and_nothing_else(name, tmp_path):
    made = CASES[name]()
    made.write(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        tissue = find_tissue(slide)
    recall, false = measure(tissue.mask, made.tissue)
    assert recall > 0.97
    assert false < 0.0005


def test_tissue_of_the_real_slide():
    with open_slide(demo_slide()) as slide:
        tissue = find_tissue(slide)
        pixels = slide.read_region(0, 0, 554, 741, mpp=2.0)
    # On this slide, which shows nothing but tissue and clean glass, darkness tells them apart.
    dark = cv2.GaussianBlur(pixels[..., 1].astype(np.float32), (0, 0), 4) < 205
    found = cv2.resize(tissue.mask.astype(np.uint8), (554, 741), interpolation=cv2.INTER_NEAREST) > 0
    near = cv2.dilate(dark.astype(np.uint8), np.ones((49, 49), np.uint8)) > 0
    assert found[dark].mean() > 0.97
    assert found[~near].mean() == 0
    assert 0.6e6 < tissue.area_um2 < 0.8e6


def test_what_else_is_on_the_slide_changes_nothing():
    """The same tissue is found in a crop of the picture, up to its edges."""
    made = with_tissue()
    picture = cv2.resize(made.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
    whole = stained_tissue(picture, 8.0)
    np.testing.assert_array_equal(stained_tissue(picture[:400, :350], 8.0)[:380, :330], whole[:380, :330])


def a_mask() -> TissueMask:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 1:4] = True
    mask[1, 2] = False
    return TissueMask(mask, (10.0, 20.0), pixel_area_um2=2.0)


def test_a_mask_in_coordinates_of_the_slide():
    mask = a_mask()
    assert mask.area_um2 == 10.0
    assert TissueMask(mask.mask, mask.scale).area_um2 is None
    points = [[10, 20], [9.9, 20], [25, 25], [25, 59.9], [39.9, 59.9], [40, 60], [-1, -1], [1e9, 5]]
    assert mask.contains(np.array(points)).tolist() == [True, False, False, True, True, False, False, False]
    assert mask.contains(np.empty((0, 2))).shape == (0,)
    assert mask.touches(0, 0, 10.1, 20.1)
    assert not mask.touches(0, 0, 10, 20)
    assert not mask.touches(20, 20, 30, 40)
    assert not mask.touches(-50, -50, -10, 500)
    [rings] = mask.outlines()
    corners = [[10, 20], [20, 20], [20, 40], [30, 40], [30, 20], [40, 20], [40, 60], [10, 60]]
    assert sorted(map(tuple, rings[0])) == sorted(map(tuple, corners))


def test_areas_cut_a_mask_to_the_part_of_each_pixel(tmp_path):
    square = [[12.5, 0], [25, 0], [25, 50], [12.5, 50], [12.5, 0]]
    (tmp_path / "a.json").write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    areas = read_areas(tmp_path / "a.json")
    inside, outside = a_mask().within(areas), a_mask().without(areas)
    points = np.array([[12, 25], [13, 25], [24, 45], [26, 45]])
    assert inside.contains(points).tolist() == [False, True, True, False]
    assert outside.contains(points).tolist() == [True, False, False, True]
    # Of the column at 10 three quarters lie inside, of that at 20 the half; of the row at 40 the half.
    assert inside.mask.sum() == 3
    assert inside.area_um2 == 2.0 * (0.75 + 0.75 * 0.5 + 0.5 * 0.5)
    assert outside.mask.sum() == 5
    assert inside.area_um2 + outside.area_um2 == a_mask().area_um2
    assert inside.without(areas).area_um2 == 0
    assert not inside.without(areas).mask.any()


@pytest.fixture
def slide():
    with open_slide(demo_slide()) as opened:
        yield opened


def test_a_mask_image_of_any_size_and_kind(slide, tmp_path):
    mask = np.zeros((2967 // 6, 370), dtype=np.uint8)
    mask[100:200, 50:90] = 1
    pictures = {
        "ones": PIL.Image.fromarray(mask),
        "labels": PIL.Image.fromarray(mask.astype(np.uint16) * 777),
        "white": PIL.Image.fromarray(mask * 255).convert("RGB"),
        "bits": PIL.Image.fromarray(mask * 255).convert("1"),
    }
    soft = cv2.GaussianBlur(mask * 255, (0, 0), 1.5)
    pictures["soft"] = PIL.Image.fromarray(soft)
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        tissue = read_tissue(tmp_path / f"{name}.png", slide)
        # Smoothing rounds the four corners.
        assert (tissue.mask != (mask > 0)).sum() <= 4 * (name == "soft"), name
        assert tissue.scale == (2220 / 370, 2967 / 494)
        assert tissue.area_um2 == pytest.approx(tissue.mask.sum() * tissue.scale[0] * tissue.scale[1] * 0.499**2)


def test_found_tissue_comes_back_from_its_geojson(slide, tmp_path):
    tissue = find_tissue(slide)
    (tmp_path / "tissue.geojson").write_text(json.dumps(tissue_geojson(tissue)))
    again = read_tissue(tmp_path / "tissue.geojson", slide)
    np.testing.assert_array_equal(again.mask, tissue.mask)
    assert again.area_um2 == pytest.approx(tissue.area_um2)
    assert whole_slide(slide).mask.all()
    assert whole_slide(slide).area_um2 == pytest.approx(2220 * 2967 * 0.499**2)


def test_bad_masks_are_named(slide, tmp_path):
    def save(name: str, pixels: np.ndarray) -> str:
        PIL.Image.fromarray(pixels).save(tmp_path / name)
        return str(tmp_path / name)

    photograph = np.random.default_rng(0).integers(0, 255, (297, 222, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"a\.png: a mask of 300 x 300 px does not have the shape of the slide"):
        read_tissue(save("a.png", np.ones((300, 300), np.uint8)), slide)
    with pytest.raises(ValueError, match=r"b\.png: the mask is black"):
        read_tissue(save("b.png", np.zeros((297, 222), np.uint8)), slide)
    with pytest.raises(ValueError, match=r"c\.png: this is a photograph, not a mask"):
        read_tissue(save("c.png", photograph), slide)
    (tmp_path / "d.txt").write_text("tissue")
    with pytest.raises(OSError, match=r"d\.txt"):
        read_tissue(tmp_path / "d.txt", slide)
    with pytest.raises(OSError, match=r"none\.png"):
        read_tissue(tmp_path / "none.png", slide)
