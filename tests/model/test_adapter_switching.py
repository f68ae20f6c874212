"""Why: several adapters in one model must each give what a separate model gives, and leave no trace in the others."""

import copy
import json
import os
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import SamModel, pipeline

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.model.adapter_files import ADAPTER_FILE, WEIGHTS_FILE

from ..hub_server import TOKEN, USER, put_folder, readable_hub
from ..sam_cases import SIZES, disturb, tiny_sam, trained_on
from ..tiny import random_labels, tiny_test_model

# Three adapters that differ in everything an adapter may differ in.
KINDS = {
    "colon": {"id2label": {1: "epithelial", 2: "other"}, "type_colors": ["#010203", "#040506"]},
    "outlines": {
        "num_types": 0,
        "adapter_dim": 4,
        "adapter_layers": [1],
        "adapter_kernel_sizes": [5],
        "use_bgmr": False,
        "mpp": 0.5,
        "checkpoint_info": {"name": "outlines of nuclei"},
    },
    "frozen-decoder": {"num_types": 5, "use_hmfm": False, "use_detail_stem": False, "train_mask_decoder": False},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "sam-tiny"
    tiny_sam().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(base):
    """Each adapter in a model of its own."""
    return {name: trained_on(base, seed, **KINDS[name]) for seed, name in enumerate(KINDS)}


@pytest.fixture(scope="module")
def folders(alone, tmp_path_factory):
    parent = tmp_path_factory.mktemp("adapters")
    for name, model in alone.items():
        model.save_adapter(parent / name)
    return {name: parent / name for name in alone}


@pytest.fixture
def model(base, folders):
    """One model with all three."""
    model = CfSamForNucleiSegmentation.from_pretrained(base, **SIZES, num_types=1)
    for folder in folders.values():
        model.load_adapter(folder)
    return model


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def assert_same_outputs(one, other) -> None:
    first, second = one(pixels()), other(pixels())
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_file_holds_what_was_trained_and_names_its_base(folders, base, alone):
    from safetensors import safe_open

    for name, folder in folders.items():
        assert sorted(os.listdir(folder)) == [ADAPTER_FILE, WEIGHTS_FILE]
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            saved = set(file.keys())
        assert saved == {key for key, value in alone[name].named_parameters() if value.requires_grad}
        record = json.loads((folder / ADAPTER_FILE).read_text())
        assert (record["name"], record["base"]["name"]) == (name, str(base))
    assert any(key.startswith("sam.mask_decoder.") for key in alone["colon"].state_dict())


def test_every_adapter_gives_what_a_model_of_its_own_gives(model, alone):
    assert model.adapter_names == ["initial", *KINDS]
    for name in ("frozen-decoder", "colon", "outlines", "colon", "frozen-decoder"):
        model.set_adapter(name)
        assert model.active_adapter == name
        assert_same_outputs(model, alone[name])


def test_types_and_settings_follow(model, alone):
    for name in ("colon", "outlines", "frozen-decoder"):
        model.set_adapter(name)
        wanted = alone[name].config
        for field in ("num_types", "id2label", "label2id", "type_colors", "mpp", "checkpoint_info", "adapter_layers"):
            assert getattr(model.config, field) == getattr(wanted, field), field
        assert model.config is model.sam.config
        assert model.num_maps == alone[name].num_maps
        trained = {key for key, value in model.named_parameters() if value.requires_grad}
        assert trained == {key for key, value in alone[name].named_parameters() if value.requires_grad}
    model.set_adapter("initial")
    assert model.config.id2label == {0: "background", 1: "type 1"}
    assert model.adapter_folder is None


def test_the_base_is_one_and_not_touched(model, base):
    held = {name: value.data_ptr() for name, value in model.sam.vision_encoder.state_dict().items()}
    for name in [*KINDS, "initial"]:
        model.set_adapter(name)
        now = model.sam.vision_encoder.state_dict()
        shared = [key for key in held if ".adapter." not in key]
        assert all(now[key].data_ptr() == held[key] for key in shared)
    plain = SamModel.from_pretrained(base).vision_encoder.state_dict()
    assert all(torch.equal(model.sam.vision_encoder.state_dict()[key], value) for key, value in plain.items())


def test_a_disabled_adapter_leaves_sams_encoder_exactly(model, base):
    sam = SamModel.from_pretrained(base)
    square = pixels()[..., :64]
    model.set_adapter("colon")
    with torch.no_grad():
        wanted = sam.vision_encoder(square).last_hidden_state
        adapted = model.sam.vision_encoder(square).last_hidden_state
        with model.disable_adapter():
            assert torch.equal(model.sam.vision_encoder(square).last_hidden_state, wanted)
            with model.disable_adapter():
                pass
            # Still off after an inner context, and after a switch.
            model.set_adapter("outlines")
            assert torch.equal(model.sam.vision_encoder(square).last_hidden_state, wanted)
        model.set_adapter("colon")
        assert torch.equal(model.sam.vision_encoder(square).last_hidden_state, adapted)
    assert not torch.equal(adapted, wanted)
    with pytest.raises(KeyError), model.disable_adapter():
        raise KeyError
    assert all(layer.adapter_enabled for layer in model.sam.vision_encoder.layers)


def test_an_adapter_goes_on_training_and_is_saved_again(model, alone, tmp_path):
    model.set_adapter("colon")
    untouched = copy.deepcopy(alone["outlines"].state_dict())
    model.train()
    output = model(pixels(), **random_labels(2, 64, 96, num_types=2))
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    disturb(model, 9)
    model.config.checkpoint_info = {"name": "better"}
    model.eval()
    with torch.no_grad():
        better = model(pixels())
    model.set_adapter("outlines")
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
    model.set_adapter("colon")
    model.save_adapter(tmp_path / "colon")
    again = CfSamForNucleiSegmentation.from_adapter(tmp_path / "colon")
    with torch.no_grad():
        assert torch.equal(again(pixels()).type_logits, better.type_logits)
    assert again.config.checkpoint_info == {"name": "better"}


def test_from_adapter_loads_the_base_that_the_file_names(folders, alone, caplog):
    for name, folder in folders.items():
        model = CfSamForNucleiSegmentation.from_adapter(folder)
        assert model.adapter_names == [name]
        assert_same_outputs(model, alone[name])
    # The new heads that transformers warns of were replaced.
    assert "MISSING" not in caplog.text


def test_from_adapter_with_a_cfsam_checkpoint_as_base(alone, folders, tmp_path):
    alone["colon"].save_pretrained(tmp_path / "checkpoint")
    model = CfSamForNucleiSegmentation.from_adapter(folders["outlines"], base=tmp_path / "checkpoint")
    assert_same_outputs(model, alone["outlines"])


def test_from_adapter_says_which_base_is_missing(folders, tmp_path):
    record = json.loads((folders["colon"] / ADAPTER_FILE).read_text())
    record["base"]["name"] = str(tmp_path / "nowhere")
    moved = tmp_path / "colon"
    moved.mkdir()
    (moved / WEIGHTS_FILE).write_bytes((folders["colon"] / WEIGHTS_FILE).read_bytes())
    (moved / ADAPTER_FILE).write_text(json.dumps(record))
    with pytest.raises(OSError, match=r"nowhere.*pass base="):
        CfSamForNucleiSegmentation.from_adapter(moved)


def test_from_adapter_passes_the_options_of_the_hub_to_adapter_and_base(folders, alone, base, tmp_path, monkeypatch):
    with readable_hub(monkeypatch, tmp_path / "unused") as hub:
        first = put_folder(hub, f"{USER}/adapter", folders["colon"], private=True)
        put_folder(hub, f"{USER}/adapter", folders["outlines"], under="deep/")
        base_commit = put_folder(hub, f"{USER}/base", base, private=True)
        put_folder(hub, f"{USER}/base", folders["colon"])  # the newest commit is no model
        options = {"token": TOKEN, "cache_dir": tmp_path / "cache", "base": f"{USER}/base", "revision": base_commit}
        model = CfSamForNucleiSegmentation.from_adapter(f"{USER}/adapter", adapter_revision=first, **options)
        assert_same_outputs(model, alone["colon"])
        model = CfSamForNucleiSegmentation.from_adapter(f"{USER}/adapter", adapter_subfolder="deep", **options)
        assert_same_outputs(model, alone["outlines"])
        # Adapters saved from it record the commit of their base.
        loaded = CfSamForNucleiSegmentation.from_pretrained(
            f"{USER}/base", **{name: options[name] for name in ("token", "cache_dir", "revision")}
        )
        loaded.save_adapter(tmp_path / "saved")
        assert json.loads((tmp_path / "saved" / ADAPTER_FILE).read_text())["base"]["revision"] == base_commit
        # Everything lies in the given cache, from which it comes again without a request.
        assert not (tmp_path / "unused").exists()
        del hub.requests[:]
        options |= {"adapter_revision": first, "local_files_only": True}
        assert_same_outputs(CfSamForNucleiSegmentation.from_adapter(f"{USER}/adapter", **options), alone["colon"])
        assert hub.requests == []


def test_a_subfolder_is_that_of_adapter_and_base(folders, alone, base, tmp_path):
    (tmp_path / "there" / "adapter").mkdir(parents=True)
    (tmp_path / "there" / "base").mkdir()
    shutil.copytree(folders["colon"], tmp_path / "there" / "adapter" / "deep")
    shutil.copytree(base, tmp_path / "there" / "base" / "deep")
    options = {"base": tmp_path / "there" / "base", "subfolder": "deep"}
    model = CfSamForNucleiSegmentation.from_adapter(tmp_path / "there" / "adapter", **options)
    assert_same_outputs(model, alone["colon"])
    model = CfSamForNucleiSegmentation.from_adapter(folders["colon"], adapter_subfolder="", **options)
    assert_same_outputs(model, alone["colon"])


def test_what_hinders_the_look_at_an_adapter_is_told_from_its_absence(folders, model, base, tmp_path, monkeypatch):
    from peft import LoraConfig

    with readable_hub(monkeypatch, tmp_path / "cache") as hub:
        put_folder(hub, f"{USER}/private", folders["colon"], private=True)
        put_folder(hub, f"{USER}/base", base)
        with pytest.raises(OSError, match=r"there is no cfsam_adapter\.json"):
            CfSamForNucleiSegmentation.from_adapter(f"{USER}/base")
        with pytest.raises(OSError, match=r"private repository.*token"):
            CfSamForNucleiSegmentation.from_adapter(f"{USER}/private")
        lora = CfSamForNucleiSegmentation.from_pretrained(base, **SIZES)
        lora.add_adapter(LoraConfig(target_modules=["qkv"]), adapter_name="lora")
        lora.save_pretrained(tmp_path / "lora")
        put_folder(hub, f"{USER}/lora", tmp_path / "lora")
        model.load_adapter(f"{USER}/lora", adapter_name="lora")
        # Offline, since the client tries an address that does not answer for half a minute.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for load in (CfSamForNucleiSegmentation.from_adapter, model.load_adapter):
        with pytest.raises(OSError, match="connect"):
            load(f"{USER}/elsewhere")
    # PEFT's adapter comes from the cache, though nobody can say whether there is one of CF-SAM beside it.
    for marker in (tmp_path / "cache").rglob(".no_exist/*/cfsam_adapter.json"):
        marker.unlink()
    model.load_adapter(f"{USER}/lora", adapter_name="again")
    assert {"lora", "again"} <= set(model.peft_config)


def test_another_base_is_refused_with_both_names(folders, base, tmp_path):
    tiny_sam(seed=2).save_pretrained(tmp_path / "another-sam")
    other = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "another-sam", **SIZES)
    with pytest.raises(ValueError, match=r"sam-tiny.*another-sam"):
        other.load_adapter(folders["colon"])
    assert other.adapter_names == ["initial"]


