"""Systems under evaluation: a checkpoint, a folder of label maps, or a baseline; each finds the nuclei of a tile."""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers.utils import SAFE_WEIGHTS_NAME

from ..baselines.classical import ClassicalParameters, segment_classical
from ..data import Tile
from ..model.adapter_files import ADAPTER_FILE
from ..model.adapter_files import WEIGHTS_FILE as ADAPTER_WEIGHTS_FILE
from ..model.checkpoint import is_meant_as_path
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.precision import dtype_name, resolve_autocast
from .label_maps import LabelMapFolder
from .predictions import Prediction

# Options of the image processor that define its tiles.
TILE_OPTIONS = ("tile_size", "smallest_tile_size", "tile_overlap")


@dataclass(frozen=True)
class System:
    """A system with a name.

    Attributes:
        name: its name in tables.
        predict: returns the nuclei of a tile.
        facts: JSON-ready facts for the results file: what it is, and its settings.
        computes: whether `predict` computes nuclei, so that its time is of interest, or only reads them from files.
    """

    name: str
    predict: Callable[[Tile], Prediction]
    facts: dict[str, Any] = field(default_factory=dict)
    computes: bool = True


def checkpoint_system(
    pipe: NucleiSegmentationPipeline,
    source: str,
    name: str | None = None,
    *,
    views: int = 1,
    autocast_dtype: str | None = None,
    style: str | None = None,
) -> System:
    """A checkpoint through its pipeline.

    Args:
        pipe: the pipeline. For a tile of unknown pixel size it assumes the model's.
        source: folder or Hub id that it was loaded from.
        name: by default the name in the checkpoint's configuration, or that of its folder.
        views: number of views of the image, see [`cfsam_hf.NucleiSegmentationPipeline`].
        autocast_dtype: mixed precision of the network, as for the pipeline; None for its own.
        style: one of the model's styles; None for the neutral one.
    """
    info = pipe.model.config.checkpoint_info or {}
    resolved = resolve_autocast(autocast_dtype, pipe.device)
    autocast_dtype = None if resolved is None else dtype_name(resolved)
    facts = {
        "kind": "checkpoint",
        "checkpoint": Path(source).name,
        **_origin(source, pipe.model),
        "model_type": pipe.model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in pipe.model.parameters()),
        "decoding": pipe.image_processor.decoding_parameters().to_dict(),
        "tiles": {name: getattr(pipe.image_processor, name) for name in TILE_OPTIONS},
        "views": views,
        "autocast_dtype": autocast_dtype,
        **getattr(pipe, "settings", {}),
        **({} if style is None else {"style": style}),
    }
    options: dict[str, Any] = {"views": views, "autocast_dtype": autocast_dtype, "style": style}
    folder = Path(source).resolve()
    # Training names every model's folder `model`, which says nothing.
    plain = folder.parent.name if folder.name == "model" else folder.name

    def predict(tile: Tile) -> Prediction:
        with warnings.catch_warnings():
            # A tile of unknown pixel size is not resampled; the documentation says so.
            warnings.filterwarnings("ignore", message="mpp is not given")
            return Prediction.from_result(pipe(tile.image, mpp=tile.mpp, **options))

    return System(name or info.get("name") or plain or source, predict, facts)


def _origin(source: str, model: Any) -> dict[str, str]:
    """Where a checkpoint came from and which weights it holds, as far as known, without local paths.

    Args:
        source: folder or Hub id.
        model: what was loaded from there.

    Returns:
        `source`, the Hub id or the folder's name; `revision`; and `weights_sha256` of the file of weights (for an
        adapter, of its own file). Weights in several files have no such hash.
    """
    weights: Any
    if os.path.isdir(source) or is_meant_as_path(source):
        folder = Path(source).resolve()
        facts = {"source": folder.name}
        weights = folder / (ADAPTER_WEIGHTS_FILE if (folder / ADAPTER_FILE).is_file() else SAFE_WEIGHTS_NAME)
    else:
        commit = getattr(model.config, "_commit_hash", None)
        if adapter := getattr(model, "adapter_folder", None):
            # The configuration is that of the adapter's base; the cache names the folder of a commit after it.
            weights = Path(adapter, ADAPTER_WEIGHTS_FILE)
            commit = weights.parent.name if weights.parent.parent.name == "snapshots" else None
        else:
            try:
                weights = try_to_load_from_cache(source, SAFE_WEIGHTS_NAME, revision=commit)
            except HFValidationError:
                weights = None
        facts = {"source": source} | ({"revision": commit} if commit else {})
    # For a file that is known to be missing the cache returns an object that is not a path.
    if isinstance(weights, (str, Path)) and os.path.isfile(weights):
        with open(weights, "rb") as file:
            facts["weights_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def folder_system(folder: LabelMapFolder, name: str | None = None) -> System:
    """Label maps of another system; see [`LabelMapFolder`]."""
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
