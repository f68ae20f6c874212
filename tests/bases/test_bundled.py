"""Why: the bundled checkpoint must be found, small, licensed and complete; a compact one must load as float32."""

import json

import pytest
import torch
from safetensors import safe_open

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.bases.compact import save_compact

from ..tiny import tiny_test_model


def test_the_bundled_checkpoint_has_the_stated_size_and_form():
    folder = bundled_checkpoint()
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 16_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    model = CfSamForNucleiSegmentation.from_pretrained(folder)
    assert model.dtype == torch.float32
    trainable, total = model.get_nb_trainable_parameters()
    assert total <= 7_500_000
    assert trainable < total / 2


def test_the_bundled_checkpoint_says_what_it_is():
    info = CfSamForNucleiSegmentation.config_class.from_pretrained(bundled_checkpoint()).checkpoint_info
    assert {"name", "description", "license", "data", "metrics", "training"} <= set(info)
    assert "NC" in info["license"]


@pytest.mark.parametrize("name", ["cfsam-none", "../checkpoints/cfsam-tiny"])
def test_an_unknown_name_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match="cfsam-tiny"):
        bundled_checkpoint(name)


def test_a_compact_folder_is_half_as_large_and_loads_as_float32(tmp_path):
    model = tiny_test_model()
    model.save_pretrained(tmp_path / "full")
    save_compact(model, CfSamImageProcessor(tile_size=64, tile_overlap=16), tmp_path / "compact")
    full, compact = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "compact"))
    assert compact < 0.7 * full
    loaded = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "compact")
    assert loaded.dtype == torch.float32
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float()), name
    assert CfSamImageProcessor.from_pretrained(tmp_path / "compact").tile_size == 64
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_weight_beyond_float16_is_refused_and_nothing_is_written(tmp_path):
    model = tiny_test_model()
    model.fusion.level_scores[0].bias.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"fusion\.level_scores\.0\.bias"):
        save_compact(model, CfSamImageProcessor(), tmp_path / "compact")
    assert list(tmp_path.iterdir()) == []
