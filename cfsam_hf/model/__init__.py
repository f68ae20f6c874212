"""What ships with a checkpoint, as flat siblings that import nothing else of the package.

Importing any of them registers the model with transformers' Auto classes and `pipeline("nuclei-segmentation")`.
"""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageSegmentation, AutoProcessor

# Not from the top level, where transformers 5.17 asks for torchvision first.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_cfsam import CfSamConfig
from .decoding import DecodingParameters, decode_nuclei
from .image_processing_cfsam import CfSamImageProcessor
from .modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
from .pipeline_cfsam import NucleiSegmentationPipeline
from .processing_cfsam import CfSamProcessor
from .result import NucleiResult

__all__ = [
    "CfSamConfig",
    "CfSamForNucleiSegmentation",
    "CfSamImageProcessor",
    "CfSamNucleiSegmentationOutput",
    "CfSamProcessor",
    "DecodingParameters",
    "NucleiResult",
    "NucleiSegmentationPipeline",
    "decode_nuclei",
]

TASK = "nuclei-segmentation"
DEFAULT_MODEL = Path(__file__).parents[1] / "checkpoints" / "cfsam-tiny"
"""What `pipeline("nuclei-segmentation")` loads when no model is named."""


def _register() -> None:
    """Registers the classes. `exist_ok`: the module may be reloaded."""
    AutoConfig.register("cfsam", CfSamConfig, exist_ok=True)
    AutoModel.register(CfSamConfig, CfSamForNucleiSegmentation, exist_ok=True)
    AutoModelForImageSegmentation.register(CfSamConfig, CfSamForNucleiSegmentation, exist_ok=True)
    # The stock image-segmentation pipeline reads these names alone, and logs an error about any other model.
    MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES["cfsam"] = CfSamForNucleiSegmentation.__name__
    # One class serves both backends: it does not need torchvision and does not use it.
    AutoImageProcessor.register(
        CfSamConfig,
        image_processor_classes={"pil": CfSamImageProcessor, "torchvision": CfSamImageProcessor},
        exist_ok=True,
    )
    AutoProcessor.register(CfSamConfig, CfSamProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=NucleiSegmentationPipeline,
            pt_model=AutoModelForImageSegmentation,
            default={"model": (str(DEFAULT_MODEL), "main")},
            type="image",
        )


_register()
