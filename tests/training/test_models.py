"""Why: the model of a recipe must have the right types and take the right weights from its base."""

import re

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation
from cfsam_hf.training import build_model, build_processor, make_recipe, retype
from cfsam_hf.training.models import checkpoint_of

from ..tiny import SIZE, random_labels, tiny_test_config, tiny_test_model

NAMES = ("a", "b", "c")


def recipe(base, **changes):
    return make_recipe(base=str(base), data=["reader=a,path=b"], output_dir="run", crop_size=SIZE, **changes)


@pytest.fixture
def typed_base(tmp_path):
    model = tiny_test_model(num_types=3, id2label=dict(enumerate(NAMES, start=1)), type_loss_weights=[1, 2, 3, 4])
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def map_parts(model, index: int) -> list[torch.Tensor]:
    """All weights that belong to one map alone."""
    return [
        model.task_decoder.task_tokens.weight[index],
        *model.task_decoder.filters[index].parameters(),
        model.refinement.head[1].weight[index],
        model.refinement.head[1].bias[index],
        model.refinement.head[0][0].weight[:, index - model.num_maps],
    ]


def assert_same_map(a, i: int, b, j: int, same: bool = True) -> None:
    equal = [torch.equal(x, y) for x, y in zip(map_parts(a, i), map_parts(b, j), strict=True)]
    assert all(equal) if same else not any(equal)


def test_other_types_begin_anew_and_all_else_is_the_bases(typed_base, caplog):
    base = CfSamForNucleiSegmentation.from_pretrained(typed_base)
    model = build_model(recipe(typed_base), ["c", "d"])
    assert model.config.type_names == {1: "c", 2: "d"}
    assert model.config.type_loss_weights is None
    for i in range(4):  # Nuclei, two offsets, background.
        assert_same_map(model, i, base, i)
    assert_same_map(model, 4, base, 6)
    for old in (4, 5, 6):
        assert_same_map(model, 5, base, old, same=False)
    others = {n: v for n, v in model.state_dict().items() if not n.startswith(("task_decoder.", "refinement.head"))}
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in others.items())
    assert "new d; removed a, b; kept c" in caplog.text
    pixels = torch.randn(1, 3, SIZE, SIZE)
    before, after = base.eval()(pixels), model.eval()(pixels)
    assert torch.allclose(before.initial_nuclei_logits, after.initial_nuclei_logits, atol=0.5)
    assert after.type_logits.shape[1] == 3


@pytest.mark.parametrize("base", ["runs/mine/model", "./model"])
def test_a_missing_base_is_named_without_asking_the_hub(base):
    with pytest.raises(OSError, match=rf"checkpoint {re.escape(base)}: there is no such folder"):
        checkpoint_of(base)


def test_retyping_leaves_the_trained_model_as_it_is(typed_base):
    base = CfSamForNucleiSegmentation.from_pretrained(typed_base)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    retype(base, CfSamConfig.from_pretrained(typed_base, id2label={1: "x"}))
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_an_untyped_base_gets_types_and_keeps_its_maps(tmp_path):
    base = tiny_test_model(num_types=0)
    base.save_pretrained(tmp_path / "base")
    model = build_model(recipe(tmp_path / "base"), ["a", "b"])
    for i in range(3):
        assert_same_map(model, i, base, i)
    assert model.num_maps == 6


def test_types_of_the_base_stay_where_the_data_has_none_or_some_of_them(typed_base):
    base = load_file(typed_base / "model.safetensors")
    for types in ([], ["b"], ["c", "a", "b"]):
        model = build_model(recipe(typed_base), types)
        assert list(model.config.type_names.values()) == list(NAMES)
        assert model.config.type_loss_weights == [1, 2, 3, 4]
        assert all(torch.equal(value, base[name]) for name, value in model.state_dict().items() if name in base)


@pytest.mark.parametrize("types", [NAMES, ("x",)])
def test_new_styles_begin_as_the_neutral_one_and_known_ones_stay(tmp_path, types, caplog):
    base = tiny_test_model(num_types=3, id2label=dict(enumerate(NAMES, start=1)), styles=["one", "two"])
    with torch.no_grad():
        base.style.modulation.weight.normal_()
    base.save_pretrained(tmp_path / "base")
    with caplog.at_level("INFO", "cfsam_hf"):
        model = build_model(recipe(tmp_path / "base", model_options={"styles": ["two", "three"]}), list(types))
    assert model.config.styles == ["two", "three"]
    assert torch.equal(model.style.tokens.weight, base.style.tokens.weight[[0, 2, 0]])
    assert torch.equal(model.style.modulation.weight, base.style.modulation.weight)
    assert "styles: two, three; new: three" in caplog.text
    assert ("the data's types replace" in caplog.text) == (types != NAMES)
    if types != NAMES:
        return
    pixels = torch.randn(1, 3, SIZE, SIZE)
    expected = base.eval()(pixels, style_ids=torch.tensor([2])).nuclei_logits
    assert torch.allclose(model.eval()(pixels, style_ids=torch.tensor([1])).nuclei_logits, expected, atol=1e-6)


