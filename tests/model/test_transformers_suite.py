"""transformers' own tests of models and image processors hold for this package's classes.

Its tests of pipelines are in no distribution; `test_stock_pipeline.py` holds what they check.
"""

import unittest
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor

from ..tiny import SIZE, random_labels, tiny_test_config, tiny_test_model
from ..transformers_suite import suite_module

pytestmark = pytest.mark.slow

# Tests of transformers that cannot hold here, with the reason. One that passes does not belong here.
MODEL_EXCEPTIONS = {
    "test_attention_outputs": "attentions of windowed layers are (batch * windows * heads, tokens, tokens)",
    "test_can_load_ignoring_mismatched_shapes": "num_labels follows from num_types and is refused if it differs",
    "test_correct_missing_keys": "a checkpoint that lacks weights is refused, not filled with random ones",
    "test_model_get_set_embeddings": "the input embedding is a projection of patches, not an nn.Embedding",
    "test_model_weights_reload_no_missing_tied_weights": "a checkpoint that lacks weights is refused",
    "test_num_layers_is_small": "the tests' model has four layers, so that windowed and global attention alternate",
}
# Of each group, the tests that ask sdpa for attention weights.
EAGER_ALONE = "sdpa gives no attention weights; asking it for them raises an error and does not return None"
PROCESSOR_EXCEPTIONS = {
    "test_new_models_require_torchvision_backend": "the package does without torchvision",
    "test_call_numpy_4_channels": "the model reads RGB alone; a fourth channel is alpha and is laid over white",
}


class ModelTester:
    """What transformers' mixin asks of a model's tester."""

    batch_size = 3
    is_training = True
    num_hidden_layers = 4
    hidden_size = 32
    num_attention_heads = 2
    # Token maps are (B, h, w, C): the last but one axis is the width.
    seq_length = SIZE // 16

    def get_config(self) -> Any:
        # Gradients reach the hidden states only if the encoder is trained.
        return tiny_test_config(attn_implementation="eager", train_encoder=True)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        return self.get_config(), {"pixel_values": torch.randn(self.batch_size, 3, SIZE, SIZE)}


class ImageProcessorTester:
    """What transformers' mixin asks of an image processor's tester: random pictures and the shape of their tensors."""

    batch_size = 3
    num_channels = 3
    image_processing_classes = {"pil": CfSamImageProcessor}  # noqa: RUF012

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def prepare_image_processor_dict(self) -> dict[str, Any]:
        return {"mpp": 0.5, "tile_size": 128, "tile_overlap": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

    def prepare_image_inputs(
        self, equal_resolution: bool = False, numpify: bool = False, torchify: bool = False, **_: Any
    ) -> list[Any]:
        random = np.random.default_rng(0)
        sizes = [(64, 80)] * 3 if equal_resolution else [(64, 80), (50, 70), (33, 96)]
        pictures = [random.integers(0, 256, (*size, self.num_channels), dtype=np.uint8) for size in sizes]
        if torchify:
            return [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in pictures]
        return pictures if numpify else [Image.fromarray(pixels) for pixels in pictures]

    def expected_output_image_shape(self, images: list[Any]) -> tuple[int, int, int]:
        sizes = [self._size(image) for image in images]
        height, width = (-(-max(side) // 16) * 16 for side in zip(*sizes, strict=True))
        return self.num_channels, height, width

    def prepare_post_process_semantic_segmentation_inputs(self) -> tuple[dict[str, Any], dict[str, int]]:
        with torch.no_grad():
            outputs = tiny_test_model()(torch.randn(self.batch_size, 3, SIZE, SIZE))
        return {"outputs": outputs}, {"num_labels": 4, "height": SIZE, "width": SIZE}

    @staticmethod
    def _size(image: Any) -> tuple[int, int]:
        if isinstance(image, Image.Image):
            return image.height, image.width
        return tuple(image.shape[:2]) if isinstance(image, np.ndarray) else tuple(image.shape[1:])


def run_cases(case: type[unittest.TestCase], exceptions: dict[str, str], subtests: pytest.Subtests) -> int:
    """Runs each test of a class as a subtest; returns how many passed."""
    passed = 0
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    assert set(exceptions) <= set(names), "exceptions that transformers no longer has"
    for name in names:
        result = unittest.TestResult()
        case(name).run(result)
        failures = [text for _, text in (*result.errors, *result.failures)]
        with subtests.test(name):
            if name in exceptions:
                assert failures, f"{name} passes and needs no exception"
            else:
                assert not failures, failures[0]
                passed += not result.skipped
    return passed


def test_models_of_transformers(pytestconfig, subtests):
    common = suite_module("test_modeling_common", pytestconfig)

    class Case(common.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (CfSamForNucleiSegmentation,)
        test_resize_embeddings = False

        def setUp(self) -> None:
            self.model_tester = ModelTester()

        def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
            labels = random_labels(ModelTester.batch_size) if return_labels else {}
            return {**super()._prepare_for_class(inputs_dict, model_class, return_labels), **labels}

    sdpa = {
        name: EAGER_ALONE
        for name in dir(Case)
        if name.startswith("test_eager_matches_sdpa_inference") and name.endswith("output_attentions")
    }
    assert run_cases(Case, {**MODEL_EXCEPTIONS, **sdpa}, subtests) > 50


def test_image_processors_of_transformers(pytestconfig, subtests):
    common = suite_module("test_image_processing_common", pytestconfig)

    class Case(common.ImageProcessingTestMixin, common.PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
        image_processor_tester_class = ImageProcessorTester
        test_cast_dtype = True

    assert run_cases(Case, PROCESSOR_EXCEPTIONS, subtests) > 15
