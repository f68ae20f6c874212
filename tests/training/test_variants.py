"""Why: each variant must be what its name says, train what it should, and start like the others."""

import logging

import pytest
import torch
from accelerate.utils import set_seed

from cfsam_hf import CfSamForNucleiSegmentation
from cfsam_hf.training.variants import VARIANTS, build_variant, reading, variant_recipe

from ..tiny import SIZE, random_labels, tiny_test_model
from ..training_cases import smoke_recipe, write_base

TYPES = ("a", "b", "c")


def build(root, name, start="backbone", types=TYPES, **changes):
    set_seed(0)
    return build_variant(smoke_recipe(root, **changes), types, VARIANTS[name], start)


def pixels():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


# What has a gradient beside the parts that every variant trains; of LoRA and MALA what is not behind a zero.
TRAINED = {
    "full": {"adapter", "decoder", "fusion", "refinement", "stem"},
    "no_mala": {"decoder", "fusion", "refinement", "stem"},
    "fixed_kernels": {"adapter", "decoder", "fusion", "refinement", "stem"},
    "single_scale": {"adapter", "decoder", "fusion", "refinement", "stem"},
    "smallest_scale": {"adapter", "decoder", "fusion", "refinement", "stem"},
    "no_hmfm": {"adapter", "decoder", "refinement", "stem"},
    "no_stem": {"adapter", "decoder", "fusion", "refinement"},
    "no_bgmr": {"adapter", "decoder", "fusion", "stem"},
    "lora": {"lora", "decoder", "fusion", "refinement", "stem"},
    "head_only": {"fusion", "refinement", "stem"},
    "full_fine_tuning": {"encoder", "decoder", "fusion", "refinement", "stem"},
}


def part_of(name):
    marks = {
        **{".lora_": "lora", ".adapter.": "adapter", ".vision_encoder.": "encoder", ".mask_decoder.": "decoder"},
        **{"fusion.": "fusion", "refinement.": "refinement", ".stem.": "stem"},
    }
    return next((part for mark, part in marks.items() if mark in f".{name}"), "rest")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_what_it_says(tmp_path, name):
    write_base(tmp_path)
    model, origin = build(tmp_path, name)
    labels = random_labels(2)
    model.train()(pixel_values=pixels(), **labels).loss.backward()
    got = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {part_of(n) for n in got} == TRAINED[name] | {"rest"}
    assert all(p.requires_grad for n, p in model.named_parameters() if n in got)
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == TRAINED[name] | {"rest"}
    assert sum(origin.loaded.values()) + sum(origin.new.values()) == sum(p.numel() for p in model.parameters())
    assert model.config.type_names == {1: "a", 2: "b", 3: "c"}


def test_variants_are_what_their_names_say(tmp_path):
    write_base(tmp_path)
    sizes = {name: build(tmp_path, name)[0].config.adapter_kernel_sizes for name in ("full", "single_scale")}
    assert sizes == {"full": [3, 5, 7], "single_scale": [7]}
    assert build(tmp_path, "fixed_kernels")[0].sam.vision_encoder.layers[0].adapter.context is None
    assert build(tmp_path, "no_hmfm")[0].fusion is None
    assert build(tmp_path, "no_bgmr")[0].refinement is None
    assert build(tmp_path, "no_stem")[0].mask_features.stem is None
    adapters = sum(p.numel() for n, p in build(tmp_path, "full")[0].named_parameters() if ".adapter." in n)
    model, origin = build(tmp_path, "lora")
    lora = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    # As many parameters as MALA, to half a rank.
    assert abs(lora - adapters) <= lora / origin.lora_rank / 2
    assert origin.new["LoRA"] == lora


def test_what_variants_share_begins_with_the_same_values(tmp_path):
    write_base(tmp_path)
    base = tiny_test_model(num_types=0).state_dict()
    full = build(tmp_path, "full")[0].state_dict()
    for name in ("no_mala", "no_hmfm", "single_scale", "head_only"):
        other = build(tmp_path, name)[0].state_dict()
        shared = {key for key in other if key in full and full[key].shape == other[key].shape}
        assert len(shared) > 100
        assert all(torch.equal(full[key], other[key]) for key in shared)
    # SAM's from the base, the heads new.
    assert torch.equal(full["sam.vision_encoder.pos_embed"], base["sam.vision_encoder.pos_embed"])
    assert not torch.equal(full["fusion.level_projections.0.weight"], base["fusion.level_projections.0.weight"])
    assert not full["sam.vision_encoder.layers.0.adapter.up.weight"].any()


