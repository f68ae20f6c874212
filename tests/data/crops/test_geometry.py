"""Why: one warp moves image and labels, so colours that encode the labels must still match them afterwards."""

import numpy as np
import pytest

from cfsam_hf.data.crops.geometry import Geometry, crop_position, place_crop, sample_geometry, warp_crop


def coded(side_y=60, side_x=80, block=14) -> tuple[np.ndarray, np.ndarray]:
    """Label map of blocks with random ids and the image that shows id i as the colour (i, 255 - i, i)."""
    ids = np.random.default_rng(0).integers(0, 256, size=(side_y // block + 1, side_x // block + 1))
    labels = np.kron(ids, np.ones((block, block), dtype=np.int64))[:side_y, :side_x].astype(np.uint16)
    return labels, np.stack([labels, 255 - labels, labels], axis=-1).astype(np.uint8)


def uniform(labels: np.ndarray, reach: int) -> np.ndarray:
    """Pixels whose neighbours up to `reach` are all in the picture and have their label."""
    padded = np.pad(labels.astype(int), reach, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return (windows == labels[..., None, None]).all(axis=(-1, -2))


@pytest.mark.parametrize("seed", range(30))
def test_colours_still_tell_the_labels(seed):
    labels, image = coded()
    rng = np.random.default_rng(seed)
    geometry = sample_geometry(rng, free_probability=1)
    centre = place_crop((rng.uniform(0, 80), rng.uniform(0, 60)), geometry, 48, labels.shape)
    warped_image = warp_crop(image, centre, geometry, 48, labels=False).astype(int)
    warped_labels = warp_crop(labels, centre, geometry, 48, labels=True)
    assert warped_labels.dtype == np.uint16
    inner = uniform(warped_labels, 2)
    assert inner.mean() > 0.1
    for channel, expected in enumerate((warped_labels, 255 - warped_labels, warped_labels)):
        assert np.abs(warped_image[..., channel] - expected)[inner].max() <= 1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_flips_and_quarter_turns_copy_pixels(quarters, mirrored):
    labels, image = coded(40, 40)
    geometry = Geometry(angle=quarters * np.pi / 2, mirrored=mirrored)
    centre = place_crop((20, 20), geometry, 40, (40, 40))
    results = [warp_crop(array, centre, geometry, 40, labels=flag) for array, flag in ((labels, True), (image, False))]
    for array, result in zip((labels, image), results, strict=True):
        turned = np.rot90(array, quarters)
        np.testing.assert_array_equal(result, turned[:, ::-1] if mirrored else turned)


def test_the_eight_upright_geometries_differ():
    labels, _ = coded(40, 40)
    results = {
        warp_crop(labels, (20, 20), Geometry(quarters * np.pi / 2, 1.0, mirrored), 40, labels=True).tobytes()
        for quarters in range(4)
        for mirrored in (False, True)
    }
    assert len(results) == 8


def test_step_is_tile_pixels_per_crop_pixel():
    labels = np.zeros((64, 64), dtype=np.uint16)
    labels[24:40, 24:40] = 1
    for step in (0.5, 1.0, 2.0):
        crop = warp_crop(labels, (32, 32), Geometry(step=step), 32, labels=True)
        assert crop.sum() == (16 / step) ** 2


def test_points_go_with_their_pixels():
    errors = {False: [], True: []}
    for seed in range(80):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry(rng, free_probability=0.7)
        centre = place_crop((40, 40), geometry, 48, (80, 80))
        x, y = int(centre[0]) + rng.integers(-5, 6), int(centre[1]) + rng.integers(-5, 6)
        rows, columns = np.mgrid[:80, :80]
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= 36
        expected = np.array(crop_position((x + 0.5, y + 0.5), centre, geometry, 48))
        rows, columns = np.mgrid[:48, :48] + 0.5
        for labels, dtype in ((False, np.float32), (True, np.uint16)):
            crop = warp_crop(disc.astype(dtype), centre, geometry, 48, labels=labels)
            found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
            errors[labels].append(found - expected)
    assert np.abs(errors[False]).max() < 0.1
    # The nearest pixel errs by chance for one disc, but must not lean to a side: labels half a pixel off their image
    # would pass unseen in pictures and blur every boundary that is learned.
    assert np.abs(errors[True]).max() < 0.5
    assert np.abs(np.mean(errors[True], axis=0)).max() < 0.06


def test_crops_stay_inside_where_they_can():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry(rng)
        x, y = place_crop((rng.uniform(-20, 320), rng.uniform(-20, 260)), geometry, 96, (240, 300))
        corners = geometry.matrix @ np.array([[-48, -48, 48, 48], [-48, 48, -48, 48]]) + np.array([[x], [y]])
        assert corners.min() > -1e-6
        assert corners[0].max() < 300 + 1e-6
        assert corners[1].max() < 240 + 1e-6


@pytest.mark.parametrize("size", [31, 32])
@pytest.mark.parametrize("side", [9, 10, 40, 41])
def test_upright_crops_lie_on_the_pixel_grid(size, side):
    array = np.arange(side * side, dtype=np.uint16).reshape(side, side)
    for wanted in (0, 4.3, side / 2, side):
        centre = place_crop((wanted, wanted), Geometry(), size, (side, side))
        assert (centre[0] - size / 2) % 1 == 0
        left, top = (int(position - size / 2) for position in centre)
        crop = warp_crop(array, centre, Geometry(), size, labels=False)
        inside = crop[max(-top, 0) : side - top, max(-left, 0) : side - left]
        np.testing.assert_array_equal(inside, array[max(top, 0) : top + size, max(left, 0) : left + size])


def test_beyond_the_tile_it_is_mirrored():
    array = np.array([[1, 2, 3, 4]] * 4, dtype=np.uint16)
    crop = warp_crop(array, (2, 2), Geometry(), 8, labels=True)
    np.testing.assert_array_equal(crop, [[3, 2, 1, 2, 3, 4, 3, 2]] * 8)


def test_drawn_geometries():
    drawn = [sample_geometry(np.random.default_rng(seed), 0.5, 0.8, 1.25) for seed in range(400)]
    upright = [geometry for geometry in drawn if geometry.step == 1]
    assert 150 < len(upright) < 250
    assert {(round(geometry.angle / (np.pi / 2)), geometry.mirrored) for geometry in upright} == {
        (quarters, mirrored) for quarters in range(4) for mirrored in (False, True)
    }
    steps = np.array([geometry.step for geometry in drawn if geometry.step != 1])
    assert (steps.min() > 0.79, steps.max() < 1.26, abs(np.log(steps).mean()) < 0.03) == (True, True, True)
