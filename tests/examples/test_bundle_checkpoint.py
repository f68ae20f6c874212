"""Why: the shipped checkpoints must be what the committed script makes of weights and facts."""

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor, bundled_checkpoint
from cfsam_hf.bases.bundled import bundled_names

from ..tiny import tiny_test_model


@pytest.fixture
def script(load_example):
    return load_example("tools/bundle_checkpoint")


@pytest.mark.parametrize("name", bundled_names())
def test_bundling_what_is_shipped_gives_the_same_checkpoint(script, name, tmp_path):
    shipped, folder = bundled_checkpoint(name), tmp_path / name
    script.bundle(name, name, folder)
    assert (folder / "model.safetensors").read_bytes() == (shipped / "model.safetensors").read_bytes()
    written, expected = (CfSamConfig.from_pretrained(of).to_dict() for of in (folder, shipped))
    # write_card.py adds the scores.
    assert expected["checkpoint_info"].pop("metrics")
    assert written == expected
    processors = [CfSamProcessor.from_pretrained(of).image_processor.to_dict() for of in (folder, shipped)]
    assert processors[0] == processors[1]


def test_weights_are_rounded_to_float16_and_load_as_float32(script, tmp_path):
    source, folder = tmp_path / "source", tmp_path / "bundled"
    model = tiny_test_model()
    model.save_pretrained(source)
    CfSamProcessor(CfSamImageProcessor()).save_pretrained(source)
    script.bundle(str(source), "cfsam-tiny-open", folder)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    loaded = CfSamForNucleiSegmentation.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float() if value.is_floating_point() else value)
    info = loaded.config.checkpoint_info
    assert (info["name"], info["license"]) == ("cfsam-tiny-open", "CC BY 4.0")
    assert info["parameters"] == f"{model.num_parameters():,}"


def test_a_weight_beyond_float16_is_named(script, tmp_path):
    model = tiny_test_model()
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.flatten()[0] = 1e5
    with pytest.raises(ValueError, match=f"{name} has values that float16 cannot hold"):
        script.round_to_half(model)


def test_a_checkpoint_without_facts_is_refused_before_anything_is_written(script, tmp_path):
    with pytest.raises(OSError, match=r"facts\.yaml"):
        script.bundle("cfsam-tiny", "cfsam-mine", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
