"""Why: the ONNX file must give torch's maps for any size, batch and style, or not exist."""

import importlib.util

import numpy as np
import pytest
import torch

from cfsam_hf import CfSamForNucleiSegmentation, bundled_checkpoint, export_onnx
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation
from cfsam_hf.bases.bundled import bundled_names
from cfsam_hf.commands.terminal import main
from cfsam_hf.inference import use_backend
from cfsam_hf.inference.backends import OnnxFacts, describe_network, load_network
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.model.maps import stack_maps
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.publish import onnx_export, onnx_int8
from cfsam_hf.publish.onnx_int8 import calibration_windows, digest

from ..demo_tile import DEMO_DECODING
from ..painted_model import paint, painted_pipeline
from ..publish_cases import tissue_image
from ..tiny import tiny_test_model

# The forms of the network: kernels per image and per window, with and without styles, boundaries, types and a trunk.
FORMS = {
    "first": {},
    "long run": {
        "adapter_window": 3,
        "styles": ["a", "b"],
        "type_trunk": "efficientnet-lite0",
        "detail_trunk": "efficientnet-lite0",
        "trunk_tokens": True,
        "join": "single",
        "refinement_dim": 4,
        "map_upscale": 2,
    },
    "least": {"num_types": 0, "use_bgmr": False, "use_mala": False},
}


def test_only_cf_sam_is_exported_and_only_to_a_new_file(tmp_path):
    with pytest.raises(TypeError, match="UNetForNucleiSegmentation cannot be exported"):
        export_onnx(UNetForNucleiSegmentation(UNetConfig(widths=(8, 16))), tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(ValueError, match=r"net\.onnx exists; pass overwrite=True"):
        export_onnx(tiny_test_model(), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give FOLDER or --onnx FILE"),
        (["folder", "--int8", "tile.png"], "--int8 is for the file of --onnx"),
        (["--onnx", "net.onnx", "--mpp", "0.5"], "--mpp is the pixel size of the images of --int8"),
    ],
)
def test_the_command_says_what_is_missing(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "cfsam-tiny", *arguments])
    assert message in capsys.readouterr().err


def test_int8_needs_a_pipeline_and_images(tmp_path, capsys):
    pipe = painted_pipeline()
    with pytest.raises(TypeError, match="int8_images need the pipeline"):
        export_onnx(tiny_test_model(), tmp_path / "net.onnx", int8_images=[paint(64, 64)[0]])
    with pytest.raises(ValueError, match="there are none"):
        calibration_windows(pipe, [])
    assert main(["export", "cfsam-tiny", "--onnx", str(tmp_path / "net.onnx"), "--int8", str(tmp_path / "no")]) == 1
    assert "no: no such file or folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_relative_positions_are_those_of_sam():
    attention = tiny_test_model().sam.vision_encoder.layers[1].attn
    embedding = torch.randn(7, 16)
    for length in (3, 4, 9):
        own = onnx_export._relative_positions(length, length, embedding)
        assert torch.equal(own, attention.get_rel_pos(length, length, embedding))


def test_ranges_are_measured_on_as_many_windows_of_each_image(monkeypatch):
    pipe, seen = painted_pipeline(), []
    cut = onnx_int8.cut_window
    monkeypatch.setattr(onnx_int8, "cut_window", lambda image, window: seen.append(image.shape) or cut(image, window))
    monkeypatch.setattr(onnx_int8, "MAX_WINDOWS", 4)
    small, large = paint(200, 300, seed=1)[0], paint(640, 640, seed=2)[0]
    windows = calibration_windows(pipe, [small, large], mpp=pipe.image_processor.mpp)
    assert len(windows) == 4
    assert {window.shape[:2] for window in windows} == {(1, 3)}
    assert [seen.count(image.shape) for image in (small, large)] == [2, 2]
    assert digest(windows) == digest(list(windows)) != digest(windows[::-1])
    # Of more images than windows, the first, the last and some between.
    seen.clear()
    calibration_windows(pipe, [large, *[small] * 9, large], mpp=pipe.image_processor.mpp)
    assert seen == [large.shape, small.shape, small.shape, large.shape]
    # At another pixel size, they are resampled as for the network.
    seen.clear()
    calibration_windows(pipe, [small], mpp=2 * pipe.image_processor.mpp)
    assert set(seen) == {(400, 600, 3)}


