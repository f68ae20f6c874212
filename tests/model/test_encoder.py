"""Why: the adapted encoder must equal SAM's at step 0, for every attention and window, and run at every size."""

import pytest
import torch
from transformers import SamModel

from cfsam_hf import CfSamForNucleiSegmentation

from ..sam_cases import tiny_sam
from ..tiny import SIZE, tiny_test_model


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    """A saved plain SamModel whose position embeddings are not zero."""
    folder = tmp_path_factory.mktemp("sam")
    tiny_sam().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_step_0_equals_sam_exactly(sam_folder, attention):
    # Window 3 on a grid of 4 pads the windowed layers; layers 1 and 3 attend globally.
    sam = SamModel.from_pretrained(sam_folder, attn_implementation=attention)
    model = CfSamForNucleiSegmentation.from_pretrained(
        sam_folder, num_types=2, adapter_dim=8, fusion_dim=16, attn_implementation=attention
    )
    pixel_values = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = sam.vision_encoder(pixel_values).last_hidden_state
        found = model.sam.vision_encoder(pixel_values).last_hidden_state
    assert expected.std() > 0.1
    assert torch.equal(found, expected)


def test_every_sam_weight_is_kept_and_only_adapters_and_heads_are_new(sam_folder):
    sam = SamModel.from_pretrained(sam_folder).state_dict()
    model, report = CfSamForNucleiSegmentation.from_pretrained(
        sam_folder, num_types=2, adapter_dim=8, fusion_dim=16, output_loading_info=True
    )
    own = model.state_dict()
    assert all(torch.equal(own[f"sam.{name}"], value) for name, value in sam.items())
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    new = set(report["missing_keys"])
    assert new == {name for name in own if not name.startswith("sam.") or ".adapter." in name}


def test_new_parts_are_initialised_not_left_as_memory_was(sam_folder):
    model = CfSamForNucleiSegmentation.from_pretrained(sam_folder, num_types=2, adapter_dim=8, fusion_dim=16)
    adapter = model.sam.vision_encoder.layers[0].adapter
    assert 0.05 < adapter.down.weight.std() < 0.5
    assert 0.15 < adapter.kernel.base_3.std() < 0.6
    assert not adapter.up.weight.any()
    assert not model.refinement.head[1].weight.any()
    # SAM's random Fourier features are wide by design.
    new = {n: p for n, p in model.named_parameters() if not n.startswith("sam.") or ".adapter." in n}
    assert all(torch.isfinite(p).all() and p.abs().max() < 10 for p in new.values())


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (48, 112), (160, 32)])
def test_any_multiple_of_the_patch_size_runs(size):
    model = tiny_test_model()
    with torch.no_grad():
        output = model(torch.randn(1, 3, *size))
    assert output.nuclei_logits.shape == (1, 1, *size)
    assert torch.isfinite(output.nuclei_logits).all()


@pytest.mark.parametrize("size", [(60, 64), (64, 8), (0, 16)])
def test_other_sizes_are_refused_with_the_size(size):
    with pytest.raises(ValueError, match=f"patch size 16, got {size[0]} x {size[1]}"):
        tiny_test_model()(torch.zeros(1, 3, *size))


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 64, 64\)"):
        tiny_test_model()(torch.zeros(1, 1, SIZE, SIZE))


def test_position_embedding_is_interpolated_only_where_the_grid_differs():
    encoder = tiny_test_model().sam.vision_encoder
    assert encoder.position_embedding(4, 4) is encoder.pos_embed
    constant = torch.ones_like(encoder.pos_embed)
    encoder.pos_embed.data.copy_(constant)
    assert torch.allclose(encoder.position_embedding(3, 9), torch.ones(1, 3, 9, 32), atol=1e-5)


def test_hidden_states_can_be_asked_for_as_in_sam():
    encoder = tiny_test_model().sam.vision_encoder
    output = encoder(torch.randn(1, 3, SIZE, SIZE), output_hidden_states=True)
    assert len(output.hidden_states) == 5
    assert output.hidden_states[-1].shape == (1, 4, 4, 32)
