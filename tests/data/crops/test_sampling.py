"""Why: balanced sampling must follow the published formula and show rare types and tissues as often as it says."""

from dataclasses import fields

import numpy as np
import pytest

from cfsam_hf.data.crops.geometry import Geometry
from cfsam_hf.data.crops.sampling import PlaceSampler, SamplingOptions, balanced_weights, tissue_weights, type_weights
from cfsam_hf.data.records import UNKNOWN_TYPE

TISSUES = ["colon", "colon", "colon", "skin", "liver", "liver"]
PRESENT = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool)


def literal_weights(tissues, present, gamma):
    """The formula written out image by image and type by type."""
    k_tissue = len(tissues)
    k_type = sum(sum(row) for row in present.tolist())
    by_tissue, by_type = [], []
    for tissue, row in zip(tissues, present.tolist(), strict=True):
        by_tissue.append(k_tissue / (gamma * tissues.count(tissue) + (1 - gamma) * k_tissue))
        total = 0.0
        for column, held in enumerate(row):
            images = sum(other[column] for other in present.tolist())
            total += held * k_type / (gamma * images + (1 - gamma) * k_type)
        by_type.append((1 - gamma) * max(row) + gamma * total)
    smallest = min(weight for weight in by_type if weight > 0)
    by_type = [weight or smallest for weight in by_type]
    return [a / max(by_tissue) + b / max(by_type) for a, b in zip(by_tissue, by_type, strict=True)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.85, 1.0])
def test_weights_are_the_published_formula(gamma):
    weights = balanced_weights(TISSUES, PRESENT, gamma, "tissue_and_types")
    np.testing.assert_allclose(weights, literal_weights(TISSUES, PRESENT, gamma))


def test_values_by_hand():
    # k = 10 marks; N = 5, 2, 2 with 9 marks in all: gamma 1 gives k / N = 9/5, 9/2, 9/2.
    np.testing.assert_allclose(type_weights(PRESENT, 1.0), [6.3, 6.3, 1.8, 1.8, 1.8, 10.8])
    np.testing.assert_allclose(tissue_weights(TISSUES, 1.0), [2, 2, 2, 6, 3, 3])
    np.testing.assert_allclose(
        balanced_weights(TISSUES, PRESENT, 1.0, "tissue_and_types")[[0, 3]], [2 / 6 + 6.3 / 10.8, 1 + 1.8 / 10.8]
    )


def test_no_balance_and_nothing_to_balance():
    np.testing.assert_array_equal(balanced_weights(TISSUES, PRESENT, 0.85, "none"), np.ones(6))
    np.testing.assert_array_equal(type_weights(np.zeros((3, 0), dtype=bool), 0.85), np.ones(3))
    np.testing.assert_array_equal(type_weights(np.zeros((3, 2), dtype=bool), 1.0), np.ones(3))
    assert len(set(tissue_weights([None] * 4, 0.85))) == 1
    np.testing.assert_allclose(balanced_weights(TISSUES, PRESENT, 0.0, "tissue_and_types"), np.full(6, 2.0))


def tiles_of_formula(options, size=64):
    """Tiles of the crop's size with one nucleus of each type that `PRESENT` has."""
    centroids = [np.full((row.sum(), 2), 32.0) for row in PRESENT]
    types = [np.flatnonzero(row) + 1 for row in PRESENT]
    return PlaceSampler([(size, size)] * 6, centroids, types, TISSUES, [1.0] * 6, size, options)


def test_tiles_of_the_crops_size_are_drawn_by_the_formula():
    sampler = tiles_of_formula(SamplingOptions(balance="tissue_and_types", nucleus_probability=0))
    expected = np.array(literal_weights(TISSUES, PRESENT, 0.85))
    np.testing.assert_allclose(sampler.cell_probabilities, expected / expected.sum())
    rng = np.random.default_rng(0)
    places = [sampler.sample(rng, Geometry()) for _ in range(6000)]
    drawn = np.bincount([tile for tile, _ in places], minlength=6) / 6000
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.02)
    assert {centre for _, centre in places} == {(32.0, 32.0)}


