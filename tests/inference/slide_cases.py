"""What the tests of whole slides share: a painted slide in a tiled TIFF, and the pipeline that reads its colours."""

from pathlib import Path, PurePath

import numpy as np
import tifffile

from cfsam_hf.inference import Job
from cfsam_hf.inference.slide_source import SlideSource
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline

from ..painted_model import PaintedModel, paint, painted_config

WINDOW, OVERLAP, SIDE = 128, 32, 300


def painted_pipeline(seed: int = 0) -> NucleiSegmentationPipeline:
    """A pipeline of 0.25 um per pixel with small windows."""
    processor = CfSamImageProcessor(
        mpp=0.25, pad_multiple=16, tile_size=WINDOW, tile_overlap=OVERLAP, smallest_tile_size=None
    )
    return NucleiSegmentationPipeline(model=PaintedModel(painted_config()), image_processor=processor)


def write_slide(image: np.ndarray, path: Path, mpp: float = 0.25) -> Path:
    """Writes a picture as a tiled OME-TIFF."""
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", metadata=metadata, ome=True)
    return path


def painted_slide(folder: Path, *, height: int = 900, width: int = 700, count: int = 130) -> tuple[Job, np.ndarray]:
    """A job for a slide of painted nuclei, and its pixels."""
    image, _, _ = paint(height, width, count=count, seed=3)
    path = write_slide(image, folder / "painted.ome.tif")
    return Job(SlideSource(path, "painted.ome.tif"), PurePath("painted")), image
