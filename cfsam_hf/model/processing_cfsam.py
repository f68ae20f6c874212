"""The processor of CF-SAM: the image processor under the name that `AutoProcessor` looks for."""

from typing import Any

from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .result import NucleiResult


class CfSamProcessor(ProcessorMixin):
    """
    Wraps a [`CfSamImageProcessor`]; CF-SAM takes no prompts and no text, so there is nothing else to process.

    Args:
        image_processor (`CfSamImageProcessor`): the image processor.
    """

    def __init__(self, image_processor=None, **kwargs):
        super().__init__(image_processor, **kwargs)

    def __call__(self, images: Any = None, **kwargs) -> BatchFeature:
        """Images to `pixel_values`; see `CfSamImageProcessor.preprocess`."""
        if images is None:
            raise ValueError("images is missing: pass a path, a PIL image, an array, a tensor or a list of them")
        return self.image_processor(images, **kwargs)

    def post_process_nuclei(self, outputs: Any, target_sizes=None, **kwargs) -> list[NucleiResult]:
        """A model's outputs to nuclei; see `CfSamImageProcessor.post_process_nuclei`."""
        return self.image_processor.post_process_nuclei(outputs, target_sizes, **kwargs)

    def post_process_instance_segmentation(self, outputs: Any, **kwargs) -> list[dict[str, Any]]:
        """See `CfSamImageProcessor.post_process_instance_segmentation`."""
        return self.image_processor.post_process_instance_segmentation(outputs, **kwargs)

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes=None) -> list:
        """See `CfSamImageProcessor.post_process_semantic_segmentation`."""
        return self.image_processor.post_process_semantic_segmentation(outputs, target_sizes)