def test_large_tiles_are_balanced_by_cells():
    # One tile of 4 x 4 cells; the rare type lies in one of them, so crops must be drawn there more often.
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 256, (400, 2)), [[200.0, 40.0]]])
    types = np.array([1] * 400 + [2])
    counts = {}
    for balance in ("none", "types"):
        options = SamplingOptions(balance=balance, gamma=1.0, nucleus_probability=0)
        sampler = PlaceSampler([(256, 256)], [points], [types], [None], [1.0], 64, options)
        places = [sampler.sample(rng, Geometry())[1] for _ in range(1500)]
        counts[balance] = sum(abs(x - 200) < 32 and abs(y - 40) < 32 for x, y in places)
        assert all(32 <= x <= 224 and 32 <= y <= 224 for x, y in places)
    assert counts["types"] > 2.5 * counts["none"]
    assert len(sampler.cells) == 16
    np.testing.assert_allclose(sampler.cell_probabilities[3], 17 / 32)  # (17/16 + 17) / 34, k being 17


def test_cells_reach_all_of_a_tile():
    options = SamplingOptions(balance="tissue", nucleus_probability=0)
    sampler = PlaceSampler([(150, 200)], [np.zeros((0, 2))], [None], ["skin"], [1.0], 64, options)
    rng = np.random.default_rng(0)
    seen = np.zeros((150, 200), dtype=int)
    for _ in range(400):
        x, y = sampler.sample(rng, Geometry())[1]
        seen[int(y - 32) : int(y + 32), int(x - 32) : int(x + 32)] += 1
    assert (seen[8:-8, 8:-8] > 0).all()


@pytest.mark.parametrize(("power", "shares"), [(0.0, (0.9, 0.1)), (0.5, (0.75, 0.25)), (1.0, (0.5, 0.5))])
def test_nuclei_are_drawn_by_inverse_type_frequency(power, shares):
    points = np.random.default_rng(0).uniform(20, 108, (100, 2))
    types = np.array([1] * 90 + [2] * 10)
    options = SamplingOptions(nucleus_probability=1, rarity_power=power)
    sampler = PlaceSampler([(128, 128)], [points], [types], [None], [1.0], 32, options)
    np.testing.assert_allclose(sampler.group_probabilities, shares)
    x, y = sampler.sample(np.random.default_rng(1), Geometry())[1]
    assert np.abs(points - (x, y)).max(axis=1).min() <= 16


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 0.9)])
def test_dense_tiles_are_held_back_and_tiles_without_the_type_never_drawn(power, share):
    points = [np.full((count, 2), 32.0) for count in (90, 10, 5)]
    types = [np.ones(90), np.ones(10), np.full(5, UNKNOWN_TYPE)]
    options = SamplingOptions(nucleus_probability=1, density_power=power)
    sampler = PlaceSampler([(64, 64)] * 3, points, types, [None] * 3, [1.0] * 3, 32, options)
    np.testing.assert_allclose(sampler.group_tile_probabilities[0], [share, 1 - share, 0])


def test_the_balance_of_tissues_acts_on_drawn_nuclei():
    points = [np.full((4, 2), 32.0)] * 4
    options = SamplingOptions(balance="tissue", gamma=1.0, nucleus_probability=1)
    tissues = ["colon", "colon", "colon", "skin"]
    sampler = PlaceSampler([(64, 64)] * 4, points, [None] * 4, tissues, [1.0] * 4, 32, options)
    np.testing.assert_allclose(sampler.group_tile_probabilities[0], [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_place_is_a_function_of_the_generator():
    sampler = tiles_of_formula(SamplingOptions(balance="tissue_and_types"))
    for seed in range(20):
        first, again = (sampler.sample(np.random.default_rng(seed), Geometry()) for _ in range(2))
        assert first == again


def test_every_option_has_a_reason():
    assert all(len(option.metadata["help"]) > 20 for option in fields(SamplingOptions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "both"}, "none, tissue, types, tissue_and_types, got 'both'"),
        ({"gamma": 1.2}, "gamma"),
        ({"nucleus_probability": -0.1}, "nucleus_probability"),
        ({"rarity_power": 2}, "rarity_power"),
        ({"density_power": -1}, "density_power"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)