def test_the_base_may_be_loaded_in_another_type(folders, base):
    for dtype in (torch.bfloat16, torch.float16):
        model = CfSamForNucleiSegmentation.from_pretrained(base, dtype=dtype, **SIZES)
        model.load_adapter(folders["colon"])
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_trained_decoder_is_no_base_for_an_adapter_without_one(alone, folders, tmp_path):
    alone["colon"].save_pretrained(tmp_path / "checkpoint")
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="mask decoder is the untrained one of the base"):
        model.load_adapter(folders["frozen-decoder"])


def test_a_trained_checkpoint_names_the_base_it_was_trained_from(base, tmp_path):
    model = trained_on(base, 0)
    model.config.checkpoint_info = {"base_model": "facebook/sam-vit-base", "training": {"train_encoder": False}}
    model.save_pretrained(tmp_path / "checkpoint")
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "checkpoint")
    model.save_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / ADAPTER_FILE).read_text())["base"]["name"] == "facebook/sam-vit-base"
    # With its encoder trained too, the checkpoint is a base of its own.
    model.config.checkpoint_info = {"base_model": "tiny", "training": {"train_encoder": True}}
    model.save_pretrained(tmp_path / "own")
    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "own")
    model.save_adapter(tmp_path / "adapter", base_revision="abc")
    stored = json.loads((tmp_path / "adapter" / ADAPTER_FILE).read_text())["base"]
    assert (stored["name"], stored["revision"]) == (str(tmp_path / "own"), "abc")


