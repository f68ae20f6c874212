"""Why: every call of a PEFT user must work with MALA, or explain why not, and compute the same as CF-SAM."""

import json
import os
import re

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import AutoModel, SamModel, SamVisionModel

from cfsam_hf import CfSamForNucleiSegmentation
from cfsam_hf.peft_tuner import MalaConfig, encoder_mlps, from_peft_state_dict, to_peft_state_dict

from .sam_cases import SIZES, disturb, for_comparison, tiny_sam, trained_on
from .tiny import tiny_test_config

# Adapters of other sizes, kernels and layers beside each other.
FIRST = {"adapter_dim": 8, "context_dim": 4}
SECOND = {"adapter_dim": 4, "kernel_sizes": [5], "dynamic": False, "layers": [0, 2]}
LORA = {"r": 2, "target_modules": r".*vision_encoder\.layers\.\d+\.attn\.(qkv|proj)", "init_lora_weights": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "sam-tiny"
    tiny_sam().save_pretrained(folder)
    return folder


@pytest.fixture
def sam(base):
    return SamModel.from_pretrained(base)


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """Two trained adapters in folders, and the embeddings they give."""
    parent = tmp_path_factory.mktemp("peft")
    embeddings = {}
    for seed, (name, options) in enumerate({"first": FIRST, "second": SECOND}.items()):
        torch.manual_seed(seed)
        model = get_peft_model(SamModel.from_pretrained(base), MalaConfig(**options))
        disturb(model, seed)
        model.save_pretrained(parent / name)
        embeddings[name] = embed(model)
    return parent, embeddings


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def embed(model) -> torch.Tensor:
    """SAM's image embedding, of a SamModel or of what wraps one."""
    return for_comparison(model).get_image_embeddings(pixels())


@torch.no_grad()
def nuclei(model) -> torch.Tensor:
    """The nuclei logits of a CF-SAM or of what wraps one."""
    return for_comparison(model)(pixel_values=pixels()).nuclei_logits


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(sam, capsys):
    before = embed(sam)
    model = get_peft_model(sam, MalaConfig(**FIRST))
    assert torch.equal(embed(model), before)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all(".mlp.mala_" in name for name in trained)
    # The mask decoder has MLP blocks of the same class.
    assert not any("mask_decoder" in name for name in trained)
    model.print_trainable_parameters()
    count = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert f"trainable params: {count:,}" in capsys.readouterr().out
    config = tiny_test_config(adapter_dim=FIRST["adapter_dim"], adapter_context_dim=FIRST["context_dim"])
    cfsam = CfSamForNucleiSegmentation(config)
    assert count == sum(v.numel() for n, v in cfsam.named_parameters() if ".adapter." in n)


def test_training_moves_the_adapter_and_leaves_sam(sam):
    model = get_peft_model(sam, MalaConfig(**FIRST)).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (sam.vision_encoder(pixels()).last_hidden_state - 1).abs().mean().backward()
        optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == (".mala_" not in name), name


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_it_gives_the_same(sam, saved, low_cpu_mem_usage):
    folder, embeddings = saved
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(folder / "first"))
    model = PeftModel.from_pretrained(sam, folder / "first", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(embed(model), embeddings["first"])
    config = PeftConfig.from_pretrained(folder / "second")
    assert isinstance(config, MalaConfig)
    assert (config.layers, config.kernel_sizes, config.dynamic) == ([0, 2], [5], False)


def test_two_adapters_are_switched_added_up_and_deleted(sam, saved):
    folder, embeddings = saved
    plain = embed(sam)
    model = PeftModel.from_pretrained(sam, folder / "first")
    model.load_adapter(folder / "second", adapter_name="other")
    assert torch.equal(embed(model), embeddings["first"])
    model.set_adapter("other")
    assert torch.equal(embed(model), embeddings["second"])
    with model.disable_adapter():
        assert torch.equal(embed(model), plain)
    assert torch.equal(embed(model), embeddings["second"])
    model.base_model.set_adapter(["default", "other"])
    assert not torch.equal(embed(model), embeddings["second"])
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(embed(model), embeddings["first"])
    assert not any("other" in name for name, _ in model.named_parameters())


def test_an_added_adapter_is_saved_alone(sam, saved, base, tmp_path):
    folder, _ = saved
    model = PeftModel.from_pretrained(sam, folder / "first")
    model.add_adapter("mine", MalaConfig(adapter_dim=4))
    model.set_adapter("mine")
    disturb(model, 7)
    model.save_pretrained(tmp_path, selected_adapters=["mine"])
    again = PeftModel.from_pretrained(SamModel.from_pretrained(base), tmp_path / "mine")
    assert torch.equal(embed(again), embed(model))


def test_unload_gives_sam_back(sam, saved):
    plain = embed(sam)
    names = [name for name, _ in sam.named_parameters()]
    model = PeftModel.from_pretrained(sam, saved[0] / "first")
    unloaded = model.unload()
    assert torch.equal(embed(unloaded), plain)
    assert [name for name, _ in unloaded.named_parameters()] == names


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_says_that_it_cannot(sam, saved, call):
    model = PeftModel.from_pretrained(sam, saved[0] / "first")
    with pytest.raises(NotImplementedError, match=r"not linear.*unload\(\)"):
        getattr(model, call)()
    # Nothing was half done.
    assert torch.equal(embed(model), saved[1]["first"])
    layer = model.base_model.model.vision_encoder.layers[0].mlp
    with pytest.raises(NotImplementedError, match="not linear"):
        layer.merge()


def test_modules_to_save(sam, base, tmp_path):
    model = get_peft_model(sam, MalaConfig(**FIRST, modules_to_save=["mask_decoder"]))
    disturb(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(SamModel.from_pretrained(base), tmp_path)
    points = {"input_points": torch.tensor([[[[20.0, 30.0]]]] * 2)}
    with torch.no_grad():
        wanted, given = for_comparison(model)(pixels(), **points), for_comparison(again)(pixels(), **points)
        plain = SamModel.from_pretrained(base)(pixels(), **points)
    assert torch.equal(wanted.pred_masks, given.pred_masks)
    assert not torch.equal(wanted.pred_masks, plain.pred_masks)
    unloaded = again.unload()
    with torch.no_grad():
        assert unloaded(pixels(), **points).pred_masks.shape == plain.pred_masks.shape


def test_gradient_checkpointing_gives_the_same_gradients(base):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        sam = SamModel.from_pretrained(base)
        model = get_peft_model(sam, MalaConfig(**FIRST)).train()
        disturb(model)
        if checkpointing:
            getattr(sam, "activation_checkpointing_enable", sam.gradient_checkpointing_enable)()
        sam.vision_encoder(pixels()).last_hidden_state.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_hidden_states_are_still_given(sam, saved):
    def states() -> tuple:
        with torch.no_grad():
            return for_comparison(sam).vision_encoder(pixels(), output_hidden_states=True).hidden_states

    plain = states()
    PeftModel.from_pretrained(sam, saved[0] / "first")
    adapted = states()
    assert len(adapted) == len(plain) == len(sam.vision_encoder.layers) + 1
    # The patch embedding, then what follows the first adapter.
    assert [torch.equal(a, b) for a, b in zip(adapted, plain, strict=True)] == [True] + [False] * (len(plain) - 1)


def test_a_base_in_bfloat16_keeps_the_adapter_in_float32(base, saved):
    model = PeftModel.from_pretrained(SamModel.from_pretrained(base, dtype=torch.bfloat16), saved[0] / "first")
    assert {p.dtype for name, p in model.named_parameters() if "mala_" in name} == {torch.float32}
    with torch.no_grad():
        embedding = model.get_image_embeddings(pixels().bfloat16())
    assert embedding.dtype == torch.bfloat16
    torch.testing.assert_close(embedding.float(), saved[1]["first"], atol=0.3, rtol=0.1)


def test_the_vision_model_alone(base, saved):
    model = PeftModel.from_pretrained(SamVisionModel.from_pretrained(base), saved[0] / "first")
    with torch.no_grad():
        assert torch.equal(for_comparison(model)(pixels()).last_hidden_state, saved[1]["first"])


def test_transformers_own_adapter_methods(sam, base, saved, tmp_path):
    folder, embeddings = saved
    plain = embed(sam)
    sam.load_adapter(str(folder / "first"))
    assert torch.equal(embed(sam), embeddings["first"])
    sam.disable_adapters()
    assert torch.equal(embed(sam), plain)
    sam.enable_adapters()
    sam.load_adapter(str(folder / "second"), adapter_name="other")
    sam.set_adapter("other")
    assert torch.equal(embed(sam), embeddings["second"])
    sam.save_pretrained(tmp_path)
    sam.delete_adapter("other")
    record = json.loads((tmp_path / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(record))
    assert torch.equal(embed(AutoModel.from_pretrained(tmp_path)), embeddings["second"])


@pytest.mark.parametrize("options", [{}, {"adapter_dynamic": False, "adapter_kernel_sizes": [3, 7]}])
def test_weights_move_both_ways(base, options):
    cfsam = trained_on(base, 3, **options, adapter_layers=[0, 1, 3])
    torch.manual_seed(0)
    peft_model = get_peft_model(SamModel.from_pretrained(base), MalaConfig.from_cfsam(cfsam.config))
    result = set_peft_model_state_dict(peft_model, to_peft_state_dict(cfsam.state_dict()))
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if "mala_" in name]
    wanted = embed(cfsam.sam)
    assert torch.equal(embed(peft_model), wanted)

    empty = CfSamForNucleiSegmentation.from_pretrained(base, **{**SIZES, **options}, adapter_layers=[0, 1, 3])
    weights = from_peft_state_dict(get_peft_model_state_dict(peft_model))
    assert set(weights) == {name for name in empty.state_dict() if ".adapter." in name}
    assert not empty.load_state_dict(weights, strict=False).unexpected_keys
    assert torch.equal(embed(empty.sam), wanted)


def test_lora_beside_mala_in_peft(sam, saved):
    folder, embeddings = saved
    sam.load_adapter(str(folder / "first"), adapter_name="mala")
    sam.add_adapter(LoraConfig(**LORA), adapter_name="lora")
    sam.set_adapter(["mala", "lora"])
    both = embed(sam)
    sam.set_adapter("mala")
    assert torch.equal(embed(sam), embeddings["first"])
    sam.set_adapter("lora")
    lora = embed(sam)
    assert not torch.equal(both, embeddings["first"])
    assert not torch.equal(both, lora)
    sam.delete_adapter("mala")
    assert torch.equal(embed(sam), lora)


def test_lora_beside_mala_in_cfsam(base, tmp_path):
    """LoRA on the attention of the frozen encoder, MALA and heads as they are; all of it trained, saved and loaded."""
    model = trained_on(base, 0)
    model.save_adapter(tmp_path / "cfsam")
    before = nuclei(model)
    torch.manual_seed(5)
    model.add_adapter(LoraConfig(**LORA))
    model.freeze()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert any(".adapter.up" in name for name in trained)
    assert any(name.startswith("refinement") for name in trained)
    assert not any("base_layer" in name or name.startswith("sam.vision_encoder.neck") for name in trained)
    disturb(model, 6)
    model.eval()
    both = nuclei(model)
    assert not torch.equal(both, before)

    with pytest.warns(UserWarning, match=r"\['default'\] are not part"):
        model.save_adapter(tmp_path / "beside-lora")
    model.save_pretrained(tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    again = CfSamForNucleiSegmentation.from_adapter(tmp_path / "beside-lora")
    again.load_adapter(str(tmp_path / "lora"))
    assert torch.equal(nuclei(again), both)

    # CF-SAM's adapters are switched beneath LoRA, which stays; its names are PEFT's business.
    again.load_adapter(tmp_path / "cfsam")
    again.disable_adapters()
    assert torch.equal(nuclei(again), before)
    again.enable_adapters()
    again.set_adapter("beside-lora")
    assert torch.equal(nuclei(again), both)
    again.set_adapter("default")
    assert (again.active_adapter, again.active_adapters()) == ("beside-lora", ["default"])
    again.delete_adapter("default")
    assert not any("lora" in name for name, _ in again.named_parameters())
    with pytest.raises(ValueError, match="no adapter 'default'"):
        again.set_adapter("default")


def test_lora_instead_of_mala_in_cfsam(base, tmp_path):
    options = {**SIZES, "use_mala": False}
    torch.manual_seed(0)
    heads = ["fusion", "mask_features", "task_decoder", "refinement", "transformer", "upscale_conv1", "upscale_conv2"]
    model = CfSamForNucleiSegmentation.from_pretrained(base, **options)
    model.save_pretrained(tmp_path / "start")
    peft_model = get_peft_model(model, LoraConfig(**LORA, modules_to_save=[*heads, "upscale_layer_norm"]))
    disturb(peft_model)
    peft_model.save_pretrained(tmp_path / "lora")
    wanted = nuclei(peft_model)
    start = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "start")
    again = PeftModel.from_pretrained(start, tmp_path / "lora").eval()
    assert torch.equal(nuclei(again), wanted)
    # What PEFT wraps as modules to save is PEFT's to save.
    with pytest.raises(ValueError, match="contains layers of PEFT"):
        start.save_adapter(tmp_path / "no")
    merged = again.merge_and_unload()
    torch.testing.assert_close(nuclei(merged), wanted, atol=1e-4, rtol=1e-4)


def test_mala_of_peft_inside_cfsam(base):
    """On a CF-SAM without adapters of its own PEFT's MALA gives what CF-SAM's gives."""
    own = trained_on(base, 2)
    bare = CfSamForNucleiSegmentation.from_pretrained(base, **SIZES, use_mala=False)
    heads = {name: value for name, value in own.state_dict().items() if ".adapter." not in name}
    bare.load_state_dict(heads)
    peft_model = get_peft_model(bare, MalaConfig.from_cfsam(own.config))
    weights = {
        name.replace(".model.vision", ".model.sam.vision"): value
        for name, value in to_peft_state_dict(own.state_dict()).items()
    }
    assert not set_peft_model_state_dict(peft_model, weights).unexpected_keys
    assert torch.equal(nuclei(peft_model), nuclei(own))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_sizes": [4]}, "odd"),
        ({"adapter_dim": 0}, "adapter_dim must be positive"),
        ({"layers": [0], "target_modules": "mlp"}, "not both"),
        ({"layers": []}, "layers is empty"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        MalaConfig(**options)


def test_wrong_targets(sam):
    with pytest.raises(ValueError, match="not beside a Linear"):
        get_peft_model(sam, MalaConfig(target_modules=["lin1"]))
    with pytest.raises(ValueError, match="not found"):
        get_peft_model(sam, MalaConfig(layers=[99]))


def test_the_pattern_of_layers():
    assert encoder_mlps([1, 12]) == r"(.*\.)?vision_encoder\.layers\.(1|12)\.mlp"


def test_the_example_runs(base, load_example, monkeypatch, capsys, tmp_path):
    example = load_example("peft_adapters")
    monkeypatch.setattr(
        "sys.argv", ["peft_adapters.py", "--sam", str(base), "--steps", "2", "--output_dir", str(tmp_path)]
    )
    with pytest.warns(UserWarning, match="not part of a CF-SAM adapter"):
        example.main()
    text = capsys.readouterr().out
    assert "SAM's own embedding: True" in text
    assert "loaded: CF-SAM 'cfsam', PEFT ['default']" in text
    assert sorted(os.listdir(tmp_path)) == ["cfsam", "lora", "mala"]
    losses = [float(value) for value in re.findall(r"loss ([0-9.]+)", text)]
    assert len(losses) == 2
    differences = [float(value) for value in re.findall(r"differ by ([0-9.e+-]+)", text)]
    assert len(differences) == 2
    assert max(differences) < 1e-5


def test_an_adapter_for_each_sample_is_refused_and_not_ignored(sam):
    model = get_peft_model(sam, MalaConfig(**FIRST)).eval()
    model.add_adapter("other", MalaConfig(**FIRST))
    boxes = torch.tensor([[[1.0, 1.0, 30.0, 30.0]]]).repeat(2, 1, 1)
    with pytest.raises(ValueError, match=r"'other'.*call set_adapter"):
        model(pixel_values=pixels(), input_boxes=boxes, adapter_names=["default", "other"])
    with torch.no_grad():
        assert len(model(pixel_values=pixels(), input_boxes=boxes, adapter_names=None).iou_scores) == 2
