"""The processor of CF-SAM: the image processor under the name that `AutoProcessor` looks for."""

from collections.abc import Mapping
from typing import Any

from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .image_processing_cfsam import CfSamImageProcessor
from .result import NucleiResult


class CfSamProcessor(ProcessorMixin):
    """
    Wraps a [`CfSamImageProcessor`]; CF-SAM takes no prompts and no text, so there is nothing else to process.

    Args:
        image_processor (`CfSamImageProcessor`): the image processor.
    """

    def __init__(self, image_processor: CfSamImageProcessor | None = None, **kwargs: Any) -> None:
        super().__init__(image_processor, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: None = None,
        videos: None = None,
        audio: None = None,
        *,
        images_kwargs: Mapping[str, Any] | None = None,
        common_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Images to `pixel_values`; see `CfSamImageProcessor.preprocess`.

        Args:
            images: a picture or a list-like of pictures.
            text, videos, audio: the other inputs that processors have; CF-SAM has none of them.
            images_kwargs, common_kwargs (*optional*): options in dictionaries, as transformers' processors accept.
            kwargs: options of `CfSamImageProcessor.preprocess`.

        Raises:
            ValueError: there are no images, there is another input, or an option is given twice.
        """
        other = {"text": text, "videos": videos, "audio": audio}
        if given := [name for name, value in other.items() if value is not None]:
            raise ValueError(f"{given[0]} is given, but CF-SAM has no input but images")
        if images is None:
            raise ValueError("images is missing: pass a path, a PIL image, an array, a tensor or a list of them")
        # As transformers' own processors merge them: the more specific dictionary wins, and nothing is given twice.
        options = {**(common_kwargs or {}), **(images_kwargs or {})}
        if twice := sorted(set(images_kwargs or {}) & set(kwargs)):
            raise ValueError(f"{twice[0]} is given twice: in images_kwargs and as an argument")
        for modality in ("text_kwargs", "videos_kwargs", "audio_kwargs"):
            kwargs.pop(modality, None)
        return self.image_processor(images, **{**options, **kwargs})

    def post_process_nuclei(self, outputs: Any, target_sizes: Any = None, **kwargs: Any) -> list[NucleiResult]:
        """A model's outputs to nuclei; see `CfSamImageProcessor.post_process_nuclei`."""
        results: list[NucleiResult] = self.image_processor.post_process_nuclei(outputs, target_sizes, **kwargs)
        return results

    def post_process_instance_segmentation(self, outputs: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """See `CfSamImageProcessor.post_process_instance_segmentation`."""
        images: list[dict[str, Any]] = self.image_processor.post_process_instance_segmentation(outputs, **kwargs)
        return images

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes: Any = None, **kwargs: Any) -> list[Any]:
        """See `CfSamImageProcessor.post_process_semantic_segmentation`."""
        images: list[Any] = self.image_processor.post_process_semantic_segmentation(outputs, target_sizes, **kwargs)
        return images
