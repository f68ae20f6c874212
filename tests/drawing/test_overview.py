"""Why: people see the overview of a slide first; its places, colours and numbers must be those of the nuclei."""

import json

import numpy as np
import PIL.Image
import pytest

from cfsam_hf.drawing.density_maps import DensityMaps
from cfsam_hf.drawing.overview import (
    color_ramp,
    overview_layout,
    overview_size,
    render_overview,
    round_up,
    write_overview,
)
from cfsam_hf.files.own_results import is_own_result
from cfsam_hf.model.result import complete_styles
from cfsam_hf.outputs.slide_record import slide_record

from ..export_cases import TYPE_COLORS, TYPE_NAMES
from .test_density_maps import batch_of

SIZE = 8000, 4000


def case(size=SIZE, names=TYPE_NAMES, mpp=(0.5, 0.5), image_name="slide é.svs"):
    """Tissue in the left half of a slide, with all nuclei of each type at a place of its own."""
    styles = complete_styles(names, TYPE_COLORS)
    points = [(size[0] * (0.1 + 0.1 * i), size[1] / 2) for i in range(len(styles))]
    maps = DensityMaps(size, [style.type_id for style in styles])
    maps.add(batch_of(np.repeat(points, 50, axis=0), np.repeat([style.type_id for style in styles], 50)))
    tissue = np.zeros((40, 80), dtype=bool)
    tissue[:, :40] = True
    record = slide_record(
        image=image_name,
        image_size=size,
        nuclei=50 * len(styles),
        mpp=mpp,
        type_names=names,
        type_colors=TYPE_COLORS if names else None,
        tissue_area_um2=None if mpp is None else size[0] * size[1] * mpp[0] * mpp[1] / 2,
    )
    width, height = overview_size(size, len(names))
    return np.full((height, width, 3), 230, dtype=np.uint8), tissue, maps, record


def test_each_map_is_dark_where_the_nuclei_of_its_type_are():
    image, tissue, maps, record = case()
    picture = np.asarray(render_overview(image, tissue, maps, record)).astype(int)
    layout = overview_layout(SIZE, 5)
    for number in range(5):
        row, column = divmod(number, layout.columns)
        x = layout.gap + column * (layout.width + layout.gap)
        y = round(4.2 * layout.text) + row * (layout.head + layout.height + layout.foot + layout.text) + layout.head
        panel = picture[y : y + layout.height, x : x + layout.width].sum(axis=2)
        middle = panel[layout.height // 2]
        # The slide, all nuclei, then each type.
        expected = [[], [0.1, 0.2, 0.3], [0.1], [0.2], [0.3]][number]
        for place in (0.1, 0.2, 0.3):
            dark = middle[round(place * layout.width)] < middle[round(0.4 * layout.width)] - 60
            assert dark == (place in expected), (number, place)
        assert (panel[:, round(0.6 * layout.width) :] > 600).all(), "nothing is drawn outside the tissue"


@pytest.mark.parametrize("size", [(2000, 2000), (300, 200), (100_000, 8000), (9000, 120_000)])
@pytest.mark.parametrize(("names", "mpp"), [(TYPE_NAMES, (0.25, 0.26)), ({}, None)])
def test_slides_of_any_form_make_pictures_of_moderate_size(size, names, mpp):
    image, tissue, maps, record = case(size, names, mpp)
    picture = render_overview(image[:50, :70], tissue, maps, record, note="types were learned on colon.")
    assert min(picture.size) >= 300
    assert max(picture.size) <= 6000


def test_no_nuclei_and_no_tissue_still_make_a_picture():
    image, _, maps, record = case()
    empty = DensityMaps(maps.size, list(maps.counts))
    render_overview(image, np.zeros((4, 8), dtype=bool), empty, {**record, "nuclei": 0, "tissue_area_mm2": 0.0})


def test_colours_darken_steadily_through_the_types_own():
    for color in [*TYPE_COLORS.values(), (240, 228, 66), (0, 0, 0), (255, 255, 255)]:
        ramp = color_ramp(color)
        grey = ramp @ [0.2126, 0.7152, 0.0722]
        assert ramp.shape == (256, 3)
        assert (np.diff(grey) <= 0.5).all()
        assert grey[0] > 240
    # Its own colour is on the way.
    assert np.abs(color_ramp(TYPE_COLORS[1]) - TYPE_COLORS[1]).sum(axis=1).min() < 12


def test_scales_end_at_round_numbers():
    assert [round_up(value) for value in (0, 1, 1.01, 8.5, 1730, 9999, 10_000)] == [
        0,
        1,
        1.2,
        10,
        2000,
        10_000,
        10_000,
    ]


def test_another_kind_of_image_is_refused():
    image, tissue, maps, record = case()
    with pytest.raises(ValueError, match="as \\(h, w, 3\\) uint8 RGB"):
        render_overview(image[..., 0], tissue, maps, record)


def test_the_file_says_what_made_it(tmp_path):
    image, tissue, maps, record = case()
    write_overview(image, tissue, maps, record, tmp_path / "a_overview.png")
    with PIL.Image.open(tmp_path / "a_overview.png") as picture:
        assert json.loads(picture.text["cfsam_hf"]) == record
    assert is_own_result(tmp_path / "a_overview.png")
