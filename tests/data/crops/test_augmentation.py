"""Why: augmentation may change how a stain looks, but not where nuclei are, what white is, or what a seed gives."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cfsam_hf.data.crops.augmentation import AugmentationOptions, augment_image, coarsen, jitter_stains
from cfsam_hf.data.crops.dataset import CropDataset, CropSource
from cfsam_hf.data.records import Tile

COLOUR = ("stain", "light", "resolution", "blur", "noise", "jpeg")
NOTHING = AugmentationOptions.preset("none")
ALWAYS = AugmentationOptions(**{f"{name}_probability": 1 for name in COLOUR})
# The stain vectors of scikit-image's colour space (Ruifrok and Johnston, 2001), as optical densities of R, G, B.
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def stained(haematoxylin: float, eosin: float, shape=(4, 4)) -> np.ndarray:
    light = 256 * np.exp(-(haematoxylin * HAEMATOXYLIN + eosin * EOSIN)) - 1
    return np.broadcast_to(np.rint(light), (*shape, 3)).astype(np.uint8)


def colours() -> np.ndarray:
    levels = np.linspace(0, 255, 12).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(36, 48, 3)


def test_gain_one_changes_nothing():
    np.testing.assert_array_equal(jitter_stains(colours(), np.ones(3), np.zeros(3)), colours())


def test_gains_leave_white_white():
    white = np.full((2, 2, 3), 255, dtype=np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(jitter_stains(white, rng.uniform(0.5, 2, size=3), np.zeros(3)), white)


def test_shifts_tint_white_as_another_lamp_would():
    white = np.full((2, 2, 3), 255, dtype=np.uint8)
    limits = AugmentationOptions()
    largest = np.array([limits.stain_shift, limits.stain_shift, limits.residual_shift])
    assert jitter_stains(white, np.ones(3), largest).min() > 225
    np.testing.assert_array_equal(jitter_stains(white, np.ones(3), -largest), white)


@pytest.mark.parametrize(("gains", "expected"), [((1.5, 1, 1), (0.9, 0.4)), ((1, 0.5, 1), (0.6, 0.2))])
def test_gains_scale_one_stain(gains, expected):
    jittered = jitter_stains(stained(0.6, 0.4), np.array(gains), np.zeros(3))
    assert np.abs(jittered.astype(int) - stained(*expected)).max() <= 3


def test_shifts_add_to_one_stain():
    jittered = jitter_stains(stained(0.6, 0.4), np.ones(3), np.array([0.2, 0, 0]))
    assert np.abs(jittered.astype(int) - stained(0.8, 0.4)).max() <= 3


def test_nothing_asked_nothing_done():
    np.testing.assert_array_equal(augment_image(colours(), np.random.default_rng(0), NOTHING), colours())


@pytest.mark.parametrize("name", COLOUR)
def test_each_change_alone_changes_the_image_a_little(name):
    image = np.kron(stained(0.6, 0.3, (6, 6)), np.ones((8, 8, 1), dtype=np.uint8))
    image[:, 20:28] = stained(0.05, 0.2)[0, 0]
    changed = [
        augment_image(image, np.random.default_rng(seed), replace(NOTHING, **{f"{name}_probability": 1}))
        for seed in range(8)
    ]
    assert all(result.dtype == np.uint8 and result.shape == image.shape for result in changed)
    differences = [np.abs(result.astype(int) - image).mean() for result in changed]
    assert 0 < max(differences) < 40


def test_nuclei_stay_where_they_are():
    image = stained(0.05, 0.3, (64, 64)).copy()
    rows, columns = np.mgrid[:64, :64]
    nucleus = (rows - 20) ** 2 + (columns - 44) ** 2 <= 100
    image[nucleus] = stained(1.0, 0.3)[0, 0]
    for seed in range(10):
        result = augment_image(image, np.random.default_rng(seed), ALWAYS).mean(axis=-1)
        middle = (result[nucleus].mean() + result[~nucleus].mean()) / 2
        assert ((result < middle) == nucleus).mean() > 0.97


def test_the_seed_decides():
    image = colours()
    first, again, other = (augment_image(image, np.random.default_rng(seed), ALWAYS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(image, colours())


def test_probabilities_are_kept():
    parameters = replace(NOTHING, light_probability=0.3)
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    results = (augment_image(image, np.random.default_rng(seed), parameters) for seed in range(300))
    changed = sum(bool((result != image).any()) for result in results)
    assert 60 < changed < 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({field.name: 1.5}, field.name) for field in fields(AugmentationOptions) if "probability" in field.name),
        ({"noise_sigma": -1}, "noise_sigma"),
        ({"stain_gain": 0.9}, "stain_gain"),
        ({"residual_gain": 0.5}, "residual_gain"),
        ({"scale_smallest": 1.4}, "scale_smallest <= scale_largest"),
        ({"scale_smallest": 0}, "scale_smallest <= scale_largest"),
        ({"jpeg_quality": 100}, "jpeg_quality"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"resolution_factor": 0.5}, "resolution_factor"),
        ({"elastic_pixels": 8, "elastic_spacing": 32}, "folds over"),
        ({"stain_transfer_method": "vahadane"}, "macenko, reinhard"),
    ],
)
def test_bad_strengths(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentationOptions(**options)


def test_numbers_written_as_text_are_refused():
    with pytest.raises(TypeError, match=r"blur_probability must be a number, got '0\.5'"):
        AugmentationOptions(blur_probability="0.5")


def test_presets_grow():
    none, light, standard, strong = (AugmentationOptions.preset(name) for name in AugmentationOptions.PRESETS)
    assert standard == AugmentationOptions()
    for option in fields(AugmentationOptions):
        values = [getattr(preset, option.name) for preset in (none, light, standard, strong)]
        if option.name.endswith("probability"):
            assert values[0] == 0
            assert values == sorted(values), option.name
        elif option.name not in ("scale_smallest", "jpeg_quality", "stain_transfer_method"):
            assert values[1:] == sorted(values[1:]), option.name
        else:
            assert values[1:] == sorted(values[1:], reverse=True), option.name


def test_preset_with_changes():
    assert AugmentationOptions.preset("strong", blur_sigma=3.0).blur_sigma == 3
    with pytest.raises(ValueError, match="none, light, standard, strong, got 'heavy'"):
        AugmentationOptions.preset("heavy")
    with pytest.raises(ValueError, match="unknown augmentation options blur_sgima; choose from turn_probability"):
        AugmentationOptions.preset("light", blur_sgima=1)


def test_every_option_has_a_reason_and_is_read():
    for option in fields(AugmentationOptions):
        assert len(option.metadata["help"]) > 8, option.name
    read: set[str] = set()

    class Watched(AugmentationOptions):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    everything = {option.name: 1.0 for option in fields(Watched) if option.name.endswith("probability")}
    rows = np.zeros((40, 40), dtype=np.int32)
    rows[10:20, 10:20] = 1
    tile = Tile(np.full((40, 40, 3), 120, dtype=np.uint8), rows, None, "a")
    options = Watched(**everything | {"stain_transfer_probability": 0.0})
    read.clear()
    data = CropDataset([CropSource("a", [tile])], 32, (0, 0, 0), (1, 1, 1), length=2, augmentation=options)
    data[0]
    # The method is read when stains are measured, which needs the optional library.
    assert read >= {option.name for option in fields(Watched)} - {"stain_transfer_method"}


def test_coarse_images_stay_in_place():
    rows, columns = np.mgrid[:64, :64]
    disc = ((rows - 20.3) ** 2 + (columns - 41.7) ** 2 <= 90)[..., None] * np.full(3, 200)
    coarse = coarsen(disc.astype(np.uint8), 2.7)[..., 0].astype(float)
    for positions in (rows, columns):
        moved = (coarse * positions).sum() / coarse.sum() - (disc[..., 0] * positions).sum() / disc[..., 0].sum()
        assert abs(moved) < 0.1
    assert np.abs(np.diff(coarse)).max() < 150
    np.testing.assert_array_equal(coarsen(disc.astype(np.uint8), 1.0), disc)