def test_random_base_begins_alike_too(tmp_path):
    models = [build(tmp_path, name, base="tiny")[0].state_dict() for name in ("full", "no_bgmr")]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    set_seed(1)
    other, origin = build_variant(smoke_recipe(tmp_path, base="tiny"), TYPES, VARIANTS["full"])
    assert not torch.equal(
        other.state_dict()["fusion.level_projections.0.weight"], models[0]["fusion.level_projections.0.weight"]
    )
    assert origin.loaded == {}


@pytest.mark.parametrize("name", ["full", "lora", "head_only", "full_fine_tuning", "no_mala", "single_scale"])
def test_a_whole_start_from_a_base_without_adapters_is_that_base(tmp_path, name):
    write_base(tmp_path, num_types=3, use_mala=False)
    base = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "base")
    model, origin = build(tmp_path, name, "whole", types=list(base.config.type_names.values()))
    with torch.no_grad():
        expected, found = base.eval()(pixels()), model.eval()(pixels())
    assert torch.allclose(expected.nuclei_logits, found.nuclei_logits, atol=1e-5)
    assert torch.allclose(expected.type_logits, found.type_logits, atol=1e-5)
    assert origin.left_out == {}
    assert set(origin.new) == {"full": {"MALA"}, "single_scale": {"MALA"}, "lora": {"LoRA"}}.get(name, set())


def test_a_whole_start_keeps_the_heads_and_says_what_is_new(tmp_path, caplog):
    write_base(tmp_path, num_types=3)
    base = tiny_test_model(num_types=3)
    with caplog.at_level(logging.INFO):
        model, origin = build(tmp_path, "no_hmfm", "whole", types=list(base.config.type_names.values()))
    assert set(origin.new) == {"neck_projection"}
    assert set(origin.left_out) == {"fusion"}
    assert "new neck_projection" in caplog.text
    assert torch.equal(model.task_decoder.task_tokens.weight, base.task_decoder.task_tokens.weight)


def test_leaving_out_trained_adapters_is_said(tmp_path, caplog):
    write_base(tmp_path)
    build(tmp_path, "full")
    assert "use_mala" in caplog.text
    caplog.clear()
    write_base(tmp_path, use_mala=False)
    build(tmp_path, "full")
    assert "use_mala" not in caplog.text


def test_options_of_the_recipe_reach_every_variant(tmp_path):
    write_base(tmp_path)
    changes = {"model_options": {"mask_dim": 4, "use_hmfm": False}, "gradient_checkpointing": True}
    model, _ = build(tmp_path, "no_bgmr", **changes)
    assert model.config.mask_dim == 4
    assert model.fusion is None
    assert all(layer.gradient_checkpointing for layer in model.sam.vision_encoder.layers)
    with pytest.raises(ValueError, match="mask_dimm"):
        build(tmp_path, "full", model_options={"mask_dimm": 4})
    with pytest.raises(ValueError, match="unet"):
        build(tmp_path, "full", base="unet")


def test_the_recipe_of_a_variant_says_what_differs(tmp_path):
    recipe = smoke_recipe(tmp_path, model_options={"mask_dim": 4})
    changed = variant_recipe(recipe, VARIANTS["full_fine_tuning"], output_dir="elsewhere")
    assert changed.model.settings()["mask_dim"] == 4
    assert changed.model.settings()["use_mala"] is False
    assert changed.model.train_encoder
    assert changed.run.output_dir == "elsewhere"
    assert recipe.model.settings() == {"mask_dim": 4}


def test_readings_are_the_maps_that_they_name():
    model = tiny_test_model()
    with torch.no_grad():
        plain = model(pixels())
        assert not torch.equal(plain.nuclei_logits, plain.initial_nuclei_logits)
        with reading(model, "initial"):
            initial = model(pixels())
        with reading(model, "initial_with_boundary"):
            with_boundary = model(pixels())
        again = model(pixels())
    for of in (initial, with_boundary):
        assert torch.equal(of.nuclei_logits, plain.initial_nuclei_logits)
        assert torch.equal(of.hv_maps, plain.initial_hv_maps)
        assert torch.equal(of.type_logits, plain.initial_type_logits)
    assert initial.boundary_logits is None
    assert torch.equal(with_boundary.boundary_logits, plain.boundary_logits)
    assert torch.equal(again.nuclei_logits, plain.nuclei_logits)
    with pytest.raises(ValueError, match="'first'"), reading(model, "first"):
        pass
