"""Why: a checkpoint named on the command line must become a pipeline without ever running its own code."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, bundled_checkpoint, export_for_hub
from cfsam_hf.baselines.unet import UNetConfig, UNetForNucleiSegmentation
from cfsam_hf.bases.bundled import bundled_names, or_bundled
from cfsam_hf.commands import terminal as cli
from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint
from cfsam_hf.training.finetune import _recorded
from cfsam_hf.training.models import checkpoint_of

from ..hub_server import USER, put_folder, readable_hub
from ..tiny import tiny_test_model


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_name_stands_for_its_checkpoint_unless_a_folder_has_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for resolve in (resolve_checkpoint, or_bundled, checkpoint_of):
        assert resolve(name) == str(bundled_checkpoint(name))
    assert _recorded(name, or_bundled(name)) == name
    (tmp_path / name).mkdir()
    assert resolve_checkpoint(name) == or_bundled(name) == _recorded(name, name) == name
    # Nothing given: the default one, whatever lies here.
    assert resolve_checkpoint(None) == str(bundled_checkpoint())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("segment tile.png -o out --onnx net.onnx", "--onnx needs --backend onnxruntime"),
        ("evaluate --data reader=x -o out --onnx net.onnx", "--onnx needs --backend onnxruntime"),
        (
            "evaluate --protocol pannuke --fold-checkpoints a b c --data x -o out --backend openvino --onnx net.onnx",
            "--onnx is one checkpoint's network",
        ),
    ],
)
def test_an_exported_network_needs_its_runtime_and_one_checkpoint(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments.split())
    assert message in capsys.readouterr().err


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


CODE = """
from pathlib import Path
Path(__file__).with_name("RAN").touch()
Path({ran!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel, Pipeline, ProcessorMixin, BaseImageProcessor
class Config(PretrainedConfig):
    model_type = "foreign"
class Model(PreTrainedModel): pass
class Processor(ProcessorMixin): pass
class ImageProcessor(BaseImageProcessor): pass
class NucleiPipeline(Pipeline): pass
"""
AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForImageSegmentation": "code.Model",
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "code.Processor", "AutoImageProcessor": "code.ImageProcessor"}
PIPELINES = {
    "nuclei-segmentation": {"impl": "code.NucleiPipeline", "pt": ["AutoModelForImageSegmentation"], "type": "image"}
}


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values))


@pytest.fixture
def code_of_a_stranger(tmp_path, monkeypatch):
    """Makes a folder name code of its own wherever transformers looks for it; fails if that code is run.

    Whoever sits at the terminal says yes to every question.
    """
    ran = tmp_path / "RAN"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(f"asked: {question}"))

    def add(folder: Path) -> Path:
        (folder / "code.py").write_text(CODE.format(ran=str(ran)))
        for name, added in (
            ("config.json", {"auto_map": AUTO_MAP, "custom_pipelines": PIPELINES}),
            ("processor_config.json", {"auto_map": PROCESSOR_AUTO_MAP, "processor_class": "Processor"}),
            ("preprocessor_config.json", {"auto_map": PROCESSOR_AUTO_MAP, "image_processor_type": "ImageProcessor"}),
        ):
            values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
            if "image_processor" in values:
                values["image_processor"]["auto_map"] = PROCESSOR_AUTO_MAP
            write_json(folder / name, values | added)
        return folder

    yield add
    assert not ran.exists()
    assert not list(tmp_path.rglob("RAN"))


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    PIL.Image.new("RGB", (64, 64), (230, 190, 215)).save(path)
    return path


@pytest.mark.parametrize("command", ["segment", "export", "evaluate", "finetune", "info"])
def test_a_foreign_checkpoint_is_refused_without_a_question(command, code_of_a_stranger, image, tmp_path, capsys):
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "foreign"})
    (folder / "model.safetensors").write_bytes(b"")
    code_of_a_stranger(folder)
    out, data = tmp_path / "out", f"reader=instance_pairs,path={image.parent}"
    PIL.Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / "images" / "a_instances.png")
    arguments = {
        "segment": [image, "-o", out, "--mpp", "0.25", "--checkpoint", folder],
        "export": [folder, out],
        "evaluate": ["--data", data, "--part", "all", "-o", out, "--checkpoint", folder],
        "finetune": ["--images", image.parent, "-o", out, "--from", folder],
        "info": [folder],
    }[command]
    assert cli.main([command, *map(str, arguments)]) == cli.EXIT_FAILED
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith(
        f"cfsam: error: checkpoint {folder}: it is a model of type foreign; a CF-SAM checkpoint is needed"
    )
    assert "trust_remote_code" not in captured.out + captured.err


def test_a_checkpoint_of_ours_with_code_of_a_stranger_is_loaded_by_our_classes(code_of_a_stranger, tmp_path):
    folder = code_of_a_stranger(shutil.copytree(bundled_checkpoint(), tmp_path / "ours"))
    pipe = load_pipeline(str(folder), "cpu")
    parts = (pipe, pipe.model, pipe.model.config, pipe.image_processor)
    assert all(type(part).__module__.startswith("cfsam_hf.model.") for part in parts)
    assert export_for_hub(str(folder), tmp_path / "exported").is_dir()


def test_the_unet_is_loaded_and_its_pickles_are_not(tmp_path):
    model = UNetForNucleiSegmentation(UNetConfig(widths=[4, 8], id2label={1: "a"}))
    model.save_pretrained(tmp_path)
    CfSamImageProcessor(tile_size=64, tile_overlap=16, pad_multiple=4).save_pretrained(tmp_path)
    assert type(load_pipeline(str(tmp_path), "cpu").model) is UNetForNucleiSegmentation
    values = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", values | {"attn_implementation": "evil/kernel"})
    with pytest.raises(ValueError, match="attn_implementation is evil/kernel"):
        load_pipeline(str(tmp_path), "cpu")
    write_json(tmp_path / "config.json", values)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(str(tmp_path), "cpu")