def test_every_style_is_measured():
    inputs = onnx_int8._Inputs([np.zeros((1, 3, 4, 4), np.float32)] * 4, num_styles=2)
    assert [inputs.get_next()["style_ids"].tolist() for _ in range(4)] == [[0], [1], [2], [0]]
    assert inputs.get_next() is None


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_file_has_torchs_maps_for_any_shape(form, tmp_path):
    pytest.importorskip("onnxruntime")
    model = tiny_test_model(**FORMS[form])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    file = export_onnx(model, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    # The model itself is as before.
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    facts = OnnxFacts.read(file)
    assert facts == describe_network(model)
    network = load_network("onnxruntime", file, facts)
    for batch, height, width in ((1, 64, 64), (3, 48, 112), (2, 208, 16)):
        pixels = torch.randn(batch, 3, height, width)
        styles = torch.arange(batch) if facts.num_styles else None
        with torch.inference_mode():
            outputs = stack_maps(model(pixels, style_ids=styles)).numpy()
        maps = network(pixels.numpy(), np.arange(batch))
        assert maps.shape == (batch, facts.layout.channels, height, width)
        np.testing.assert_allclose(maps, outputs, atol=1e-4)


@pytest.mark.slow
def test_a_file_with_other_maps_does_not_appear(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    # Kernels that the trace does not follow.
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="differ from torch's by"):
        export_onnx(tiny_test_model(**FORMS["least"]), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_bundled_checkpoint_finds_the_same_nuclei(backend, tmp_path):
    pytest.importorskip(backend)
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.onnx"
    assert main(["export", "cfsam-tiny", "--onnx", str(file)]) == 0
    pipe = NucleiSegmentationPipeline(CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint()), device="cpu")
    image = tissue_image()
    expected = pipe(image, mpp=0.25, decoding=DEMO_DECODING).table
    use_backend(pipe, backend, file)
    found = pipe(image, mpp=0.25, decoding=DEMO_DECODING).table
    assert len(found) == len(expected) > 20
    assert (found["type"] == expected["type"]).mean() > 0.99
    np.testing.assert_allclose(found[["x", "y"]], expected[["x", "y"]], atol=0.5)


def convolutions(file, quantised: bool) -> list[str]:
    """The names of an ONNX file's convolutions with weights in int8, or with weights in float32."""
    graph = pytest.importorskip("onnx").load(file).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and (made_by.get(node.input[1]) == "DequantizeLinear") == quantised
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_names())
def test_int8_changes_few_nuclei_and_is_refused_where_it_changes_many(name, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    model = CfSamForNucleiSegmentation.from_pretrained(bundled_checkpoint(name))
    pipe = NucleiSegmentationPipeline(model, device="cpu")
    image = tissue_image()
    expected = pipe(image, mpp=0.25, decoding=DEMO_DECODING)
    file = export_onnx(pipe, tmp_path / "int8.onnx", int8_images=[image], mpp=0.25)
    whole = export_onnx(pipe, tmp_path / "whole.onnx")
    assert OnnxFacts.read(file).precision == "int8"
    for part in ("patch_embed", "/trunk/"):
        assert any(part in node for node in convolutions(file, quantised=False))
        assert not any(part in node for node in convolutions(file, quantised=True))
    # Convolutions have a smaller part of the weights of cfsam-tiny-open.
    assert file.stat().st_size < 0.9 * whole.stat().st_size
    for backend in ("onnxruntime", "openvino"):
        if importlib.util.find_spec(backend) is None:
            continue
        use_backend(pipe, backend, file)
        found = pipe(image, mpp=0.25, decoding=DEMO_DECODING)
        agreement = panoptic_quality(expected.instance_map, found.instance_map)
        assert not np.array_equal(found.instance_map, expected.instance_map)
        assert agreement.dq > 0.95
        assert agreement.sq > 0.93
    monkeypatch.setattr(onnx_int8, "INT8_TOLERANCE", 1e-6)
    with pytest.raises(ValueError, match="in int8, maps differ from those in float32 by"):
        export_onnx(pipe, file, int8_images=[image], mpp=0.25, overwrite=True)
    assert OnnxFacts.read(file).precision == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx", "whole.onnx"]
