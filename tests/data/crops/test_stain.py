"""Why: stain transfer must do what torchstain does to a whole tile, and cost nothing when it is off."""

import sys

import numpy as np
import pytest

from cfsam_hf.data.crops import stain
from cfsam_hf.data.crops.stain import MacenkoAppearance, measure_stains

DIRECTIONS = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]]) / np.linalg.norm([[0.65, 0.70, 0.29]])


def tissue(seed: int, haematoxylin: float, eosin: float, shape=(120, 160)) -> np.ndarray:
    """Random amounts of two stains on white glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2, 0.25, size=(*shape, 2)) * (haematoxylin, eosin)
    return np.clip(240 * np.exp(-amounts @ DIRECTIONS.T), 0, 255).astype(np.uint8)


def test_twice_the_eosin():
    source, target = (MacenkoAppearance(DIRECTIONS, np.array([1.0, eosin])) for eosin in (0.5, 1.0))
    amounts = np.array([0.3, 0.4])
    image, expected = (
        np.full((2, 2, 3), 240 * np.exp(-(amounts * (1, factor)) @ DIRECTIONS.T) - 1).round().astype(np.uint8)
        for factor in (1, 2)
    )
    assert np.abs(source.recolour(image, target).astype(int) - expected).max() <= 2
    assert np.abs(source.recolour(image, source).astype(int) - image).max() <= 2


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_whole_tiles_turn_out_as_torchstains(method):
    torchstain = pytest.importorskip("torchstain")
    image, target = tissue(0, 0.7, 1.0), tissue(1, 1.2, 0.6)
    normalizer = getattr(torchstain.normalizers, f"{method.capitalize()}Normalizer")(backend="numpy")
    normalizer.fit(target)
    expected = normalizer.normalize(image)
    expected = expected[0] if method == "macenko" else expected
    recoloured = measure_stains(image, method).recolour(image, measure_stains(target, method))
    difference = np.abs(recoloured.astype(int) - expected)
    # torchstain's numpy Reinhard does not clip: colours out of range wrap around there.
    inside = (expected > 8) & (expected < 248)
    assert np.percentile(difference[inside], 99) <= 2
    assert inside.mean() > 0.9
    assert np.abs(image.astype(int) - expected)[inside].mean() > 8


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_glass_and_grey_are_not_measured(method):
    pytest.importorskip("torchstain")
    assert measure_stains(np.full((64, 64, 3), 245, dtype=np.uint8), method) is None
    if method == "reinhard":
        assert measure_stains(np.full((64, 64, 3), 90, dtype=np.uint8), method) is None


def test_without_the_library_the_error_tells_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchstain", None)
    stain._torchstain.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'cfsam_hf\[stain\]', or set stain_transfer_probability to 0"):
        measure_stains(tissue(0, 1, 1), "macenko")
    stain._torchstain.cache_clear()


def test_unknown_methods():
    with pytest.raises(ValueError, match="macenko, reinhard, got 'vahadane'"):
        measure_stains(tissue(0, 1, 1), "vahadane")
