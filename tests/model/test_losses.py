"""Why: losses must be additive over images, and exactly zero if an image lacks what a term needs."""

import numpy as np
import pytest
import torch

from cfsam_hf.data.crops.targets import make_targets
from cfsam_hf.model.losses import (
    DOUBTFUL,
    LossWeights,
    boundary_losses,
    contact_weights,
    hv_losses,
    map_losses,
    nuclei_losses,
    settle_doubtful,
    type_losses,
    weighted_sum,
)

from ..tiny import SIZE, random_labels, tiny_test_model

IGNORED = -100


def mixed_labels() -> dict[str, torch.Tensor]:
    """Four images: typed, untyped, without nuclei, half annotated."""
    labels = random_labels(4)
    labels["type_labels"][1] = IGNORED
    for name in ("nuclei_labels", "type_labels", "boundary_labels"):
        labels[name][2] = 0
        labels[name][3, :, SIZE // 2 :] = IGNORED
    return labels


@pytest.mark.parametrize(("nuclei_loss", "contact"), [("bce", 0.0), ("focal_tversky", 0.0), ("bce", 6.0)])
def test_the_gradient_of_a_batch_is_the_mean_of_its_images_gradients(nuclei_loss, contact):
    options = {"nuclei_loss": nuclei_loss, "loss_weights": {"contact": contact}}
    model = tiny_test_model(type_loss_weights=[1.0, 2.0, 1.0, 0.5], **options).double()
    labels = mixed_labels()
    labels["hv_labels"] = labels["hv_labels"].double()
    pixel_values = torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(images: slice) -> list[torch.Tensor]:
        loss = model(pixel_values[images], **{n: v[images] for n, v in labels.items()}).loss
        return torch.autograd.grad(loss, parameters)

    together = gradients(slice(0, 4))
    apart = [gradients(slice(i, i + 1)) for i in range(4)]
    for joint, *single in zip(together, *apart, strict=True):
        # The losses themselves are computed in float32.
        assert torch.allclose(joint, sum(single) / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("contact", [0.0, 6.0])
def test_images_that_lack_something_add_exactly_zero_with_zero_gradients(contact):
    options = {"loss_weights": {"contact": contact}}
    # Without the refinement, which reads all initial maps, each map has its own filter alone.
    model = tiny_test_model(use_bgmr=False, **options)
    labels = random_labels(1)
    labels["type_labels"][:] = IGNORED
    output = model(torch.randn(1, 3, SIZE, SIZE), **labels)
    assert output.loss_parts["type_cross_entropy"] == 0
    assert output.loss_parts["type_dice"] == 0
    output.loss.backward()
    nuclei, _, _, *types = model.task_decoder.filters
    assert all(p.grad is not None and not p.grad.any() for network in types for p in network.parameters())
    assert any(p.grad.any() for p in nuclei.parameters())

    model = tiny_test_model(**options)
    for name in ("nuclei_labels", "boundary_labels"):
        labels[name][:] = 0
    parts = model(torch.randn(1, 3, SIZE, SIZE), **labels).loss_parts
    assert parts["hv_mse"] == parts["hv_gradient"] == parts["nuclei_dice"] == parts["boundary_dice"] == 0
    assert parts["nuclei_bce"] > 0

    for name in ("nuclei_labels", "boundary_labels"):
        labels[name][:] = IGNORED
    output = model(torch.randn(1, 3, SIZE, SIZE), **labels)
    assert output.loss == 0


def test_typed_points_train_types_alone():
    model = tiny_test_model(use_bgmr=False)
    instance_map = np.zeros((SIZE, SIZE), dtype=np.int32)
    instance_map[4:8, 4:8], instance_map[20:24, 20:24] = 1, 2
    # The second point has no type.
    type_map = np.where(instance_map == 1, 2, np.where(instance_map == 2, IGNORED, 0))
    labels = {n: torch.from_numpy(v)[None] for n, v in make_targets(instance_map, type_map, points=True).items()}
    assert torch.equal(labels["type_labels"][0] == 2, torch.from_numpy(instance_map == 1))
    assert (labels["type_labels"] == IGNORED).sum() == SIZE**2 - 16
    output = model(torch.randn(1, 3, SIZE, SIZE), **labels)
    assert {name for name, value in output.loss_parts.items() if value != 0} == {"type_cross_entropy", "type_dice"}
    output.loss.backward()
    nuclei, *offsets_and_types = model.task_decoder.filters
    assert all(p.grad is not None and not p.grad.any() for p in nuclei.parameters())
    assert any(p.grad.any() for p in offsets_and_types[-1].parameters())


def test_doubtful_background_counts_unless_the_model_is_confident_of_a_nucleus():
    labels = torch.zeros(1, 4, 30, dtype=torch.long)
    labels[..., :10] = 1
    labels[..., 20:] = DOUBTFUL
    types = torch.where(labels == 1, 2, 0)
    logits = torch.full((1, 1, 4, 30), -2.0)
    logits[..., 15:25] = 2.0  # p = .88 over plain background and over doubtful background
    nuclei, typed, boundary = settle_doubtful(logits, labels, types, torch.zeros_like(labels))
    assert (nuclei[..., :10] == 1).all()
    assert (nuclei[..., 10:20] == 0).all()
    assert (nuclei[..., 20:25] == IGNORED).all()
    assert (nuclei[..., 25:] == 0).all()
    for other in (typed, boundary):
        assert torch.equal(other == IGNORED, nuclei == IGNORED)
    # An opinion of less than .7 does not outweigh the label.
    assert not (settle_doubtful(logits.clamp(max=0.8), labels, None, None)[0] == IGNORED).any()
    # Without doubtful pixels nothing changes, however confident the model is.
    certain = labels.clamp(min=0)
    assert torch.equal(settle_doubtful(logits, certain, None, None)[0], certain)


def test_doubtful_labels_reach_the_models_loss():
    model = tiny_test_model(use_bgmr=False)
    pixels, labels = torch.randn(1, 3, SIZE, SIZE), random_labels(1)
    plain = model(pixels, **labels).loss_parts
    confident = model(pixels).nuclei_logits[:, 0].sigmoid() > 0.7
    labels["nuclei_labels"] = torch.where(
        (labels["nuclei_labels"] == 0) & ~confident, DOUBTFUL, labels["nuclei_labels"]
    )
    assert model(pixels, **labels).loss_parts == plain


def test_missing_type_labels_leave_zero_gradients_not_missing_ones():
    model = tiny_test_model()
    labels = random_labels(1)
    labels.pop("type_labels")
    model(torch.randn(1, 3, SIZE, SIZE), **labels).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_perfect_prediction_costs_nothing():
    labels = random_labels(2)
    nuclei = labels["nuclei_labels"]
    sure = (nuclei[:, None] * 2.0 - 1) * 50
    types = torch.nn.functional.one_hot(labels["type_labels"], 4).permute(0, 3, 1, 2) * 100.0
    terms = map_losses(
        sure, labels["hv_labels"], types, nuclei, labels["hv_labels"], labels["type_labels"], "bce", None
    )
    terms |= boundary_losses((labels["boundary_labels"][:, None] * 2.0 - 1) * 50, labels["boundary_labels"])
    assert all(value.abs().max() < 1e-5 for value in terms.values())


def test_values_by_hand():
    logits = torch.zeros(1, 1, 2, 2)
    labels = torch.tensor([[[1, 0], [0, IGNORED]]])
    terms = nuclei_losses(logits, labels, "bce")
    assert terms["nuclei_bce"].item() == pytest.approx(0.693147, abs=1e-6)
    # Probability .5 on the three annotated pixels: 2 * .5 / (1.5 + 1).
    assert terms["nuclei_dice"].item() == pytest.approx(1 - 1 / 2.5)
    tversky = nuclei_losses(logits, labels, "focal_tversky")["nuclei_focal_tversky"]
    assert tversky.item() == pytest.approx((1 - 0.5 / (0.5 + 0.7 * 0.5 + 0.3 * 1)) ** (4 / 3), rel=1e-4)
    types = type_losses(torch.zeros(1, 3, 2, 2), torch.tensor([[[1, 0], [0, 1]]]), torch.tensor([1.0, 3.0, 1.0]))
    assert types["type_cross_entropy"].item() == pytest.approx(1.098612 * (1 + 3 + 3 + 1) / 4, rel=1e-5)


def test_the_gradient_term_sees_each_map_along_its_own_axis():
    # A horizontal map that is right but for a ramp along y changes nothing along x, and the other way round.
    inside = torch.ones(1, 12, 12, dtype=torch.bool)
    truth = torch.zeros(1, 2, 12, 12)
    ramp = torch.linspace(-1, 1, 12)
    along_y = truth.clone()
    along_y[:, 0] = ramp[:, None]
    along_x = truth.clone()
    along_x[:, 0] = ramp[None, :]
    assert hv_losses(along_y, truth, inside)["hv_gradient"] == 0
    assert hv_losses(along_x, truth, inside)["hv_gradient"].item() == pytest.approx((4 * 2 / 11) ** 2, rel=1e-5)


def two_nuclei(gap: int) -> dict[str, torch.Tensor]:
    """Labels (1, ...) of two squares of 20 px, `gap` columns apart."""
    instance_map = np.zeros((40, 80), dtype=np.int32)
    instance_map[10:30, 10:30] = 1
    instance_map[10:30, 30 + gap : 50 + gap] = 2
    return {name: torch.from_numpy(values)[None] for name, values in make_targets(instance_map).items()}


@pytest.mark.parametrize(("gap", "least", "most"), [(0, 7, 7), (2, 2, 6), (8, 1, 1)])
def test_contours_between_nuclei_count_more_the_nearer_they_are(gap, least, most):
    labels = two_nuclei(gap)
    weights = contact_weights(labels["nuclei_labels"], labels["boundary_labels"], contact=6.0)[0]
    between = weights[20, 29 : 31 + gap]
    assert least <= between.min()
    assert between.max() <= most
    # Contours that face tissue, insides and tissue count once.
    assert (weights[20, :26] == 1).all()
    assert (weights[:12, :25] == 1).all()
    # Half a window and more to the right of where the second nucleus begins.
    assert (weights[20, 30 + gap + 7 :] == 1).all()


def test_a_contour_along_the_border_is_no_contact():
    labels = {name: values[..., 9:, :] for name, values in two_nuclei(8).items()}
    # One row of tissue is left above the nuclei.
    assert (contact_weights(labels["nuclei_labels"], labels["boundary_labels"], contact=6.0) == 1).all()


def test_an_error_between_nuclei_costs_more_than_one_elsewhere():
    labels = two_nuclei(0)
    nuclei, boundary = labels["nuclei_labels"], labels["boundary_labels"]
    counts = contact_weights(nuclei, boundary, contact=6.0)

    def losses_with_error_at(columns: slice) -> dict[str, float]:
        wrong = torch.zeros(1, 1, 40, 80)
        wrong[0, 0, 15:25, columns] = 1.0
        hv_labels = labels["hv_labels"]
        terms = nuclei_losses((nuclei[:, None] * 2.0 - 1) * 10 - 20 * wrong, nuclei, "bce", counts)
        terms |= boundary_losses((boundary[:, None] * 2.0 - 1) * 10 * (1 - 2 * wrong), boundary, counts)
        terms |= hv_losses(hv_labels + wrong, hv_labels, (nuclei == 1) * counts)
        return {name: terms[name].item() for name in ("nuclei_bce", "boundary_bce", "hv_mse", "hv_gradient")}

    between, elsewhere = losses_with_error_at(slice(29, 31)), losses_with_error_at(slice(19, 21))
    for name in ("nuclei_bce", "boundary_bce", "hv_mse"):
        assert between[name] == pytest.approx(7 * elsewhere[name], rel=1e-3)
    assert between["hv_gradient"] > elsewhere["hv_gradient"]


def test_the_weights_of_contacts_reach_the_models_loss():
    labels = {name: values[..., :32, 14:46] for name, values in two_nuclei(0).items()}
    pixel_values = torch.randn(1, 3, 32, 32)
    losses = {}
    for contact in (0.0, 6.0):
        model = tiny_test_model(loss_weights={"contact": contact})
        losses[contact] = model(pixel_values, **labels).loss_parts
    labels.pop("boundary_labels")
    with pytest.raises(ValueError, match="contact needs boundary_labels"):
        model(pixel_values, **labels)
    changed = {name for name, value in losses[0.0].items() if value != losses[6.0][name]}
    outlines = ("nuclei_bce", "hv_mse", "hv_gradient")
    assert changed == {*outlines, *(f"initial_{name}" for name in outlines), "boundary_bce"}


def test_weights_by_name():
    weights = LossWeights.from_config({"nuclei_dice": 3.0})
    assert weighted_sum({"nuclei_dice": torch.ones(1), "nuclei_bce": torch.ones(1)}, weights) == 4
    with pytest.raises(ValueError, match="nucleus_dice"):
        LossWeights.from_config({"nucleus_dice": 1.0})
    with pytest.raises(ValueError, match="-1"):
        LossWeights.from_config({"nuclei_dice": -1.0})
