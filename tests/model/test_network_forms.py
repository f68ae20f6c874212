"""Forms of the network other than the default: a shared trunk, lighter joins and refinement, kernels for windows,
styles. Each must have the effect that its option names, and fit into loading, training and the pipeline."""

import numpy as np
import pytest
import torch

from cfsam_hf import CfSamConfig, CfSamForNucleiSegmentation, CfSamImageProcessor, NucleiSegmentationPipeline
from cfsam_hf.model.decoder import joined_parts, parts_of
from cfsam_hf.model.mala import per_image_depthwise_conv, per_window_depthwise_conv

from ..tiny import SIZE, random_labels, tiny_test_config, tiny_test_model

TRUNK = {"detail_trunk": "efficientnet-lite0", "trunk_tokens": True}
STYLES = {"styles": ["one", "two"]}
FORMS = {
    "shared trunk": {**TRUNK, "type_trunk": "efficientnet-lite0"},
    "shared trunk, untyped": {**TRUNK, "num_types": 0},
    "single joins": {"join": "single"},
    "separable joins": {"join": "separable"},
    "narrow refinement": {"refinement_dim": 4},
    "kernels for windows": {"adapter_window": 3},
    "finer maps": {"map_upscale": 2},
    "styles": STYLES,
    "all": {
        **TRUNK,
        **STYLES,
        "type_trunk": "efficientnet-lite0",
        "join": "single",
        "refinement_dim": 4,
        "adapter_window": 3,
        "map_upscale": 2,
    },
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_every_form_trains_all_of_its_parts_and_comes_back(options, tmp_path):
    model = tiny_test_model(**options).train()
    num_types = model.config.num_types or 0
    labels = random_labels(2, num_types=max(1, num_types))
    if not num_types:
        del labels["type_labels"]
    extra = {"style_ids": torch.tensor([1, 2])} if model.config.styles else {}
    model.config.style_dropout = 0.0
    model(torch.randn(2, 3, SIZE, SIZE), **labels, **extra).loss.backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # The neutral style has no gradient without an image in it, and neither have levels that nothing reads.
    assert [name for name in unused if not name.startswith("trunk.stages.3")] == []
    model.eval().save_pretrained(tmp_path)
    again = CfSamForNucleiSegmentation.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, SIZE, 2 * SIZE)
    with torch.no_grad():
        before, after = model(pixels), again(pixels)
    assert torch.equal(before.nuclei_logits, after.nuclei_logits)
    assert before.nuclei_logits.shape == (1, 1, SIZE, 2 * SIZE)
    if num_types:
        assert torch.equal(before.type_logits, after.type_logits)


def test_details_come_from_the_trunk_in_place_of_the_stem():
    model = tiny_test_model(**FORMS["shared trunk"])
    assert model.mask_features.stem is None
    assert model.type_branch.trunk is None
    pixels = torch.randn(1, 3, SIZE, SIZE)
    before = model(pixels)
    # The finest level, which the encoder's tokens do not see.
    model.mask_features.details[0][1].weight.data.zero_()
    after = model(pixels)
    assert not torch.equal(before.nuclei_logits, after.nuclei_logits)


def test_outlines_and_types_both_teach_the_shared_trunk():
    model = tiny_test_model(**FORMS["shared trunk"])
    labels = random_labels(1)
    without_types = {**labels, "type_labels": torch.full_like(labels["type_labels"], -100)}
    pixels = torch.randn(1, 3, SIZE, SIZE)
    weight = model.trunk.first.weight

    def gradient(given):
        model.zero_grad()
        model(pixels, **given).loss.backward()
        return weight.grad.clone()

    of_outlines = gradient(without_types)
    assert of_outlines.any()
    assert (gradient(labels) - of_outlines).abs().max() > 1e-4 * of_outlines.abs().max()


def test_the_trunk_adds_to_the_tokens_and_starts_at_nothing():
    torch.manual_seed(0)
    model = CfSamForNucleiSegmentation(tiny_test_config(**TRUNK)).eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)

    def tokens():
        return model(pixels, output_hidden_states=True).hidden_states[0]

    with torch.no_grad():
        at_the_start = tokens()
        torch.testing.assert_close(
            at_the_start, model.sam.vision_encoder.patch_embed(pixels) + model.sam.vision_encoder.pos_embed
        )
        model.trunk_tokens[1].weight.data.normal_()
        assert not torch.equal(tokens(), at_the_start)


