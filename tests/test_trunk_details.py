"""The trunk's levels among the features of the outlines: read where they lie, zero at the start, then learned."""

import pytest
import torch

from cfsam_hf import CfSamForNucleiSegmentation
from cfsam_hf.training import build_model, make_recipe
from cfsam_hf.trunk_cfsam import LEVELS, resample_level
from cfsam_hf.trunk_details_cfsam import TrunkDetails, read_at_middles

from .tiny import SIZE, random_labels, tiny_test_config, tiny_test_model

DETAILS = {"type_trunk": "efficientnet-lite0", "use_trunk_details": True}
NAMES = {1: "a", 2: "b", 3: "c"}


def recipe(base, **changes):
    return make_recipe(base=str(base), data=["reader=a,path=b"], output_dir="run", crop_size=SIZE, **changes)


@pytest.fixture
def details_base(tmp_path):
    tiny_test_model(id2label=NAMES, **DETAILS).save_pretrained(tmp_path / "details")
    return tmp_path / "details"


def details_weights(model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("trunk_details.")}


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_levels_are_read_between_their_values(stride):
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(2, 5, 6, 4, generator=generator), torch.randn(3, 5, 1, 1, generator=generator)
    bias = torch.randn(3, generator=generator)
    found = read_at_middles(features, stride, weight, bias)
    resampled = resample_level(features, stride, (6, 4), stride)
    expected = torch.einsum("dc,bchw->bdhw", weight[:, :, 0, 0], resampled) + bias[:, None, None]
    assert torch.allclose(found, expected, atol=1e-5)