def test_an_adapter_of_the_bundled_checkpoint_finds_it_on_every_machine(tmp_path):
    model = CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint())
    disturb(model)
    model.save_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / ADAPTER_FILE).read_text())["base"]["name"] == "cfsam-tiny"
    assert_same_outputs(CfSamForNucleiSegmentation.from_adapter(tmp_path / "adapter"), model)


def test_a_smaller_type_halves_the_file(alone, tmp_path):
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        alone["colon"].save_adapter(tmp_path / str(dtype), dtype=dtype)
        sizes[dtype] = (tmp_path / str(dtype) / WEIGHTS_FILE).stat().st_size
    numbers = sum(p.numel() for p in alone["colon"].parameters() if p.requires_grad)
    assert sizes[torch.float32] - sizes[torch.bfloat16] == pytest.approx(2 * numbers, rel=0.01)
    assert CfSamForNucleiSegmentation.from_adapter(tmp_path / "torch.bfloat16").dtype == torch.float32


def test_adapters_that_are_put_away_follow_to_other_types(model, alone):
    model.set_adapter("outlines")
    model.double()
    model.set_adapter("colon")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    wanted = copy.deepcopy(alone["colon"]).double()
    with torch.no_grad():
        assert torch.equal(model(pixels().double()).nuclei_logits, wanted(pixels().double()).nuclei_logits)


