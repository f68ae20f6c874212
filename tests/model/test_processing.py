"""`AutoProcessor` must find the processor of a checkpoint, and it must do all that the image processor does."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from cfsam_hf import CfSamImageProcessor, CfSamProcessor

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