def test_levels_are_added_by_stride_and_two_of_one_stride_together():
    details = TrunkDetails({2: 7, 4: 3, 16: 6})
    with torch.no_grad():
        for project in details.project:
            project.weight.fill_(1.0)
            project.bias.zero_()
    levels = [torch.ones(1, channels, 32 // stride, 32 // stride) for stride, channels in LEVELS]
    found = details(levels)
    # None of stride 2 is read, and no features of stride 8 were named.
    assert {stride: tuple(value.shape) for stride, value in found.items()} == {4: (1, 3, 8, 8), 16: (1, 6, 2, 2)}
    assert torch.allclose(found[4], torch.full_like(found[4], 24.0))
    assert torch.allclose(found[16], torch.full_like(found[16], 80.0 + 112.0))


@pytest.mark.parametrize("options", [{}, {"use_detail_stem": False}, {"use_hmfm": False}, {"use_bgmr": False}])
def test_at_the_start_they_change_nothing_and_are_learned(options, tmp_path):
    tiny_test_model(type_trunk=DETAILS["type_trunk"], **options).save_pretrained(tmp_path)
    plain = CfSamForNucleiSegmentation.from_pretrained(tmp_path)
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path, use_trunk_details=True)
    pixels = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        before, after = plain(pixels), model(pixels)
    assert torch.equal(before.nuclei_logits, after.nuclei_logits)
    assert torch.equal(before.type_logits, after.type_logits)
    model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
    assert all(parameter.grad.any() for parameter in model.trunk_details.parameters())


def test_outlines_then_see_what_the_trunk_sees():
    model = tiny_test_model(**DETAILS).eval()
    with torch.no_grad():
        for project in model.trunk_details.project:
            project.weight.normal_()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before = model(pixels)
        model.type_branch.trunk.first.weight.zero_()
        after = model(pixels)
    assert not torch.allclose(before.nuclei_logits, after.nuclei_logits)


def test_the_trunk_is_run_once_for_outlines_and_types(monkeypatch):
    model = tiny_test_model(**DETAILS).eval()
    sizes = []
    read_image = model.type_branch.read_image
    monkeypatch.setattr(model.type_branch, "read_image", lambda p: sizes.append(p.shape[-1]) or read_image(p))
    with torch.no_grad():
        output = model(torch.randn(1, 3, SIZE, SIZE))
    assert sizes == [SIZE, SIZE // 2]
    assert output.type_logits.shape[1] == 4


def test_maps_alone_are_the_forward_passes():
    model = tiny_test_model(**DETAILS).eval()
    with torch.no_grad():
        for project in model.trunk_details.project:
            project.weight.normal_(std=0.1)
        pixels = torch.randn(1, 3, SIZE, SIZE)
        _, refined, _ = model.predict_maps(pixels)
        output = model(pixels)
    tile = torch.nn.functional.interpolate(refined, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    assert torch.equal(tile[:, :1], output.nuclei_logits)


def test_levels_are_standardised_as_the_types_read_them():
    model = tiny_test_model(**DETAILS).eval()
    branch = model.type_branch
    generator = torch.Generator().manual_seed(1)
    branch.mean.copy_(torch.randn(branch.mean.shape, generator=generator))
    branch.deviation.copy_(torch.rand(branch.deviation.shape, generator=generator) + 0.5)
    with torch.no_grad():
        levels = branch.read_image(torch.randn(1, 3, SIZE, SIZE))
        standardised = branch.standardised(levels)
    assert torch.equal(standardised[0], levels[0])
    first = 0
    for i in range(1, len(LEVELS)):
        own = slice(first, first + LEVELS[i][1])
        expected = (levels[i] - branch.mean[own, None, None]) / branch.deviation[own, None, None]
        assert torch.allclose(standardised[i], expected)
        first += LEVELS[i][1]


@pytest.mark.parametrize("options", [{"type_trunk": None}, {"num_types": 0, "id2label": None}])
def test_without_a_trunk_there_are_none(options):
    with pytest.raises(ValueError, match="use_trunk_details needs the trunk that types are read by"):
        tiny_test_config(**{**DETAILS, **options})


def test_a_base_with_maps_of_types_gets_trunk_and_details_at_once(tmp_path):
    tiny_test_model(id2label=NAMES).save_pretrained(tmp_path / "maps")
    tiny_test_model(seed=5, type_trunk=DETAILS["type_trunk"]).save_pretrained(tmp_path / "other")
    weights = str(tmp_path / "other" / "model.safetensors")
    model = build_model(recipe(tmp_path / "maps", model_options=DETAILS, type_trunk_weights=weights), ["a", "b", "c"])
    assert details_weights(model)
    assert not any(value.any() for value in details_weights(model).values())


def test_other_types_keep_the_details_of_a_base(details_base):
    base = details_weights(CfSamForNucleiSegmentation.from_pretrained(details_base))
    model = details_weights(build_model(recipe(details_base), ["c", "d"]))
    assert base
    assert all(torch.equal(model[name], base[name]) for name in base)


def test_types_alone_then_leave_the_trunk_as_the_outlines_know_it(details_base):
    model = build_model(recipe(details_base, train_types_alone=True), ["a", "x"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = ("type_branch.project.", "type_branch.classify.")
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(heads)}
    with pytest.raises(ValueError, match=r"the outlines of .* are made with its trunk too \(use_trunk_details\)"):
        build_model(recipe(details_base, type_trunk_weights="other.safetensors"), ["a"])


def test_an_adapter_brings_its_details(tmp_path):
    pixels = torch.randn(1, 3, SIZE, SIZE)
    tiny_test_model().save_pretrained(tmp_path / "base")
    adapted = tiny_test_model(seed=1, **DETAILS)
    adapted.sam.load_state_dict(tiny_test_model().sam.state_dict())
    adapted.save_adapter(tmp_path / "adapter", base_name=str(tmp_path / "base"))
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        expected, before = adapted(pixels).nuclei_logits, model(pixels).nuclei_logits
        model.load_adapter(tmp_path / "adapter", adapter_name="other")
        assert torch.equal(model.eval()(pixels).nuclei_logits, expected)
        model.set_adapter("initial")
        assert model.trunk_details is None
        assert torch.equal(model(pixels).nuclei_logits, before)
        model.set_adapter("other")
        assert torch.equal(model(pixels).nuclei_logits, expected)
