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


def test_images_are_required():
    with pytest.raises(ValueError, match="images is missing"):
        CfSamProcessor(CfSamImageProcessor())()