def test_a_base_without_styles_gets_them_and_outlines_stay_near(tmp_path):
    base = tiny_test_model(num_types=0)
    base.save_pretrained(tmp_path / "base")
    model = build_model(recipe(tmp_path / "base", model_options={"styles": ["one"]}), []).eval()
    assert model.style.tokens.weight.shape[0] == 2
    assert not model.style.modulation.weight.any()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in base.state_dict().items())
    # The new token takes part in the attention among tokens, so outlines are near, not equal.
    before, after = base.eval()(pixels), model(pixels)
    assert torch.allclose(before.nuclei_logits.sigmoid(), after.nuclei_logits.sigmoid(), atol=0.02)


@pytest.mark.parametrize("types", [list(NAMES), ["c", "d"]])
def test_finer_maps_begin_as_those_of_the_base(typed_base, types):
    base = CfSamForNucleiSegmentation.from_pretrained(typed_base).eval()
    model = build_model(recipe(typed_base, model_options={"map_upscale": 2}), types).eval()
    assert list(model.config.type_names.values()) == types
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before, after = base.predict_maps(pixels), model.predict_maps(pixels)
    if types != list(NAMES):
        # Tokens of other types take part in the attention, so that the maps are near and not equal.
        before, after = [before[0][:, :3]], [after[0][:, :3]]
    for old, new in zip(before, after, strict=True):
        by_cell = old.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        torch.testing.assert_close(new, by_cell, atol=1e-4 if types == list(NAMES) else 0.5, rtol=0)


def test_finer_maps_leave_the_other_options_as_they_are(typed_base):
    options = {"map_upscale": 2, "type_loss_weights": [1, 1, 1, 9]}
    model = build_model(recipe(typed_base, model_options=options), list(NAMES))
    assert model.config.type_loss_weights == [1, 1, 1, 9]


def test_the_parts_of_a_cell_are_not_divided_again(tmp_path):
    tiny_test_model(map_upscale=2).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="map_upscale is 2 in the base and cannot be changed to 1"):
        build_model(recipe(tmp_path / "base", model_options={"map_upscale": 1}), [])


def test_types_are_replaced_in_a_base_with_finer_maps(tmp_path):
    base = tiny_test_model(map_upscale=2, num_types=3, id2label=dict(enumerate(NAMES, start=1)))
    base.save_pretrained(tmp_path / "base")
    model = build_model(recipe(tmp_path / "base"), ["c", "d"]).eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before, after = base.predict_maps(pixels)[0], model.predict_maps(pixels)[0]
    # Tokens of other types take part in the attention, so that the maps are near and not equal.
    torch.testing.assert_close(after[:, :3], before[:, :3], atol=0.5, rtol=0)
    assert torch.equal(model.refinement.head[1].weight[: 4 * 4], base.refinement.head[1].weight[: 4 * 4])
    assert torch.equal(model.refinement.head[1].weight[4 * 4 : 5 * 4], base.refinement.head[1].weight[6 * 4 :])


def test_a_typed_model_learns_from_tiles_without_types(typed_base):
    model = build_model(recipe(typed_base), []).train()
    labels = random_labels(2) | {"type_labels": torch.full((2, SIZE, SIZE), -100)}
    output = model(torch.randn(2, 3, SIZE, SIZE), **labels)
    assert output.loss_parts["type_cross_entropy"] == 0
    assert output.loss_parts["type_dice"] == 0
    output.loss.backward()
    # Zero, not missing: processes whose tiles have types wait for these gradients.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_class_weights_of_new_types_are_an_option(typed_base):
    model = build_model(recipe(typed_base, model_options={"type_loss_weights": [1.0, 5.0]}), ["x"])
    assert model.config.type_loss_weights == [1.0, 5.0]


def test_random_bases():
    model = build_model(recipe("tiny", train_encoder=True), ["a"])
    assert model.get_nb_trainable_parameters()[0] > 5e6
    unet = build_model(recipe("unet", model_options={"widths": [4, 8]}), ["a", "b"])
    assert isinstance(unet, UNetForNucleiSegmentation)
    assert unet.config.type_names == {1: "a", 2: "b"}


