"""Writes the results of a finished run: the model's folder, and a record of its scores."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..files.atomic import atomic_folder
from ..model.processing_cfsam import CfSamProcessor
from .recipe import Recipe
from .training_data import TrainingData


def model_facts(recipe: Recipe, crops_per_step: int, step: int) -> dict[str, Any]:
    """What the model's `checkpoint_info` says about its training.

    Args:
        recipe: of the run.
        crops_per_step: over all processes.
        step: whose averaged weights are exported.
    """
    options = recipe.optimization
    return {
        "base_model": recipe.model.base,
        "training": {
            "crops": options.steps * crops_per_step,
            "crops_per_step": crops_per_step,
            "crop_size": recipe.data.crop_size,
            "train_encoder": recipe.model.train_encoder,
            **{
                name: getattr(options, name)
                for name in ("steps", "learning_rate", "seed", "agreement_weight", "mixing_probability")
            },
            "weights": f"averages at step {step}",
        },
    }


def write_model(model: PreTrainedModel, processor: CfSamProcessor, folder: Path, facts: dict[str, Any]) -> None:
    """Writes a folder for `from_pretrained`, whole or not at all.

    Args:
        model: with the weights to export; its configuration gets `facts`.
        processor: saved beside it.
        folder: replaced if it exists.
        facts: the model's `checkpoint_info`.

    Raises:
        OSError: it cannot be written.
    """
    if hasattr(model.config, "train_encoder"):
        model.config.train_encoder = False
    # The licence of the base binds the models that are made from it.
    base = model.config.checkpoint_info or {}
    model.config.checkpoint_info = {n: base[n] for n in ("license", "license_note") if n in base} | facts
    with atomic_folder(folder) as working:
        model.to(memory_format=torch.contiguous_format).save_pretrained(working)
        processor.save_pretrained(working)


def results_record(
    name: str, step: int, scores: dict[str, dict[str, float]], data: TrainingData, processor: CfSamProcessor
) -> dict[str, Any]:
    """What a card needs to know of a run: the scores of the exported weights, and the tiles they were measured on.

    Args:
        name: of the run.
        step: of the exported weights.
        scores: of the validation at this step, by data set.
        data, processor: of the run.
    """
    return {
        "checkpoint": name,
        "step": step,
        "part": "validation",
        "splits": sorted({item.split for item in data.items if item.split}),
        "decoding": processor.image_processor.decoding_parameters().to_dict(),
        "results": {
            dataset: {"tiles": [record.id for record in data.validation[dataset]], "scores": of_set}
            for dataset, of_set in scores.items()
        },
    }
