"""A checkpoint as the command line names it, to the pipeline that runs it."""

import numpy as np
import pytest
import torch

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint
from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint

from ..hub_server import USER, put_folder, readable_hub
from ..tiny import tiny_test_model


def test_the_bundled_checkpoint_has_a_name(tmp_path, monkeypatch):
    assert resolve_checkpoint("cfsam-tiny") == resolve_checkpoint(None) == str(bundled_checkpoint())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfsam-tiny").mkdir()
    assert resolve_checkpoint("cfsam-tiny") == "cfsam-tiny"


def test_an_adapter_folder_is_run_on_its_base(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_test_model().save_pretrained(base)
    CfSamImageProcessor(mpp=0.25, tile_size=64, tile_overlap=16, pad_multiple=16).save_pretrained(base)
    model = CfSamForNucleiSegmentation.from_pretrained(base)
    for name, parameter in model.named_parameters():
        if name.startswith("refinement."):
            parameter.data.add_(0.01)
    model.save_adapter(adapter)
    image = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    maps = [
        load_pipeline(str(folder), "cpu").model(pixel_values=_pixels(image)).nuclei_logits
        for folder in (adapter, base)
    ]
    assert (maps[0] == model.eval()(pixel_values=_pixels(image)).nuclei_logits).all()
    assert not (maps[0] == maps[1]).all()
    pipe = load_pipeline(str(adapter), "cpu")
    assert pipe.image_processor.tile_size == 64
    assert pipe(image, mpp=0.25).checkpoint == "adapter"


def _pixels(image):
    return torch.from_numpy(image[:64, :64].astype("float32") / 255).permute(2, 0, 1)[None]


def test_an_adapter_of_the_hub_is_run_on_its_base(tmp_path, monkeypatch):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_test_model().save_pretrained(base)
    processor = CfSamImageProcessor(mpp=0.25, tile_size=64, tile_overlap=16, pad_multiple=16)
    processor.save_pretrained(base)
    CfSamForNucleiSegmentation.from_pretrained(base).save_adapter(adapter, processor=processor)
    with readable_hub(monkeypatch, tmp_path / "cache") as hub:
        put_folder(hub, f"{USER}/adapter", adapter)
        put_folder(hub, f"{USER}/whole", base)
        pipe = load_pipeline(f"{USER}/adapter", "cpu")
        assert pipe.model.adapter_names == ["adapter"]
        assert pipe.image_processor.tile_size == 64
        del hub.requests[:]
        load_pipeline(f"{USER}/whole", "cpu")
        # Nobody asks after an adapter where there is a checkpoint.
        assert hub.requests
        assert not any("cfsam_adapter" in request for request in hub.requests)
        with pytest.raises(OSError, match=r"nowhere.*not a valid model identifier"):
            load_pipeline(f"{USER}/nowhere", "cpu")
