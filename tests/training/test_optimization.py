"""Why: optimiser groups, learning rates and averaged weights must follow the recipe."""

import pytest
import torch

from cfsam_hf.training import (
    ExponentialMovingAverage,
    OptimizationOptions,
    cosine_with_warmup,
    make_optimizer,
    make_recipe,
    parameter_groups,
)
from cfsam_hf.training.optimization import set_learning_rates

from ..tiny import tiny_test_model


def test_ema_follows_its_formula_and_gives_the_own_weights_back():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = ExponentialMovingAverage(model, decay=0.9)
    model.weight.data.fill_(2.0)
    ema.update(model)
    # The first update has d = min(.9, 2 / 11).
    assert ema.average["weight"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 2)
    with ema.applied_to(model):
        assert model.weight.item() == pytest.approx(ema.average["weight"].item())
    assert model.weight.item() == 2.0


def test_ema_of_frozen_parameters_is_not_kept():
    model = tiny_test_model()
    names = set(ExponentialMovingAverage(model, 0.9).average)
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}


def test_schedule():
    assert cosine_with_warmup(0, 10, 110) == pytest.approx(0.1)
    assert cosine_with_warmup(10, 10, 110) == pytest.approx(1.0)
    assert cosine_with_warmup(60, 10, 110) == pytest.approx(0.505)
    assert cosine_with_warmup(500, 10, 110) == pytest.approx(0.01)


def test_parameter_groups_hold_every_trainable_parameter_once():
    model = tiny_test_model(type_trunk="efficientnet-lite0")
    options = OptimizationOptions(
        learning_rate=1e-3, weight_decay=0.1, mask_decoder_factor=0.5, type_trunk_factor=0.25
    )
    groups = parameter_groups(model, options)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    by_id = {id(p): group for group in groups for p in group["params"]}
    assert by_id[id(model.task_decoder.task_tokens.weight)]["weight_decay"] == 0
    assert by_id[id(model.refinement.boundary.bias)]["weight_decay"] == 0
    assert by_id[id(model.refinement.boundary.weight)]["weight_decay"] == 0.1
    assert by_id[id(model.sam.mask_decoder.upscale_conv1.weight)]["lr"] == 5e-4
    assert by_id[id(model.type_branch.trunk.first.weight)]["lr"] == 2.5e-4
    assert by_id[id(model.type_branch.classify.weight)]["lr"] == 1e-3


def test_no_decay_on_norms_biases_and_tokens():
    model = tiny_test_model(train_encoder=True)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, OptimizationOptions())
    plain = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm) and module.weight.requires_grad
    }
    assert norms
    assert norms <= plain
    assert {name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")} <= plain
    assert {"task_decoder.task_tokens.weight", "sam.vision_encoder.pos_embed"} <= plain
    assert "fusion.projections.0.weight" not in plain


def test_rates_of_a_step_depend_on_the_step_alone():
    options = make_recipe(
        data=["reader=a,path=b"],
        output_dir="run",
        steps=110,
        warmup_steps=10,
        learning_rate=1e-3,
        mask_decoder_factor=0.5,
        final_rate=0.1,
        beta1=0.8,
    ).optimization
    optimizer = make_optimizer(tiny_test_model(), options)
    assert optimizer.defaults["betas"] == (0.8, 0.98)
    for step, factor in ((60, 0.55), (0, 0.1), (10, 1.0), (110, 0.1)):
        set_learning_rates(optimizer, step, options)
        rates = {round(group["lr"], 9) for group in optimizer.param_groups}
        assert rates == {round(1e-3 * factor, 9), round(5e-4 * factor, 9)}
