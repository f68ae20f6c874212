"""Why: a divergence with a wrong factor would still fall in training, but unbalance the terms of the loss."""

import math

import pytest
import torch

from cfsam_hf.training.divergence import binary_divergence, offset_difference, type_divergence


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_binary_divergence_is_that_of_kullback_and_leibler():
    # Two pixels: one differs, one does not.
    logits = torch.tensor([[[[logit(0.2), logit(0.7)]]]])
    target = torch.tensor([[[[0.5, 0.7]]]])
    expected = (0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)) / 2
    assert binary_divergence(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_sure_targets_are_finite():
    assert binary_divergence(torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])).item() == pytest.approx(
        math.log(2)
    )
    logits, target = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert type_divergence(logits, target).item() == pytest.approx(math.log(2))


def test_type_divergence_sums_over_types_and_averages_over_pixels():
    found = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])
    target = torch.tensor([[0.2, 0.4, 0.4], [0.1, 0.6, 0.3]])
    expected = (target * (target / found).log()).sum() / 2
    as_maps = (values.T[None, :, None] for values in (found.log(), target))
    assert type_divergence(*as_maps).item() == pytest.approx(expected.item(), rel=1e-4)


def test_offsets_count_by_the_probability_of_nuclei_and_per_image():
    target = torch.zeros(2, 2, 1, 2)
    maps = torch.tensor([[[[0.3, 9.0]], [[0.4, 9.0]]], [[[0.0, 1.0]], [[0.0, 0.0]]]])
    inside = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 3.0]]]])
    # .3^2 + .4^2 in the first image; (0 + 3) / 4 in the second.
    assert offset_difference(maps, target, inside).item() == pytest.approx((0.25 + 0.75) / 2)
