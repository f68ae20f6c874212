"""CF-SAM: nuclei instance segmentation and classification in H&E tissue, as a Hugging Face model package.

Importing it registers the model with transformers' Auto classes and `pipeline("nuclei-segmentation")`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoProcessor,
)

# Not from the top level, where transformers 5.17 asks for torchvision first.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .bases.bundled import bundled_checkpoint, default_checkpoint_folder
from .model.configuration_cfsam import CfSamConfig
from .model.decoding import DecodingParameters, decode_nuclei
from .model.image_processing_cfsam import CfSamImageProcessor
from .model.modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
from .model.pipeline_cfsam import NucleiSegmentationPipeline
from .model.processing_cfsam import CfSamProcessor
from .model.result import NucleiResult
from .model.version import __version__
from .publish import export_for_hub

__all__ = [
    "CfSamConfig",
    "CfSamForNucleiSegmentation",
    "CfSamImageProcessor",
    "CfSamNucleiSegmentationOutput",
    "CfSamProcessor",
    "DecodingParameters",
    "NucleiResult",
    "NucleiSegmentationPipeline",
    "__version__",
    "bundled_checkpoint",
    "decode_nuclei",
    "export_for_hub",
]


def _register() -> None:
    """Makes transformers know the classes. `exist_ok`: the module may be imported again by a reload."""
    AutoConfig.register("cfsam", CfSamConfig, exist_ok=True)
    AutoModel.register(CfSamConfig, CfSamForNucleiSegmentation, exist_ok=True)
    AutoModelForImageSegmentation.register(CfSamConfig, CfSamForNucleiSegmentation, exist_ok=True)
    # The stock image-segmentation pipeline looks into the names alone, and else logs that it does not know the model.
    MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES["cfsam"] = CfSamForNucleiSegmentation.__name__
    # The one class serves both backends: it needs no torchvision and does not change where there is one.
    AutoImageProcessor.register(
        CfSamConfig,
        image_processor_classes={"pil": CfSamImageProcessor, "torchvision": CfSamImageProcessor},
        exist_ok=True,
    )
    AutoProcessor.register(CfSamConfig, CfSamProcessor, exist_ok=True)
    if "nuclei-segmentation" not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            "nuclei-segmentation",
            pipeline_class=NucleiSegmentationPipeline,
            pt_model=AutoModelForImageSegmentation,
            default={"model": (str(default_checkpoint_folder()), "main")},
            type="image",
        )


_register()