def test_a_trained_unet_is_trained_on(tmp_path):
    unet = UNetForNucleiSegmentation(UNetConfig(widths=[4, 8], id2label=dict(enumerate(NAMES, start=1))))
    unet.save_pretrained(tmp_path)
    CfSamProcessor(CfSamImageProcessor(decoding={"minimum_area": 99})).save_pretrained(tmp_path)
    again = recipe(tmp_path, model_options={"nuclei_loss": "focal_tversky"})
    for names in (NAMES, NAMES[1:], ()):
        model = build_model(again, names)
        assert model.config.type_names == dict(enumerate(NAMES, start=1))
        assert model.config.nuclei_loss == "focal_tversky"
        assert all(torch.equal(value, unet.state_dict()[name]) for name, value in model.state_dict().items())
    assert build_processor(again, model.config).image_processor.decoding_parameters().minimum_area == 99
    with pytest.raises(ValueError, match="does not know x, y of the data's types"):
        build_model(again, ["a", "x", "y"])
    with pytest.raises(ValueError, match="adapter_dim"):
        build_model(recipe(tmp_path, model_options={"adapter_dim": 8}), NAMES)


@pytest.mark.parametrize(
    ("base", "options"), [("tiny", {"adapter_dims": 8}), ("unet", {"adapter_dim": 8}), ("tiny", {"num_types": 4})]
)
def test_options_that_the_model_does_not_have_are_refused(base, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build_model(recipe(base, model_options=options), [])


def test_the_processor_keeps_the_bases_decoding_and_its_calibration(typed_base):
    config = CfSamConfig.from_pretrained(typed_base)
    assert build_processor(recipe(typed_base), config).image_processor.decoding is None
    base = CfSamImageProcessor(decoding={"minimum_area": 99, "score_weights": {"area": 0.5}})
    CfSamProcessor(base).save_pretrained(typed_base)
    processor = build_processor(recipe(typed_base, tile_overlap=16), config).image_processor
    assert processor.decoding_parameters().minimum_area == 99
    assert processor.decoding_parameters().score_weights.area == 0.5
    assert (processor.tile_size, processor.smallest_tile_size, processor.tile_overlap) == (SIZE, None, 16)


def test_the_processor_keeps_the_bases_fitted_tiles_unless_the_recipe_has_tiles(typed_base):
    config = CfSamConfig.from_pretrained(typed_base)
    tiles = {"tile_size": 4 * SIZE, "smallest_tile_size": SIZE, "tile_overlap": 24}
    CfSamProcessor(CfSamImageProcessor(**tiles)).save_pretrained(typed_base)

    def tiles_of(**options):
        processor = build_processor(recipe(typed_base, **options), config).image_processor
        return {name: getattr(processor, name) for name in tiles}

    assert tiles_of() == tiles
    chosen = {"tile_size": 2 * SIZE, "smallest_tile_size": 16, "tile_overlap": 8}
    assert tiles_of(**chosen) == chosen


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_kept_for_the_backward_pass_below_the_first_trained_layer(tmp_path, checkpointing):
    tiny_test_model(adapter_layers=[2, 3]).save_pretrained(tmp_path / "base")
    options = recipe(tmp_path / "base", gradient_checkpointing=checkpointing)
    model = build_model(options, list(CfSamConfig.from_pretrained(tmp_path / "base").type_names.values())).train()
    encoder = model.sam.vision_encoder
    frozen = [encoder.patch_embed, *encoder.layers[:2]]
    needs_gradient, kept = [], []
    for module in (*frozen, encoder.layers[2]):
        module.register_forward_hook(lambda _, __, output: needs_gradient.append(output.requires_grad))
    inside = [False]
    for module in frozen:
        module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
        module.register_forward_hook(lambda *_: inside.__setitem__(0, False))

    def pack(tensor):
        kept.append(inside[0])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1))
    assert needs_gradient == [False, False, False, True]
    assert kept
    assert not any(kept)
    output.loss.backward()
    assert all(p.grad is None for module in frozen for p in module.parameters())


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    tiny_test_model().save_pretrained(tmp_path / "base")
    names = list(tiny_test_config().type_names.values())
    gradients = []
    for checkpointing in (False, True):
        model = build_model(recipe(tmp_path / "base", gradient_checkpointing=checkpointing), names).train()
        torch.manual_seed(0)
        model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
