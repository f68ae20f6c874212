"""CF-SAM: nuclei instance segmentation and classification in H&E tissue, as a Hugging Face model package.

`import cfsam_hf` registers the model with transformers: the Auto classes load it and `pipeline("nuclei-segmentation")`
runs it, whichever of the two packages is imported first. Torch and transformers are imported when they are needed.
"""

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from .bases.bundled import bundled_checkpoint
    from .inference.segment_slide import segment_slide
    from .model.configuration_cfsam import CfSamConfig
    from .model.decoding import DecodingParameters, decode_nuclei
    from .model.image_processing_cfsam import CfSamImageProcessor
    from .model.modeling_cfsam import CfSamForNucleiSegmentation, CfSamNucleiSegmentationOutput
    from .model.pipeline_cfsam import NucleiSegmentationPipeline
    from .model.processing_cfsam import CfSamProcessor
    from .model.result import NucleiResult
    from .publish.export import export_for_hub
    from .publish.onnx_export import export_onnx

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
    "export_onnx",
    "segment_slide",
]

# The version ships with every checkpoint. It is read as text, since importing its module would import torch.
_CODE = (Path(__file__).parent / "model" / "result.py").read_text(encoding="utf-8")
__version__: str = re.findall(r'^__version__ = "(.+)"$', _CODE, re.MULTILINE)[0]

# Where each public name is defined; it is imported on first use.
_MODULES = {
    "CfSamConfig": ".model.configuration_cfsam",
    "CfSamForNucleiSegmentation": ".model.modeling_cfsam",
    "CfSamImageProcessor": ".model.image_processing_cfsam",
    "CfSamNucleiSegmentationOutput": ".model.modeling_cfsam",
    "CfSamProcessor": ".model.processing_cfsam",
    "DecodingParameters": ".model.decoding",
    "NucleiResult": ".model.result",
    "NucleiSegmentationPipeline": ".model.pipeline_cfsam",
    "bundled_checkpoint": ".bases.bundled",
    "decode_nuclei": ".model.decoding",
    "export_for_hub": ".publish.export",
    "export_onnx": ".publish.onnx_export",
    "segment_slide": ".inference.segment_slide",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.register_with_transformers()
