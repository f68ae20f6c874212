"""Why: shapes, switched-off parts, freezing, saving, precision, compilation and export of the model must be right."""

import accelerate
import pytest
import torch
from transformers import AutoModel, AutoModelForImageSegmentation

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, bundled_checkpoint

from ..tiny import SIZE, random_labels, tiny_test_config, tiny_test_model

PARTS = {
    "use_mala": ".adapter.",
    "use_hmfm": "fusion.",
    "use_bgmr": "refinement.",
    "use_detail_stem": "mask_features.stem.",
}


def enable_checkpointing(model) -> None:
    """Gradient checkpointing, under its older name in transformers before 5.23."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def test_shapes_of_all_outputs():
    output = tiny_test_model()(torch.randn(2, 3, SIZE, 96))
    for name, channels in {"nuclei_logits": 1, "hv_maps": 2, "type_logits": 4}.items():
        assert getattr(output, name).shape == (2, channels, SIZE, 96)
        assert getattr(output, f"initial_{name}").shape == (2, channels, SIZE, 96)
        assert not torch.equal(getattr(output, name), getattr(output, f"initial_{name}"))
    assert output.boundary_logits.shape == (2, 1, SIZE, 96)
    assert output.loss is None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_off_has_no_parameters_and_the_outputs_keep_their_shape(part):
    on, off = tiny_test_model(), tiny_test_model(**{part: False})
    assert any(PARTS[part] in name for name, _ in on.named_parameters())
    assert not any(PARTS[part] in name for name, _ in off.named_parameters())
    assert off.get_nb_trainable_parameters()[1] < on.get_nb_trainable_parameters()[1]
    output = off(torch.randn(1, 3, SIZE, SIZE), **random_labels(1))
    assert output.nuclei_logits.shape == (1, 1, SIZE, SIZE)
    assert torch.isfinite(output.loss)
    output.loss.backward()
    missing = [name for name, p in off.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", ["nuclei_label", "labels", "pixel_mask", "interpolate_pos_encoding"])
def test_unknown_keywords_are_refused(name):
    with pytest.raises(TypeError, match=name):
        tiny_test_model()(torch.randn(1, 3, SIZE, SIZE), **{name: None})


def test_hidden_states_and_attentions_of_the_encoder():
    model = tiny_test_model(attn_implementation="eager").eval()
    layers = model.config.vision_config.num_hidden_layers
    pixels = torch.randn(2, 3, SIZE, 96)
    plain = model(pixels)
    assert plain.hidden_states is None
    assert plain.attentions is None
    output = model(pixels, output_hidden_states=True, output_attentions=True)
    assert torch.equal(output.nuclei_logits, plain.nuclei_logits)
    grid = (SIZE // model.config.pad_multiple, 96 // model.config.pad_multiple)
    assert [tuple(states.shape[:3]) for states in output.hidden_states] == [(2, *grid)] * (layers + 1)
    assert len(output.attentions) == layers
    model.config.output_hidden_states = True
    assert len(model(pixels).hidden_states) == layers + 1
    assert model(pixels, output_hidden_states=False).hidden_states is None


def test_attentions_that_the_implementation_does_not_give_are_refused():
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        tiny_test_model(attn_implementation="sdpa")(torch.randn(1, 3, SIZE, SIZE), output_attentions=True)


@pytest.mark.parametrize(
    "options", [{}, {"use_hmfm": False}, {"use_bgmr": False}, {"type_trunk": "efficientnet-lite0"}]
)
def test_offloaded_weights_give_the_same_maps(options):
    model = tiny_test_model(**options).eval()
    pixels = torch.randn(2, 3, SIZE, 96)
    with torch.no_grad():
        expected = model(pixels).to_tuple()
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.device.type == "meta" for parameter in model.parameters())
        for before, after in zip(expected, model(pixels).to_tuple(), strict=True):
            torch.testing.assert_close(after, before)


def test_without_refinement_the_refined_maps_are_the_initial_ones():
    output = tiny_test_model(use_bgmr=False)(torch.randn(1, 3, SIZE, SIZE))
    assert output.boundary_logits is None
    assert output.nuclei_logits is output.initial_nuclei_logits


@pytest.mark.parametrize(
    "options", [{"adapter_dynamic": False}, {"adapter_kernel_sizes": [3]}, {"adapter_layers": [0]}]
)
def test_ablations_of_mala_run(options):
    model = tiny_test_model(**options)
    assert torch.isfinite(model(torch.randn(1, 3, SIZE, SIZE)).nuclei_logits).all()
    assert model.get_nb_trainable_parameters()[0] < tiny_test_model().get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("stride", [2, 4])
def test_mask_stride(stride):
    model = tiny_test_model(mask_stride=stride)
    initial, refined, boundary = model.predict_maps(torch.randn(1, 3, SIZE, SIZE))
    assert initial.shape == refined.shape == (1, 7, SIZE // stride, SIZE // stride)
    assert boundary.shape == (1, 1, SIZE // stride, SIZE // stride)


def test_no_types():
    model = tiny_test_model(num_types=0)
    labels = random_labels(1)
    labels.pop("type_labels")
    output = model(torch.randn(1, 3, SIZE, SIZE), **labels)
    assert output.type_logits is None
    assert torch.isfinite(output.loss)
    assert not any(name.endswith("type_dice") for name in output.loss_parts)


def test_the_refinement_starts_as_the_identity():
    torch.manual_seed(0)
    model = CfSamForNucleiSegmentation(tiny_test_config()).eval()
    initial, refined, _ = model.predict_maps(torch.randn(1, 3, SIZE, SIZE))
    assert initial.abs().max() > 0.01
    assert torch.equal(initial, refined)


def test_freezing_holds_after_loading_in_training_and_with_checkpointing(tmp_path):
    tiny_test_model().save_pretrained(tmp_path)
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert any(name.startswith("sam.vision_encoder.layers.0.attn") for name in frozen)
    assert not any(".adapter." in name for name in frozen)
    assert {"sam.mask_decoder.iou_token.weight", "sam.mask_decoder.mask_tokens.weight"} <= set(frozen)
    assert "sam.mask_decoder.transformer.layers.0.mlp.lin1.weight" not in frozen

    model.train()
    enable_checkpointing(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name]), name
        else:
            assert not torch.equal(parameter, before[name]), name


def test_the_mask_decoder_and_the_encoder_follow_the_configuration():
    def trained(prefix: str, **options) -> bool:
        model = tiny_test_model(**options)
        return any(p.requires_grad for n, p in model.named_parameters() if n.startswith(prefix))

    assert trained("sam.mask_decoder")
    assert not trained("sam.mask_decoder", train_mask_decoder=False)
    assert not trained("sam.vision_encoder.neck")
    assert trained("sam.vision_encoder.neck", train_encoder=True)


def test_gradients_with_and_without_checkpointing_are_equal():
    def gradients(checkpointing: bool) -> dict:
        model = tiny_test_model().train()
        if checkpointing:
            enable_checkpointing(model)
        torch.manual_seed(3)
        model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[n], checkpointed[n], atol=1e-6) for n in plain)


def test_saving_and_loading_gives_the_same_outputs_through_the_auto_classes(tmp_path):
    model = tiny_test_model()
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    pixel_values = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = model(pixel_values)
        for auto in (AutoModel, AutoModelForImageSegmentation):
            loaded = auto.from_pretrained(tmp_path)
            assert isinstance(loaded, CfSamForNucleiSegmentation)
            state = loaded.state_dict()
            assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
            # Kernels may round by the alignment of the memory that the weights were loaded to.
            assert torch.allclose(loaded(pixel_values).type_logits, expected.type_logits, atol=1e-5)


def test_bf16_autocast_stays_near_float32():
    model = tiny_test_model()
    pixel_values = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        exact = model(pixel_values).nuclei_logits
        with torch.autocast("cpu", torch.bfloat16):
            output = model(pixel_values, **random_labels(1))
    assert torch.isfinite(output.loss)
    assert (output.nuclei_logits.float() - exact).abs().mean() < 0.05 * exact.std() + 0.02


def test_labels_without_offsets_are_refused():
    labels = random_labels(1)
    labels.pop("hv_labels")
    with pytest.raises(ValueError, match="hv_labels"):
        tiny_test_model()(torch.randn(1, 3, SIZE, SIZE), **labels)


def test_return_dict_false_gives_a_tuple():
    output = tiny_test_model()(torch.randn(1, 3, SIZE, SIZE), return_dict=False)
    assert isinstance(output, tuple)
    assert output[0].shape == (1, 1, SIZE, SIZE)


def test_print_trainable_parameters(capsys):
    model = tiny_test_model()
    model.print_trainable_parameters()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert capsys.readouterr().out.startswith(f"trainable params: {trainable:,} || all params:")


SAM_SIZES = {
    "SAM ViT-B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "SAM ViT-L": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "SAM ViT-H": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}


def parameter_counts(name: str) -> tuple[int, int]:
    """Trainable and total parameters with 5 types, without allocating them."""
    if name == "cfsam-tiny":
        config = CfSamConfig.from_pretrained(bundled_checkpoint())
    else:
        config = CfSamConfig(vision_config=SAM_SIZES[name], num_types=5)
    with torch.device("meta"):
        return CfSamForNucleiSegmentation(config).get_nb_trainable_parameters()


def test_vit_b_trains_at_most_8_million():
    trainable, total = parameter_counts("SAM ViT-B")
    assert trainable <= 8_000_000
    assert 95e6 < total < 105e6


@pytest.mark.parametrize("name", ["cfsam-tiny", *SAM_SIZES])
def test_the_documentation_states_the_parameter_counts(name, documentation):
    trainable, total = parameter_counts(name)
    row = next(line for line in documentation("architecture").splitlines() if line.startswith(f"| {name} |"))
    assert f"| {trainable / 1e6:.2f} M | {total / 1e6:.2f} M |" in row


@pytest.mark.slow
def test_compiles_as_one_graph():
    model = tiny_test_model()
    pixel_values = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = model(pixel_values).nuclei_logits
        found = torch.compile(model, fullgraph=True)(pixel_values).nuclei_logits
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_exports_with_a_dynamic_batch():
    model = tiny_test_model()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model,
        (torch.randn(2, 3, SIZE, SIZE),),
        kwargs={"return_dict": False},
        dynamic_shapes={"pixel_values": {0: batch}, "return_dict": None},
    )
    for size in (1, 5):
        pixel_values = torch.randn(size, 3, SIZE, SIZE)
        with torch.no_grad():
            expected = model(pixel_values, return_dict=False)[0]
        found = program.module()(pixel_values, return_dict=False)[0]
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_vit_b_runs_forward_and_backward_at_1024_pixels():
    vision = {**SAM_SIZES["SAM ViT-B"], "initializer_range": 0.02}
    model = CfSamForNucleiSegmentation(CfSamConfig(vision_config=vision, num_types=5)).train()
    enable_checkpointing(model)
    output = model(torch.randn(1, 3, 1024, 1024), **random_labels(1, 1024, 1024, num_types=5))
    output.loss.backward()
    assert output.type_logits.shape == (1, 6, 1024, 1024)
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
