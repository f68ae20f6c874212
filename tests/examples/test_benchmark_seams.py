"""Why: the seam statistic must detect naive stitching, and find no seams with the default tiling."""

import numpy as np
import pytest
from skimage import data
from transformers import pipeline

import cfsam_hf
from cfsam_hf.model.pixel_size import resample_image

from ..demo_tile import DEMO_DECODING


@pytest.fixture
def seams(load_example):
    return load_example("benchmarks/seams")


def disks(cut_at=()):
    """(320, 320) label map of disks everywhere, those on the rows `cut_at` cut in two there."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:320, :320]
    labels = np.zeros((320, 320), np.int32)
    for index in range(250):
        y, x, radius = rng.uniform(0, 320), rng.uniform(0, 320), rng.uniform(7, 14)
        labels[np.hypot(rows - y, columns - x) < radius] = index + 1
    for row in cut_at:
        labels[row:][labels[row:] > 0] += 1000
    return labels


def test_straight_edges_by_hand(seams):
    labels = np.zeros((5, 30), np.int32)
    labels[2:, 3:12] = 1  # nine pixels above row 2
    labels[2:, 20:27] = 2  # seven: too short
    labels[4, 3:12] = 3
    assert seams.straight_edges(labels).tolist() == [0, 9, 0, 9]


def test_lines_at_which_the_tiles_say_changes(seams):
    assert seams.seam_lines([0, 176, 352], 256, 600, "blend").tolist() == [176, 256, 352, 432]
    assert seams.seam_lines([0, 176, 352], 256, 600, "crop").tolist() == [216, 392]


def test_the_statistic_sees_cut_nuclei_and_nothing_else(seams):
    lines = np.arange(64, 320, 64), np.array([], dtype=int)
    for labels in (disks(), disks().T):
        _, errors = seams.seam_statistic(labels, lines, 16)
        assert errors < 3
    ratio, errors = seams.seam_statistic(disks(cut_at=lines[0]), lines, 16)
    assert ratio > 2
    assert errors > 5


def test_the_mosaic_joins_images_of_any_size(seams):
    images = [np.full((height, 300, 3), value, np.uint8) for value, height in ((10, 250), (200, 400))]
    image, (rows, columns) = seams.mosaic(images, 700)
    assert image.shape == (700, 700, 3)
    assert set(np.unique(image)) == {10, 200}
    # Pieces of 250 x 300 from (613, 571) on.
    assert rows.tolist() == [137, 387, 637]
    assert columns.tolist() == [29, 329, 629]
    assert image[0, columns[0] - 1, 0] != image[0, columns[0], 0]
    assert seams.away_from(rows, np.array([132, 133, 141, 142, 400])).tolist() == [132, 142, 400]


def test_lines_near_the_joins_of_the_picture_do_not_count(seams):
    lines = np.arange(64, 320, 64), np.array([], dtype=int)
    labels = disks(cut_at=[130])  # two lines from a seam
    _, seen = seams.seam_statistic(labels, (lines[0] + 2, lines[1]), 1)
    _, without = seams.seam_statistic(labels, (lines[0] + 2, lines[1]), 1, (np.array([131]), lines[1]))
    assert seen > 3
    assert without < 2


def test_stitching_the_tiles_of_a_shifted_grid_gives_the_maps(seams):
    maps = np.random.default_rng(0).uniform(0, 1, (3, 90, 100)).astype(np.float32)
    shift = (5, 7)
    padded = np.pad(maps, ((0, 0), (5, 40), (7, 40)), mode="reflect")
    windows = seams.tile_windows(95, 107, 32, 12)
    tiles = [padded[:, w.y : w.y + 32, w.x : w.x + 32].astype(np.float16) for w in windows]
    layout = seams.MapLayout(num_types=0, has_boundary=False)
    for how in ("crop", "mean", "blend"):
        stitched = seams.stitch(seams.Run(windows, tiles, layout, 12, (90, 100), shift, 0.0), how)
        assert np.abs(stitched - maps).max() < 1e-3


def test_which_nuclei_have_a_partner_and_where_they_lie(seams):
    labels, other = np.zeros((12, 20), int), np.zeros((12, 20), int)
    labels[1:4, 1:6] = 1
    labels[6:11, 10:13] = 2
    other[1:4, 2:6] = 7  # IoU .8
    other[6:8, 10:13] = 3  # .4
    assert seams.has_partner(labels, other).tolist() == [True, False]
    assert seams.middles(labels).tolist() == [[2, 3], [8, 11]]
    assert seams.has_partner(other * 0, labels).tolist() == []
    assert seams.middles(other * 0).shape == (0, 2)


def test_the_depth_in_the_innermost_tile(seams):
    windows = seams.tile_windows(32, 52, 32, 12)
    run = seams.Run(windows, [], seams.MapLayout(num_types=0, has_boundary=False), 12, (32, 52), (0, 0), 0.0)
    nearest, depth = seams.nearest_tiles(run)
    assert depth[15, [0, 15, 25, 26, 36, 51]].tolist() == [1, 16, 7, 7, 16, 1]
    assert nearest[15, [0, 25, 26, 51]].tolist() == [0, 0, 1, 1]


def test_the_default_way_leaves_no_seams_and_tiles_decoded_alone_do(seams):
    # At the pixel size of the checkpoint: twice as many as the picture has.
    picture = data.immunohistochemistry()
    image = resample_image(picture, 2 * picture.shape[0], 2 * picture.shape[1])
    pipe = pipeline("nuclei-segmentation", model=str(cfsam_hf.bundled_checkpoint()), device="cpu")
    # Enough nuclei for the statistic, in a stain that the checkpoint does not know.
    pipe.image_processor.decoding |= DEMO_DECODING
    alone, *_, blended = seams.measure(pipe, image, None, None, shifts=())
    assert alone["stitch"] == "alone"
    assert alone["tiles"] == ":".join(map(str, pipe.tiling_for(*image.shape[:2])[:2]))
    assert alone["s.e."] > 5
    assert blended["stitch"] == "blend"
    assert blended["s.e."] < 2
