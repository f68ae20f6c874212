"""Why: `drop_types.py` must leave a working base without types and without SAM's masks for prompts."""

import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor
from cfsam_hf.training import retype

from ..tiny import SIZE, tiny_test_model


def test_what_is_left_finds_nuclei_as_a_retyped_model_does(run_example, tmp_path, capsys):
    base, output = tmp_path / "base", tmp_path / "untyped"
    tiny_test_model(checkpoint_info={"name": "typed"}).save_pretrained(base)
    CfSamProcessor(CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)).save_pretrained(base)
    run_example("tools/drop_types", str(base), str(output))
    typed = CfSamForNucleiSegmentation.from_pretrained(base)
    expected = retype(typed, CfSamConfig.from_pretrained(base, num_types=0)).eval()
    model = CfSamForNucleiSegmentation.from_pretrained(output).eval()
    assert f"{model.num_parameters():,} parameters, no types" in capsys.readouterr().out
    assert model.config.num_types == 0
    assert model.config.checkpoint_info is None
    assert len(model.sam.mask_decoder.output_hypernetworks_mlps) == 1
    assert model.num_parameters() < expected.num_parameters()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    for name in ("nuclei_logits", "hv_maps", "boundary_logits", "initial_nuclei_logits"):
        assert torch.equal(model(pixels)[name], expected(pixels)[name])
    assert CfSamProcessor.from_pretrained(output).image_processor.tile_size == SIZE
    # Once more changes nothing.
    run_example("tools/drop_types", str(output), str(tmp_path / "again"))
    again = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(pixels).nuclei_logits, model(pixels).nuclei_logits)
