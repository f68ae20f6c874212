"""The processor of CF-SAM, an image processor for `AutoProcessor`, and the image processor of a checkpoint."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

from transformers.image_processing_utils import BatchFeature
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from .checkpoint import check_kind, naming_checkpoint
from .image_processing_cfsam import SAM_PROCESSORS, CfSamImageProcessor, read_options
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
            text, videos, audio: other inputs of processors; CF-SAM takes none of them.
            images_kwargs, common_kwargs (*optional*): options in dictionaries, as transformers' processors accept.
            kwargs: options of `CfSamImageProcessor.preprocess`.

        Raises:
            ValueError: there are no images, there is another input, or an option is given twice.
        """
        other = {"text": text, "videos": videos, "audio": audio}
        if given := [name for name, value in other.items() if value is not None]:
            raise ValueError(f"{given[0]} is given, but CF-SAM takes images only; leave it out")
        if images is None:
            raise ValueError("images is missing: pass a path, a PIL image, an array, a tensor or a list of them")
        # Merged as by transformers' own processors: the more specific dictionary wins.
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


def saved_image_processor(source: str | os.PathLike, **options: Any) -> CfSamImageProcessor | None:
    """The image processor saved with a checkpoint; None if there is none, or only that of a plain SAM.

    Args:
        source: folder or Hub id.
        options: options of `from_pretrained`, such as `revision`.

    Raises:
        OSError, TypeError, ValueError: as for `CfSamImageProcessor.get_image_processor_dict`.
    """
    with naming_checkpoint(source):
        saved = read_options(source, options)
    if saved is None or saved[1].get("image_processor_type") in SAM_PROCESSORS:
        return None
    processor: CfSamImageProcessor = CfSamImageProcessor.from_pretrained(source, **options)
    return processor


def image_processor_for(model: PreTrainedModel) -> CfSamImageProcessor:
    """The image processor saved with a model or its adapter, else one with the defaults for the model's configuration.

    Raises:
        OSError, TypeError, ValueError: a file is damaged or holds a wrong value; the model is not one of nuclei.
    """
    source = getattr(model, "adapter_folder", None) or getattr(model, "name_or_path", "") or ""
    processor = None
    # A model that was not loaded has no source.
    if source:
        commit = getattr(model.config, "_commit_hash", None)
        try:
            processor = saved_image_processor(source, **({"revision": commit} if commit else {}))
        except OSError:
            if os.path.isdir(source):
                raise
    if processor is not None:
        return processor
    check_kind(model.config)
    if source:
        warnings.warn(
            f"checkpoint {source} has no {PROCESSOR_NAME}: tiles and decoding take their defaults, and scores are not "
            "calibrated; save its image processor beside the model (save_pretrained), or pass image_processor=...",
            stacklevel=3,
        )
    multiple = model.config.pad_multiple
    tile_size = -(-CfSamImageProcessor.tile_size // multiple) * multiple
    return CfSamImageProcessor(mpp=model.config.mpp, pad_multiple=multiple, tile_size=tile_size)