def test_the_full_checkpoint_is_the_active_adapter_alone(model, alone, tmp_path):
    model.set_adapter("outlines")
    model.save_pretrained(tmp_path)
    again, report = CfSamForNucleiSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert_same_outputs(again, alone["outlines"])


def test_a_copy_switches_by_itself(model, alone):
    twin = copy.deepcopy(model)
    twin.set_adapter("colon")
    model.set_adapter("outlines")
    assert_same_outputs(twin, alone["colon"])
    assert_same_outputs(model, alone["outlines"])


def test_deleting(model):
    model.set_adapter("colon")
    model.delete_adapter(["initial", "outlines"])
    assert model.adapter_names == ["colon", "frozen-decoder"]
    with pytest.raises(ValueError, match="active adapter"):
        model.delete_adapter("colon")
    for call in (model.set_adapter, model.delete_adapter):
        with pytest.raises(ValueError, match=r"no adapter 'outlines'; the model has \['colon', 'frozen-decoder'\]"):
            call("outlines")


def test_names_are_given_and_taken(model, folders):
    with pytest.raises(ValueError, match="already has an adapter 'colon'"):
        model.load_adapter(folders["colon"])
    assert model.load_adapter(folders["colon"], adapter_name="colon again") == "colon again"
    assert model.active_adapter == "colon again"
    with pytest.raises(TypeError, match="is_trainable"):
        model.load_adapter(folders["colon"], adapter_name="third", is_trainable=True)
    with pytest.raises(ValueError, match="initial"):
        model.save_adapter(folders["colon"], name="initial")


