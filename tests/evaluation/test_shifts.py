"""Why: each condition must change the tile as stated, identically in every run, and the truth with it."""

from dataclasses import replace

import numpy as np
import pytest

from cfsam_hf.data import UNKNOWN_TYPE, Tile
from cfsam_hf.data.crops.augmentation import jitter_stains
from cfsam_hf.evaluation import Prediction, System, evaluate_records
from cfsam_hf.evaluation.shifts import PLAIN, choose_conditions, shift_conditions, shrink_tile

from ..data.test_splits import record

NAMES = {1: "round", 2: "long"}


def tissue(seed: int = 0, side: int = 96) -> Tile:
    """Purple squares of both types on pink, every other one touching its neighbour, and one without a type."""
    rng = np.random.default_rng(seed)
    truth, types = np.zeros((side, side), np.int32), np.zeros((side, side), np.int16)
    for number, (row, column) in enumerate(np.ndindex(3, 4), start=1):
        place = np.s_[8 + 30 * row : 26 + 30 * row, 4 + 20 * column : 24 + 20 * column - 4 * (column % 2)]
        truth[place] = 5 * number
        types[place] = UNKNOWN_TYPE if number == 12 else 1 + number % 2
    image = np.where(truth[..., None] > 0, (110, 70, 150), (225, 180, 210)) + rng.integers(-9, 10, (side, side, 3))
    return Tile(image.astype(np.uint8), truth, types, f"tile{seed}", mpp=0.25, type_names=NAMES)


def by_name(name: str):
    return next(condition for condition in shift_conditions() if condition.name == name)


def test_names_are_unique_and_the_plain_tiles_come_first():
    conditions = shift_conditions()
    assert conditions[0].name == PLAIN
    assert conditions[0].change(tissue()).image is not None
    assert len({condition.name for condition in conditions}) == len(conditions)
    assert {c.kind for c in conditions} == {PLAIN, "stain", "blur", "jpeg", "light", "noise", "magnification"}


def test_every_condition_changes_its_tile_the_same_way_again_and_leaves_the_original():
    original = tissue()
    pictures = []
    for condition in shift_conditions():
        one, again = condition.change(original), condition.change(tissue())
        assert np.array_equal(one.image, again.image), condition.name
        assert np.array_equal(one.instance_map, again.instance_map)
        if condition.kind != "magnification":
            assert one.instance_map is original.instance_map
            assert (one.mpp, one.image.shape) == (0.25, original.image.shape)
            pictures.append(one.image.tobytes())
    assert len(set(pictures)) == len(pictures)
    assert np.array_equal(original.image, tissue().image)


def test_strengths():
    image = tissue().image.astype(int)
    changed = {c.name: c.change(tissue()).image.astype(int) for c in shift_conditions() if c.kind != "magnification"}
    assert np.array_equal(changed["eosin x 1.7"], jitter_stains(tissue().image, np.array([1, 1.7, 1]), np.zeros(3)))
    assert np.array_equal(
        changed["haematoxylin x 1.3, eosin x 0.77"],
        jitter_stains(tissue().image, np.array([1.3, 0.77, 1]), np.zeros(3)),
    )
    assert changed["haematoxylin and eosin x 0.6"].mean() > image.mean() + 20
    assert np.array_equal(changed["brightness -20 grey values"], image - 20)
    assert np.abs(changed["contrast x 0.6"] - (128 + 0.6 * (image - 128))).max() <= 0.5
    noise = (changed["noise, sigma 10 grey values"] - image)[..., 1]
    assert noise.std() == pytest.approx(10, abs=0.5)
    blurred = [changed[f"blur, sigma {sigma} px"].std() for sigma in ("0.7", "1", "1.5", "2")]
    assert blurred == sorted(blurred, reverse=True)
    errors = [np.abs(changed[f"JPEG, quality {quality}"] - image).mean() for quality in (70, 40, 20)]
    assert errors == sorted(errors)
    # Of a tile of another name the noise is another.
    other = by_name("noise, sigma 10 grey values").change(replace(tissue(), id="b")).image
    assert not np.array_equal(other, changed["noise, sigma 10 grey values"])


@pytest.mark.parametrize("mpp", [0.25, None])
def test_at_half_the_magnification_every_nucleus_is_there_with_its_type(mpp):
    tile = replace(tissue(), mpp=mpp)
    tile.annotated = np.arange(96)[:, None] < 60 + np.zeros((1, 96), int)
    small = shrink_tile(tile, 0.5)
    assert (small.mpp, small.image.shape, small.instance_map.shape) == (0.5, (48, 48, 3), (48, 48))
    assert np.abs(small.image.mean(axis=(0, 1)) - tile.image.mean(axis=(0, 1))).max() < 1
    # All borders lie on even pixels: the smaller maps are the larger ones at every second pixel, with other ids.
    expected = tile.instance_map[::2, ::2]
    assert np.array_equal(small.instance_map > 0, expected > 0)
    pairs = np.unique(np.column_stack([small.instance_map.ravel(), expected.ravel()]), axis=0)
    assert len(pairs) == 13
    assert np.array_equal(small.type_map, tile.type_map[::2, ::2])
    assert np.array_equal(small.annotated, tile.annotated[::2, ::2])
    with pytest.raises(ValueError, match=r"tile0: 0\.5 um per pixel is coarser than 0\.25"):
        shrink_tile(small, 0.25)


def test_an_empty_and_an_untyped_tile_shrink():
    tile = replace(tissue(), type_map=None, type_names={}, instance_map=np.zeros((96, 96), np.int32))
    small = shrink_tile(tile, 1.0)
    assert small.instance_map.shape == (24, 24)
    assert small.type_map is None


def test_conditions_are_run_with_and_without_the_pixel_size_and_scored_with_it():
    seen = []

    def predict(tile):
        seen.append((tile.mpp, tile.image.shape[0]))
        return Prediction(tile.instance_map)

    tiles = [replace(record(name), decode=lambda _, seed=seed: tissue(seed)) for seed, name in enumerate("ab")]
    for condition in choose_conditions(["magnification"]):
        system = condition.system(System("oracle", predict))
        scores = evaluate_records(condition.records(tiles), system)
        assert [score.id for score in scores] == ["tile0", "tile1"]
        assert all(score.metrics.panoptic.pq == 1 for score in scores)
        assert all(score.metrics.detection.f1 == 1 for score in scores)
    assert seen[::2] == seen[1::2]
    assert seen[::2] == [(0.25, 96), (None, 96), (0.5, 48), (None, 48), (1.0, 24), (None, 24)]


def test_choosing():
    assert [c.name for c in choose_conditions(["JPEG, quality 40", "noise"])] == [
        *("plain", "JPEG, quality 40", "noise, sigma 5 grey values", "noise, sigma 10 grey values"),
        "noise, sigma 20 grey values",
    ]
    assert len(choose_conditions([])) == len(shift_conditions())
    with pytest.raises(ValueError, match="no condition 'blurr'; give kinds"):
        choose_conditions(["blurr"])
