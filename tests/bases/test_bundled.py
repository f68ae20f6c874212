"""Why: the bundled checkpoint must be found, small, licensed and complete; a compact one must load as float32."""

import json

import pytest
import torch
from safetensors import safe_open

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.bases.bundled import bundled_names, or_bundled
from cfsam_hf.bases.compact import save_compact
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.slides.bundled import demo_picture

from ..tiny import tiny_test_model


def load(name):
    return CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint(name))


def test_a_name_stands_for_its_folder_and_nothing_else_changes():
    assert bundled_names() == ["cfsam-tiny", "cfsam-tiny-open"]
    assert or_bundled("cfsam-tiny-open") == str(bundled_checkpoint("cfsam-tiny-open"))
    assert or_bundled("lab/cfsam-tiny-open") == "lab/cfsam-tiny-open"


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_checkpoint_has_the_stated_size_and_form(name):
    folder = bundled_checkpoint(name)
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


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_checkpoint_says_what_it_is(name):
    info = CfSamForNucleiSegmentation.config_class.from_pretrained(bundled_checkpoint(name)).checkpoint_info
    assert {"name", "description", "license", "data", "metrics", "training"} <= set(info)
    assert info["name"] == name
    assert info["parameters"] == f"{sum(p.numel() for p in load(name).parameters()):,}"


def test_only_the_open_checkpoint_may_be_used_commercially():
    infos = {name: CfSamConfig.from_pretrained(bundled_checkpoint(name)).checkpoint_info for name in bundled_names()}
    assert "NC" in infos["cfsam-tiny"]["license"]
    info = infos["cfsam-tiny-open"]
    assert info["license"] == "CC BY 4.0"
    # Its data, and what their licence asks for: the authors' names.
    assert not any(name in line for line in info["data"] for name in ("CoNSeP", "MoNuSeg", "CRCHisto"))
    for author in ("Mahbod", "Naylor"):
        assert any(author in line for line in info["data"])
        # A model that is trained further keeps the note, and not the list of data.
        assert author in info["license_note"]
    assert any("ImageNet" in line and "EfficientNet" in line for line in info["data"])


def test_the_open_checkpoint_outlines_nuclei_without_types():
    pipe = NucleiSegmentationPipeline(load("cfsam-tiny-open"), device="cpu")
    picture, _ = demo_picture()
    result = pipe(picture[:256, :256], mpp=0.5)
    assert len(result.table) > 50
    assert set(result.table["type"]) == {0}
    assert set(result.table["type_name"]) == {"nucleus"}


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