def test_a_folder_without_any_adapter_is_named(model, tmp_path):
    with pytest.raises(OSError, match=r"no cfsam_adapter\.json"):
        model.load_adapter(tmp_path)
    with pytest.raises(OSError, match="no/such/folder"):
        model.load_adapter("no/such/folder")


def test_settings_that_do_not_fit_the_weights_are_refused(model, folders, tmp_path):
    record = json.loads((folders["colon"] / ADAPTER_FILE).read_text())
    record["config"] |= {"num_types": 3, "id2label": None, "type_colors": None}
    (tmp_path / ADAPTER_FILE).write_text(json.dumps(record))
    (tmp_path / WEIGHTS_FILE).write_bytes((folders["colon"] / WEIGHTS_FILE).read_bytes())
    with pytest.raises(ValueError, match="do not fit"):
        model.load_adapter(tmp_path, adapter_name="wrong")
    assert "wrong" not in model.adapter_names


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_types": 10**9}, "its cfsam_adapter.json is wrong: num_types is 1000000000, which does not fit"),
        ({"adapter_dim": 10**400}, "its cfsam_adapter.json is wrong: adapter_dim is 1000000000"),
        ({"id2label": ["a"]}, "its cfsam_adapter.json is wrong: id2label is not an object"),
        ({"fusion_dim": 60_000}, "weights and settings do not fit each other"),
    ],
)
def test_the_settings_of_a_stranger_cannot_ask_for_any_memory(fields, words, folders, model, tmp_path, monkeypatch):
    hostile = tmp_path / "hostile"
    shutil.copytree(folders["outlines"], hostile)
    record = json.loads((hostile / ADAPTER_FILE).read_text())
    record["config"] |= {"use_hmfm": True} | fields
    (hostile / ADAPTER_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=words):
        model.load_adapter(hostile, adapter_name="hostile")
    monkeypatch.setattr(CfSamForNucleiSegmentation, "from_pretrained", lambda *args, **options: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=words):
        CfSamForNucleiSegmentation.from_adapter(hostile)


def test_a_trained_encoder_has_no_adapter_file(tmp_path):
    with pytest.raises(ValueError, match="save_pretrained"):
        tiny_test_model(train_encoder=True).save_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore:checkpoint .* has no processor_config")
def test_the_pipeline_takes_the_processor_that_lies_beside_the_adapter(alone, folders, tmp_path):
    processor = CfSamImageProcessor(mpp=0.5, tile_size=64, tile_overlap=16, pad_multiple=16)
    alone["outlines"].save_adapter(tmp_path / "outlines", processor=processor)
    model = CfSamForNucleiSegmentation.from_adapter(tmp_path / "outlines")
    pipe = pipeline("nuclei-segmentation", model=model, device="cpu")
    assert (pipe.image_processor.mpp, pipe.image_processor.tile_overlap) == (0.5, 16)
    result = pipe(np.full((64, 64, 3), 200, np.uint8), mpp=0.5)
    assert result.checkpoint == "outlines of nuclei"
    model.load_adapter(folders["colon"])
    assert pipeline("nuclei-segmentation", model=model, device="cpu").image_processor.mpp == 0.25
