"""Why: the classical baseline must find plain nuclei at any pixel size, and quickly."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import hed2rgb

from cfsam_hf.baselines.classical import ClassicalParameters, segment_classical
from cfsam_hf.data import list_tiles
from cfsam_hf.metrics import panoptic_quality


def stained(size=300, scale=1.0):
    """Haematoxylin discs of 7 um, some touching, on eosin, at 0.25 * scale um per pixel; and their label map."""
    centres = [(40, 40), (40, 90), (100, 40), (100, 66), (200, 150), (220, 172), (250, 60), (60, 220)]
    rows, columns = np.mgrid[: round(size / scale), : round(size / scale)] + 0.5
    distances = np.stack([np.hypot(rows - y / scale, columns - x / scale) for y, x in centres])
    nearest = distances.argmin(axis=0)
    label_map = np.where(distances.min(axis=0) < 14 / scale, nearest + 1, 0)
    noise = np.random.default_rng(0).normal(0, 0.004, label_map.shape)
    hed = np.stack([0.02 + 0.15 * (label_map > 0) + noise, np.full(label_map.shape, 0.05), np.zeros(label_map.shape)])
    return (hed2rgb(np.moveaxis(hed.clip(0), 0, -1)).clip(0, 1) * 255).round().astype(np.uint8), label_map


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_discs_are_found_and_touching_ones_divided_at_any_pixel_size(scale):
    image, truth = stained(scale=scale)
    found = segment_classical(image, 0.25 * scale)
    quality = panoptic_quality(truth, found)
    assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (8, 0, 0)
    assert quality.sq > 0.85
    assert found.dtype == np.int32
    for nucleus in range(1, 9):
        assert ndimage.label(found == nucleus)[1] == 1


def test_size_limits_are_in_micrometres():
    image, _ = stained()
    assert segment_classical(image, 0.25, ClassicalParameters(least_diameter=9)).max() == 0
    assert segment_classical(image, 0.25, ClassicalParameters(largest_diameter=5)).max() == 0
    assert segment_classical(image, 0.5, ClassicalParameters(least_diameter=9)).max() == 8


@pytest.mark.parametrize("shape", [(0, 5, 3), (1, 1, 3), (64, 64, 3)])
def test_images_without_anything(shape):
    assert not segment_classical(np.full(shape, 255, np.uint8)).any()


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="uint8 RGB"):
        segment_classical(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="mpp must be positive"):
        segment_classical(np.zeros((4, 4, 3), np.uint8), -1.0)
    with pytest.raises(ValueError, match="opening must be"):
        ClassicalParameters(opening=0)


def test_a_real_tile_is_segmented_better_than_by_chance(real_data):
    tile = list_tiles("consep", real_data / "consep", split="train")[7].load()
    found = segment_classical(tile.image, tile.mpp)
    assert panoptic_quality(tile.instance_map, found).pq > 0.15
