"""Why: `AutoProcessor` must find the processor of a checkpoint, which must do all that the image processor does, and a
stranger's file must not choose code, replace methods or ask for any amount of memory.
"""

import json

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, SamImageProcessor, ViTImageProcessor, pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from cfsam_hf import CfSamImageProcessor, CfSamProcessor, NucleiSegmentationPipeline
from cfsam_hf.model.processing_cfsam import image_processor_for, saved_image_processor

from ..painted_model import PaintedModel, paint, painted_config


def test_saved_with_a_checkpoint_and_found_by_the_auto_classes(tmp_path):
    painted_config().save_pretrained(tmp_path)
    CfSamProcessor(CfSamImageProcessor(tile_size=128, tile_overlap=32)).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is CfSamProcessor
    assert processor.image_processor.tile_size == 128
    image_processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(image_processor) is CfSamImageProcessor
    assert image_processor.tile_overlap == 32


def test_from_image_to_nuclei_and_the_stock_forms():
    image, instance_map, types = paint(70, 90, 8)
    processor = CfSamProcessor(CfSamImageProcessor())
    with torch.inference_mode():
        outputs = PaintedModel(painted_config())(**processor(images=image, return_tensors="pt"))
    [result] = processor.post_process_nuclei(outputs, target_sizes=[(70, 90)], mpp=0.25)
    assert np.array_equal(result.instance_map, instance_map)
    assert result.table["type"].tolist() == types.tolist()
    [instances] = processor.post_process_instance_segmentation(outputs, target_sizes=[(70, 90)])
    assert np.array_equal(instances["segmentation"].numpy(), instance_map)
    [semantic] = processor.post_process_semantic_segmentation(outputs, target_sizes=[(70, 90)])
    assert np.array_equal(semantic.numpy(), np.r_[0, types][instance_map])


def test_options_may_come_in_transformers_dictionaries():
    image = paint(64, 64, 3)[0]
    processor = CfSamProcessor(CfSamImageProcessor())
    expected = processor(images=image, mpp=0.5, return_tensors="pt")["pixel_values"]
    for options in (
        {"images_kwargs": {"mpp": 0.5}, "return_tensors": "pt"},
        {"images_kwargs": {"mpp": 0.5}, "common_kwargs": {"return_tensors": "pt"}, "text_kwargs": {}},
        {"common_kwargs": {"mpp": 0.125, "return_tensors": "pt"}, "images_kwargs": {"mpp": 0.5}},
    ):
        assert torch.equal(processor(images=image, **options)["pixel_values"], expected)
    with pytest.raises(ValueError, match="mpp is given twice"):
        processor(images=image, mpp=0.5, images_kwargs={"mpp": 0.5})


def test_the_semantic_segmentation_comes_with_scores():
    processor = CfSamProcessor(CfSamImageProcessor())
    with torch.inference_mode():
        outputs = PaintedModel(painted_config())(**processor(images=paint(64, 64, 3)[0], return_tensors="pt"))
    [scored] = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    assert scored.segmentation_scores.shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["text", "videos", "audio"])
def test_other_inputs_than_images_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is given"):
        CfSamProcessor(CfSamImageProcessor())(images=paint(32, 32, 1)[0], **{name: "nuclei"})


def test_images_are_required():
    with pytest.raises(ValueError, match="images is missing"):
        CfSamProcessor(CfSamImageProcessor())()


PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
FOREIGN = "image_processor_type is {}, but the model needs a CfSamImageProcessor; save one in its place, or remove the"
HOSTILE = {
    "a list": (PROCESSOR, [1], ValueError, r"it holds \[1\], not an object"),
    "a number": (PROCESSOR, 5, ValueError, "it holds 5, not an object"),
    "a number inside": (PROCESSOR, {"image_processor": 5}, ValueError, "image_processor is 5, not an object"),
    "an older list": (IMAGE_PROCESSOR, [1], ValueError, r"it holds \[1\], not an object"),
    "a size in words": (PROCESSOR, {"image_processor": {"tile_size": "big"}}, TypeError, "tile_size is big: it must"),
    "a huge size": (IMAGE_PROCESSOR, {"tile_size": 10**9}, ValueError, "tile_size is 1000000000: it must lie in"),
    "windows without end": (IMAGE_PROCESSOR, {"tile_overlap": 255}, ValueError, "tile_overlap is 255: it must be at"),
    "a division by 0": (IMAGE_PROCESSOR, {"image_std": [0, 0, 0]}, ValueError, "image_std is .*: it must be finite"),
    "decoding": (PROCESSOR, {"image_processor": {"decoding": {"minimum_area": -1}}}, ValueError, "minimum_area is -1"),
    "a size of SAM": (IMAGE_PROCESSOR, {"size": {"evil": 1}}, ValueError, "size must have one of"),
    "a method": (IMAGE_PROCESSOR, {"preprocess": 1}, ValueError, "preprocess is not an option .* remove it"),
    "all attributes": (PROCESSOR, {"image_processor": {"__dict__": {}}}, ValueError, "__dict__ is not an option"),
    "a foreign class": (IMAGE_PROCESSOR, {"image_processor_type": "ViTProcessor"}, ValueError, FOREIGN.format("V.*")),
    "no name of a class": (IMAGE_PROCESSOR, {"image_processor_type": [1]}, ValueError, FOREIGN.format(".*")),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_value_is_named_with_its_file(name, tmp_path):
    file, content, error, words = HOSTILE[name]
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / file).write_text(json.dumps(content))
    model = PaintedModel(painted_config())
    model.name_or_path = str(folder)
    for load, source in (
        (CfSamImageProcessor.from_pretrained, folder),
        (saved_image_processor, folder),
        (image_processor_for, model),
    ):
        with pytest.raises(error, match=f"checkpoint .*stranger: its {file} is wrong: .*{words}") as caught:
            load(source)
        assert len(str(caught.value)) < len(str(folder)) + 350


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"tile_size": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize("file", [PROCESSOR, IMAGE_PROCESSOR])
def test_a_file_that_is_not_json_is_named(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(OSError, match=f"its {file} is not a valid JSON file. Get it again, or repair it."):
        saved_image_processor(tmp_path)


def test_an_argument_takes_the_place_of_a_wrong_value(tmp_path):
    (tmp_path / IMAGE_PROCESSOR).write_text(json.dumps({"tile_size": "big", "tile_overlap": 16}))
    processor = CfSamImageProcessor.from_pretrained(tmp_path, tile_size=64)
    assert (processor.tile_size, processor.tile_overlap) == (64, 16)


def test_the_processor_of_a_plain_sam_is_none_of_a_model_of_nuclei(tmp_path):
    SamImageProcessor().save_pretrained(tmp_path)
    assert saved_image_processor(tmp_path) is None
    model = PaintedModel(painted_config(mpp=0.5))
    model.name_or_path = str(tmp_path)
    with pytest.warns(UserWarning, match=r"has no processor_config.json"):
        assert image_processor_for(model).mpp == 0.5


def test_code_that_a_file_names_is_neither_loaded_nor_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(f"asked: {question}"))
    painted_config().save_pretrained(tmp_path)
    CfSamProcessor(CfSamImageProcessor(tile_size=64, tile_overlap=16)).save_pretrained(tmp_path)
    evil = {"AutoImageProcessor": "evil/repository--code.Evil", "AutoProcessor": "evil/repository--code.Evil"}
    values = json.loads((tmp_path / PROCESSOR).read_text())
    values["auto_map"] = values["image_processor"]["auto_map"] = evil
    (tmp_path / PROCESSOR).write_text(json.dumps(values))
    assert type(saved_image_processor(tmp_path)) is CfSamImageProcessor
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is CfSamImageProcessor
    assert type(AutoProcessor.from_pretrained(tmp_path)) is CfSamProcessor


def test_the_pipeline_refuses_a_processor_of_another_kind(tmp_path):
    model = PaintedModel(painted_config())
    with pytest.raises(TypeError, match=r"image_processor is a ViTImageProcessor.*: pass a CfSamImageProcessor"):
        NucleiSegmentationPipeline(model, image_processor=ViTImageProcessor(), device="cpu")
    ViTImageProcessor().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="image_processor is a ViTImageProcessor"):
        pipeline("nuclei-segmentation", model=model, image_processor=str(tmp_path), device="cpu")
