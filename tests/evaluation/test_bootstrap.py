"""Why: intervals use the same formulas as the scores; both must agree, and resampling must work as stated."""

import math

import numpy as np
import pytest

from cfsam_hf.evaluation.bootstrap import bootstrap_intervals
from cfsam_hf.metrics import UNKNOWN_TYPE, image_metrics, summarize
from cfsam_hf.metrics.summary import weighted_scores

from .. import metrics_literal as literal

TISSUES = ["Breast", "Colon", "Liver", "Skin"]
NAMES = ["round", "long", "rare"]


def random_images(count, *, typed, seed=0):
    """Metrics of random pairs, among them empty truths; the third type occurs only now and then, some are unknown."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(count):
        true, pred = literal.random_pair(rng)
        true = true * (number % 7 > 0)
        kinds = [{int(n): int(rng.choice([1, 2, 3], p=[0.5, 0.45, 0.05])) for n in np.unique(m)} for m in (true, pred)]
        kinds[0] |= {n: UNKNOWN_TYPE for n in kinds[0] if rng.random() < 0.2}
        scores = {int(n): rng.random() for n in np.unique(pred)}
        types = {"true_types": kinds[0], "pred_types": kinds[1], "num_types": 3} if typed else {}
        images.append(image_metrics(true, pred, pred_scores=scores, radius=5, **types))
    return images


@pytest.mark.parametrize("typed", [True, False])
def test_every_score_and_nothing_else_has_an_interval(typed):
    images = random_images(6, typed=typed)
    tissues, names = [TISSUES[i % 3] for i in range(6)], NAMES if typed else None
    scores = summarize(images, tissues=tissues, type_names=names)
    without = {"images", "true_nuclei", "pred_nuclei", "true_nuclei_without_type"}
    expected = [name for name in scores if name not in without and name.partition("/")[2] not in TISSUES]
    assert list(bootstrap_intervals(images, tissues=tissues, type_names=names, resamples=3)) == expected


@pytest.mark.parametrize("typed", [True, False])
def test_weights_are_repeated_images(typed):
    images = random_images(12, typed=typed)
    tissues = [TISSUES[i % 4] for i in range(12)]
    rng = np.random.default_rng(1)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=20)
    found = weighted_scores(images, weights, tissues=tissues)
    for row, drawn in enumerate(weights):
        chosen = np.repeat(np.arange(12), drawn)
        expected = summarize([images[i] for i in chosen], tissues=[tissues[i] for i in chosen])
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-9, nan_ok=True), name


def test_interval_of_a_mean_is_that_of_the_normal_approximation():
    images = random_images(150, typed=False)
    low, high = bootstrap_intervals(images, resamples=4000)["pq_mean_over_images"]
    values = np.array([image.panoptic.pq for image in images])
    values = values[~np.isnan(values)]
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_intervals_hold_the_score_narrow_with_more_images_and_repeat_with_the_seed():
    images = random_images(60, typed=True)
    # The same images four times over: the score is the same, its interval half as wide.
    few, many = bootstrap_intervals(images), bootstrap_intervals(images * 4)
    scores = summarize(images)
    for name in ("pq_mean_over_images", "detection_f1_pooled", "type_f1_pooled/1", "score_ece_pooled"):
        assert many[name][0] < scores[name] < many[name][1]
    for name in ("pq_mean_over_images", "dice_mean_over_images", "boundary_f1_pooled"):
        assert many[name][1] - many[name][0] == pytest.approx((few[name][1] - few[name][0]) / 2, rel=0.15)
    assert bootstrap_intervals(images, seed=3) == bootstrap_intervals(images, seed=3) != many


def test_one_image_has_no_interval_and_an_absent_type_neither():
    images = random_images(1, typed=True)
    assert all(math.isnan(low) and math.isnan(high) for low, high in bootstrap_intervals(images).values())
    one = np.eye(4, dtype=int)
    alike = [image_metrics(one, one, true_types=[1], pred_types=[1], num_types=2)] * 3
    intervals = bootstrap_intervals(alike)
    assert intervals["type_f1_pooled/1"] == (1, 1)
    assert math.isnan(intervals["type_f1_pooled/2"][0])


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="no images to resample"):
        bootstrap_intervals([])
    with pytest.raises(ValueError, match=r"got 0 and 0\.95"):
        bootstrap_intervals(random_images(2, typed=False), resamples=0)
