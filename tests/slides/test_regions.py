"""A slide's regions must see exactly the maps of the whole slide, wherever tissue is, and cover it once."""

import itertools

import numpy as np
import pytest

from cfsam_hf.bases.bundled import bundled_checkpoint
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.stages import ImageRun
from cfsam_hf.model.tiling import axis_starts
from cfsam_hf.slides import demo_slide, open_slide, read_areas, whole_slide
from cfsam_hf.slides.bundled import demo_part
from cfsam_hf.slides.regions import MIN_HALO, Box, RegionGrid, axis_parts

from ..painted_model import PaintedModel, paint, painted_config


def everywhere(x0, y0, x1, y1):
    return True


@pytest.mark.parametrize(
    ("length", "size", "overlap"),
    list(itertools.product((1, 255, 300, 4096, 10_001, 60_000), (256, 576), (0, 64, 144))),
)
def test_regions_cover_an_axis_once_with_halo_of_known_windows(length, size, overlap):
    parts = axis_parts(length, size, overlap, 1500)
    assert [part.first for part in parts[1:]] == [part.last for part in parts[:-1]]
    assert (parts[0].first, parts[-1].last) == (0, length)
    starts = axis_starts(length, size, overlap)
    for part in parts:
        assert part.inside_first == 0 or part.first - part.inside_first >= MIN_HALO
        assert part.inside_last == length or part.inside_last - part.last >= MIN_HALO
        assert part.inside_first in {0, *(start + size for start in starts)}
        assert part.inside_last in {length, *starts}


def test_neighbours_share_one_row_of_windows():
    grid = RegionGrid(20_000, 20_000, (576, 144, 1))
    regions = grid.regions(everywhere)
    ours, right = regions[0], regions[1]
    assert len({window.x for window in ours.windows} & {window.x for window in right.windows}) == 1
    assert len(grid.rows) == len(grid.columns) == 5
    assert len(regions) == 25


def test_regions_without_tissue_are_left_out_and_windows_far_from_it_too():
    grid = RegionGrid(4000, 4000, (256, 64, 1), scale=(2.0, 2.0), side=1000)
    tissue = Box(2900, 500, 3100, 600)  # level 0

    def touches(x0, y0, x1, y1):
        return x0 < tissue.x1 and x1 > tissue.x0 and y0 < tissue.y1 and y1 > tissue.y0

    [region] = grid.regions(touches)
    assert (region.row, region.column) == (0, 1)
    assert 0 < len(region.windows) <= 9
    assert region.image.width < 1000


def test_the_demo_takes_four_windows_of_the_bundled_checkpoint():
    processor = CfSamImageProcessor.from_pretrained(bundled_checkpoint())
    with open_slide(demo_slide()) as slide:
        part = whole_slide(slide).within(read_areas(demo_part(), slide))
        step = processor.mpp / slide.pixel_size.mpp
        width, height = (round(side / step) for side in slide.size)
    grid = RegionGrid(width, height, (processor.tile_size, processor.tile_overlap, 1), (step, step))
    [region] = grid.regions(part.touches)
    assert len(region.windows) == 4
    assert 0.02 < part.area_um2 / 1e6 < 0.03


@pytest.fixture(scope="module")
def pipe():
    model = PaintedModel(painted_config())
    processor = CfSamImageProcessor(mpp=0.25, pad_multiple=16, tile_size=128, tile_overlap=32, smallest_tile_size=None)
    return NucleiSegmentationPipeline(model=model, image_processor=processor)


@pytest.mark.parametrize("views", [1, 4])
def test_regions_see_the_maps_of_the_whole(pipe, views):
    image, _, _ = paint(900, 700, count=120, seed=1)
    whole = pipe.blended_maps(image, views=views, mpp=0.25)
    grid = RegionGrid(700, 900, (128, 32, views), side=300)
    regions = grid.regions(everywhere)
    assert len(regions) == 6
    runs = [run_of(grid, region, image) for region in regions]
    for region, run in zip(regions, pipe.predict_runs(iter(runs), views=views, keep_maps=True), strict=True):
        inside = region.inside
        rows = np.concatenate([band.nuclei for band in run.bands])
        types = np.concatenate([band.types for band in run.bands], axis=1)
        np.testing.assert_array_equal(rows, whole.nuclei[inside.y0 : inside.y1, inside.x0 : inside.x1])
        np.testing.assert_array_equal(types, whole.types[:, inside.y0 : inside.y1, inside.x0 : inside.x1])


def test_pixels_near_tissue_see_the_same_maps_when_windows_are_left_out(pipe):
    image, _, _ = paint(900, 700, count=120, seed=2)
    whole = pipe.blended_maps(image, mpp=0.25)
    grid = RegionGrid(700, 900, (128, 32, 1), side=2000)
    islands = [Box(100, 100, 130, 130), Box(600, 700, 640, 760)]

    def touches(x0, y0, x1, y1):
        return any(x0 < box.x1 and x1 > box.x0 and y0 < box.y1 and y1 > box.y0 for box in islands)

    [region] = grid.regions(touches)
    [run] = pipe.predict_runs(iter([run_of(grid, region, image)]), keep_maps=True)
    nuclei = np.concatenate([band.nuclei for band in run.bands])
    inside = region.inside
    for box in islands:
        around = Box(box.x0 - 60, box.y0 - 60, box.x1 + 60, box.y1 + 60)
        ours = nuclei[around.y0 - inside.y0 : around.y1 - inside.y0, around.x0 - inside.x0 : around.x1 - inside.x0]
        np.testing.assert_array_equal(ours, whole.nuclei[around.y0 : around.y1, around.x0 : around.x1])
    # Between the islands nothing was run, which counts as background.
    assert not nuclei[400 - inside.y0, 350 - inside.x0]


def run_of(grid, region, image):
    box = region.image
    pixels = image[box.y0 : box.y1, box.x0 : box.x1]
    size = pixels.shape[:2]
    return ImageRun(image=pixels, size=size, model_size=size, tiling=grid.tiling, part=grid.part(region))
