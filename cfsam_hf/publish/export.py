"""Exports a checkpoint as a self-describing folder, which transformers loads without this package."""

import json
import os
import shutil
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import Pipeline
from transformers.utils import cached_file

from ..files.atomic import atomic_folder
from ..model.adapter_switching import INITIAL_ADAPTER
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.processing_cfsam import CfSamProcessor, saved_image_processor
from . import handler
from .card import checkpoint_card
from .folder import (
    CARD,
    CONFIG,
    CUSTOM_PIPELINES,
    HANDLER,
    MODEL_AUTO_MAP,
    PROCESSOR,
    PROCESSOR_AUTO_MAP,
    REQUIREMENTS,
    check_folder,
    code_files,
    code_names,
    code_requirements,
)
from .sendable import is_exported


def export_for_hub(
    source: str | os.PathLike | NucleiSegmentationPipeline | CfSamForNucleiSegmentation,
    folder: str | os.PathLike,
    *,
    image_processor: CfSamImageProcessor | None = None,
    card: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a self-describing folder: configuration, weights, processor, their code, a handler for Inference
    Endpoints, requirements, and a card.

    Transformers' Auto classes and `pipeline("nuclei-segmentation")` load it, with `trust_remote_code=True` if this
    package is not installed, and give the same outputs either way. The folder appears only when it is complete.

    Args:
        source: a folder or Hub id, a pipeline, or a model.
        folder: the folder to write.
        image_processor (*optional*): of a model; default: the one saved with it, or one for its configuration.
        card (*optional*): a Markdown file with metadata; default: the card of the checkpoint that the model was loaded
            from, in its folder or on the Hub, or one made from the configuration (`checkpoint_info`). A model whose
            weights have changed since it was loaded needs its own card.
        overwrite (`bool`, defaults to `False`): whether to replace an exported folder.

    Returns:
        The folder.

    Raises:
        OSError: the source cannot be loaded, or the folder cannot be written.
        ValueError: the folder exists and may not be replaced; the model carries layers of PEFT.
    """
    folder = Path(folder)
    _check_target(folder, overwrite)
    if isinstance(source, (str, os.PathLike)):
        # Loaded with the package's own classes: the Auto classes would offer to run code of the checkpoint.
        model = CfSamForNucleiSegmentation.from_pretrained(source)
        if image_processor is None:
            image_processor = saved_image_processor(source)
        source = NucleiSegmentationPipeline(model, image_processor)
    elif not isinstance(source, Pipeline):
        source = NucleiSegmentationPipeline(source, image_processor)
    model, image_processor = source.model, image_processor or source.image_processor
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("the model carries PEFT's own layers (LoRA, ...); merge or unload them before the export")
    model_card = ModelCard(_card_text(model, card))
    with atomic_folder(folder) as stage:
        model.save_pretrained(stage, state_dict=stored_weights(model))
        # A new one: a processor that was loaded as remote code is of another class with this name.
        image_processor = CfSamImageProcessor.from_dict(image_processor.to_dict())
        CfSamProcessor(image_processor).save_pretrained(stage)
        _name_code(stage)
        files = code_files()
        for file in files:
            shutil.copyfile(file, stage / file.name)
        shutil.copyfile(handler.__file__, stage / HANDLER)
        (stage / REQUIREMENTS).write_text("\n".join(code_requirements([*files, stage / HANDLER])) + "\n")
        model_card.save(stage / CARD)
        for weights in stage.glob("*.safetensors"):
            # safetensors makes files that only their owner can read.
            shutil.copymode(stage / CONFIG, weights)
        # A push checks the card, which may still lack a licence.
        check_folder(stage, card_fields=())
    return folder


def _check_target(folder: Path, overwrite: bool) -> None:
    """Raises ValueError if anything other than an older export would be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another name for the folder")
    if not (folder / HANDLER).is_file() or not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} exists and is not an exported checkpoint; choose another folder")
    code = code_names(folder)
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if path.name != "__pycache__" and (path.is_dir() or path.is_symlink() or not is_exported(path.name, code))
    )
    if foreign:
        raise ValueError(
            f"{folder} holds files that an export does not write and that replacing it would delete "
            f"({', '.join(foreign[:5])}); move them or choose another folder"
        )
    if not overwrite:
        raise ValueError(f"{folder} exists; pass overwrite=True (--overwrite) to replace it")


def stored_weights(model: CfSamForNucleiSegmentation) -> dict[str, torch.Tensor]:
    """The weights to store: in float16 if that is lossless, which halves the file.

    A checkpoint that was stored in float16, such as a bundled one, keeps its size.
    """
    weights = model.state_dict()
    halves: dict[str, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    for name, value in weights.items():
        if value.dtype != torch.float32:
            return weights
        # Tied weights stay tied, so that they are written once.
        halves[name] = seen.setdefault(value.data_ptr(), value.half())
        if not torch.equal(halves[name].float(), value):
            return weights
    return halves


def _card_text(model: CfSamForNucleiSegmentation, card: str | os.PathLike | None) -> str:
    if card is not None:
        return Path(card).read_text(encoding="utf-8")
    beside = _card_beside(model)
    return checkpoint_card(model.config).content if beside is None else beside.read_text(encoding="utf-8")


def _card_beside(model: CfSamForNucleiSegmentation) -> Path | None:
    """The card of the checkpoint that a model was loaded from; None if it has none, or is of another model."""
    origin = getattr(model, "name_or_path", "")
    # The origin of an adapter's model is its base.
    if not origin or model.active_adapter != INITIAL_ADAPTER:
        return None
    if os.path.isdir(origin):
        found = [Path(origin) / name for name in (CONFIG, CARD)]
    else:
        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        revision = getattr(model.config, "_commit_hash", None)
        try:
            found = [cached_file(origin, name, revision=revision, **options) for name in (CONFIG, CARD)]
        except OSError:
            return None
    config, card = (Path(path) if path and os.path.isfile(path) else None for path in found)
    if config is None or card is None:
        return None
    # The card of a plain SAM does not cover the heads that were added to it.
    is_ours = json.loads(config.read_text(encoding="utf-8")).get("model_type") == type(model.config).model_type
    return card if is_ours else None


def _name_code(folder: Path) -> None:
    """Writes into the folder's JSON files which module holds each class.

    transformers does this after `register_for_auto_class`, which would change how the classes are saved for the rest
    of the process.
    """
    config, processor = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (CONFIG, PROCESSOR))
    config |= {"auto_map": MODEL_AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES}
    # AutoProcessor looks at the top, AutoImageProcessor at the image processor's own entry.
    processor["auto_map"] = processor["image_processor"]["auto_map"] = PROCESSOR_AUTO_MAP
    for name, record in ((CONFIG, config), (PROCESSOR, processor)):
        text = json.dumps(record, indent=2, sort_keys=True)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
