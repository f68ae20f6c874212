"""Why: the U-Net baseline must have CF-SAM's outputs, losses, processor and decoding, and load in the same way."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageSegmentation

from cfsam_hf import CfSamImageProcessor, NucleiSegmentationPipeline
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation

NAMES = {1: "round", 2: "long"}


def small_unet(**options) -> UNetForNucleiSegmentation:
    torch.manual_seed(0)
    return UNetForNucleiSegmentation(UNetConfig(widths=[4, 6, 8], id2label=NAMES, **options)).eval()


def labels(batch: int, size: int) -> dict[str, torch.Tensor]:
    nuclei = torch.zeros(batch, size, size, dtype=torch.long)
    nuclei[:, 4:12, 4:12] = 1
    return {
        "nuclei_labels": nuclei,
        "hv_labels": torch.zeros(batch, 2, size, size),
        "type_labels": 2 * nuclei,
        "boundary_labels": nuclei,
    }


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_maps_are_at_the_resolution_of_the_input(stem_stride):
    model = small_unet(stem_stride=stem_stride)
    output = model(torch.rand(2, 3, 32, 48))
    assert model.config.pad_multiple == 4 * stem_stride
    assert output.nuclei_logits.shape == output.boundary_logits.shape == (2, 1, 32, 48)
    assert output.hv_maps.shape == (2, 2, 32, 48)
    assert output.type_logits.shape == (2, 3, 32, 48)


def test_every_parameter_is_trained_and_the_loss_falls():
    model = small_unet().train()
    pixels, truth = torch.rand(2, 3, 32, 32), labels(2, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output = model(pixels, **truth)
        output.loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert {"nuclei_bce", "hv_gradient", "type_dice", "boundary_bce"} <= set(output.loss_parts)


def test_a_stored_unet_is_run_by_the_same_pipeline(tmp_path):
    model = small_unet()
    model.save_pretrained(tmp_path)
    CfSamImageProcessor(mpp=0.25, tile_size=64, tile_overlap=16, pad_multiple=8).save_pretrained(tmp_path)
    loaded = AutoModelForImageSegmentation.from_pretrained(tmp_path)
    assert isinstance(loaded, UNetForNucleiSegmentation)
    assert loaded.config.type_names == NAMES
    image = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    result = NucleiSegmentationPipeline(
        model=loaded, image_processor=CfSamImageProcessor.from_pretrained(tmp_path), device="cpu"
    )(image, mpp=0.25)
    assert result.instance_map.shape == (100, 80)
    with pytest.raises(ValueError, match="multiples of 8"):
        loaded(torch.rand(1, 3, 30, 32))


def test_a_wrong_configuration_is_refused():
    with pytest.raises(ValueError, match="stem_stride must be 1 or 2, got 3"):
        UNetConfig(stem_stride=3)
    with pytest.raises(ValueError, match="two or more positive numbers"):
        UNetConfig(widths=[8])