def test_a_narrow_refinement_reads_the_pixels_themselves():
    model = tiny_test_model(refinement_dim=4)
    maps = torch.randn(1, 3 + 4, SIZE // 2, SIZE // 2)
    features, pixels = torch.randn(1, 8, SIZE // 2, SIZE // 2), torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        _, boundary = model.refinement(features, maps, maps, pixels)
        pixels[0, 0, 20, 20] += 3.0
        _, other = model.refinement(features, maps, maps, pixels)
    assert not torch.equal(boundary, other)
    # A pixel is seen as far as the widest dilation reaches.
    assert torch.equal(boundary[..., 16:, :], other[..., 16:, :])


def test_the_parts_of_cells_are_those_of_pytorch():
    maps = torch.randn(2, 3, 6, 8)
    parts = parts_of(maps, 2)
    assert torch.equal(parts, torch.nn.functional.pixel_unshuffle(maps, 2))
    assert torch.equal(joined_parts(parts, 2), maps)


def test_finer_maps_differ_within_a_cell():
    model = tiny_test_model(map_upscale=2)
    with torch.no_grad():
        initial, refined, boundary = model.predict_maps(torch.randn(1, 3, SIZE, SIZE))
    assert initial.shape == refined.shape == (1, 3 + 4, SIZE, SIZE)
    assert boundary.shape == (1, 1, SIZE, SIZE)
    for maps in (initial, refined, boundary):
        corners = [maps[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        assert not any(torch.allclose(corners[0], corner) for corner in corners[1:])


@pytest.mark.parametrize(("height", "width", "window"), [(6, 6, 3), (7, 5, 3), (4, 4, 9)])
def test_kernels_for_windows_are_those_of_each_window(height, width, window):
    rows, columns = -(-height // window), -(-width // window)
    features, kernels = torch.randn(2, 3, height, width), torch.randn(2, rows, columns, 3, 5, 5)
    together = per_window_depthwise_conv(features, kernels, window)
    for row in range(rows):
        for column in range(columns):
            area = (..., slice(row * window, (row + 1) * window), slice(column * window, (column + 1) * window))
            alone = per_image_depthwise_conv(features, kernels[:, row, column])
            torch.testing.assert_close(together[area], alone[area])


def test_kernels_of_a_window_depend_on_it_alone():
    model = tiny_test_model(adapter_window=2)
    adapter = model.sam.vision_encoder.layers[0].adapter
    tokens = torch.randn(1, 8, 8, 32)
    with torch.no_grad():
        before = adapter(tokens)
        tokens[:, 7:, 7:] += 1.0
        after = adapter(tokens)
    # Kernels of 7 reach three tokens far.
    assert torch.equal(before[:, :3, :3], after[:, :3, :3])
    assert not torch.equal(before, after)
    adapter.window = None
    with torch.no_grad():
        whole = adapter(tokens)
        tokens[:, 7:, 7:] -= 1.0
        assert not torch.equal(adapter(tokens)[:, :3, :3], whole[:, :3, :3])


def test_a_style_changes_outlines_and_the_neutral_one_is_the_default():
    model = tiny_test_model(**STYLES)
    pixels = torch.randn(1, 3, SIZE, SIZE).expand(3, -1, -1, -1)
    with torch.no_grad():
        maps = model(pixels, style_ids=torch.tensor([0, 1, 2])).nuclei_logits
        default = model(pixels).nuclei_logits
    torch.testing.assert_close(default[0], maps[0])
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[1], maps[2])


def test_styles_are_dropped_in_training_alone():
    model = tiny_test_model(**STYLES, style_dropout=1.0)
    pixels, styles = torch.randn(1, 3, SIZE, SIZE), torch.tensor([2])
    with torch.no_grad():
        neutral, own = model(pixels).nuclei_logits, model(pixels, style_ids=styles).nuclei_logits
        assert not torch.equal(neutral, own)
        model.train()
        assert torch.equal(model(pixels, style_ids=styles).nuclei_logits, neutral)


def test_the_pipeline_takes_a_style_by_name():
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    processor = CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)
    pipe = NucleiSegmentationPipeline(tiny_test_model(**STYLES), image_processor=processor)
    maps = {style: pipe.blended_maps(image, mpp=0.25, style=style).nuclei for style in (None, "neutral", "two")}
    np.testing.assert_array_equal(maps[None], maps["neutral"])
    assert not np.allclose(maps[None], maps["two"])
    with pytest.raises(ValueError, match="no style 'three'; choose one of: neutral, one, two"):
        pipe(image, mpp=0.25, style="three")
    plain = NucleiSegmentationPipeline(tiny_test_model(), image_processor=processor)
    with pytest.raises(ValueError, match=r"no style 'one'; choose one of: neutral$"):
        plain(image, mpp=0.25, style="one")
    plain(image, mpp=0.25, style="neutral")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"join": "triple"}, "join must be one of double, single, separable, got 'triple'"),
        ({"detail_trunk": "resnet"}, "detail_trunk must be None or one of efficientnet-lite0, got 'resnet'"),
        ({"trunk_tokens": True}, "trunk_tokens needs a detail_trunk"),
        ({"refinement_dim": 0}, "refinement_dim must be None or positive, got 0"),
        ({"map_upscale": 3}, r"map_upscale must divide mask_stride \(2\), got 3"),
        ({"map_upscale": 0}, "map_upscale must divide mask_stride"),
        ({"adapter_window": 0}, "adapter_window must be None or positive, got 0"),
        ({"styles": ["one", "one"]}, "styles must be distinct names"),
        ({"styles": ["neutral"]}, "other than 'neutral'"),
        ({"style_dropout": 2.0}, r"style_dropout must lie in \[0, 1\], got 2.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CfSamConfig(**options)
