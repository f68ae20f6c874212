"""What is evaluated: a checkpoint, a folder of label maps, or a baseline; each gives the nuclei of a tile."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..baselines.classical import ClassicalParameters, segment_classical
from ..data import Tile
from ..pipeline_cfsam import NucleiSegmentationPipeline
from .label_maps import LabelMapFolder
from .predictions import Prediction


@dataclass(frozen=True)
class System:
    """A system with a name.

    Attributes:
        name: what the tables call it.
        predict: the nuclei of a tile.
        facts: JSON-ready facts for the results file: what it is and with which settings it ran.
        computes: whether `predict` finds nuclei, so that its time means something, or reads them from files.
    """

    name: str
    predict: Callable[[Tile], Prediction]
    facts: dict[str, Any] = field(default_factory=dict)
    computes: bool = True


def checkpoint_system(pipe: NucleiSegmentationPipeline, source: str, name: str | None = None) -> System:
    """A checkpoint through its pipeline.

    Args:
        pipe: the pipeline. A tile whose pixel size is not known is taken to have the model's.
        source: folder or Hub id that it was loaded from.
        name: by default the one that the checkpoint gives itself, or that of its folder.
    """
    info = pipe.model.config.checkpoint_info or {}
    facts = {
        "kind": "checkpoint",
        "checkpoint": Path(source).name,
        "model_type": pipe.model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in pipe.model.parameters()),
        "decoding": pipe.image_processor.decoding_parameters().to_dict(),
    }
    folder = Path(source).resolve()
    # Training writes every model into a folder `model`, which tells nothing.
    plain = folder.parent.name if folder.name == "model" else folder.name

    def predict(tile: Tile) -> Prediction:
        with warnings.catch_warnings():
            # A tile of unknown pixel size is taken as it is, as the results' reader is told.
            warnings.filterwarnings("ignore", message="mpp is not given")
            return Prediction.from_result(pipe(tile.image, mpp=tile.mpp))

    return System(name or info.get("name") or plain or source, predict, facts)


def folder_system(folder: LabelMapFolder, name: str | None = None) -> System:
    """Somebody else's label maps; see [`LabelMapFolder`]."""
    facts = {"kind": "predictions", "folder": folder.folder.name, "type_names": folder.type_names}
    return System(name or folder.folder.resolve().name, folder, facts, computes=False)


def classical_system(parameters: ClassicalParameters | None = None, name: str | None = None) -> System:
    """The classical baseline; see [`cfsam_hf.baselines.classical.segment_classical`]."""
    parameters = parameters or ClassicalParameters()
    return System(
        name or "classical (Otsu, watershed)",
        lambda tile: Prediction(segment_classical(tile.image, tile.mpp, parameters)),
        {"kind": "baseline", "baseline": "classical", "parameters_um": parameters.to_dict()},
    )
