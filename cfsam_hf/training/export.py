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
    teacher = {"teacher": recipe.model.teacher, "teacher_weight": options.teacher_weight}
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
            **(teacher if recipe.model.teacher else {}),
            "weights": f"averages at step {step}",
        },
    }


def inherited_terms(base: dict[str, Any], teacher: dict[str, Any] | None) -> dict[str, str]:
    """The `license` and `license_note` that a model takes over from its base and its teacher, where they state any.

    Args:
        base, teacher: the `checkpoint_info` of each.
    """
    sources = [base] if teacher is None else [base, teacher]
    found = {}
    for name, joined in (("license", "; and "), ("license_note", " ")):
        if texts := list(dict.fromkeys(str(source[name]) for source in sources if source.get(name))):
            found[name] = joined.join(texts)
    return found


def write_model(
    model: PreTrainedModel,
    processor: CfSamProcessor,
    folder: Path,
    facts: dict[str, Any],
    teacher: dict[str, Any] | None = None,
) -> None:
    """Writes a folder for `from_pretrained`, whole or not at all.

    Args:
        model: with the weights to export; its configuration gets `facts`.
        processor: saved beside it.
        folder: replaced if it exists.
        facts: the model's `checkpoint_info`.
        teacher: the `checkpoint_info` of the model's teacher, if it had one.

    Raises:
        OSError: it cannot be written.
    """
    if hasattr(model.config, "train_encoder"):
        model.config.train_encoder = False
    # The licence of the base binds the models that are made from it, and so may that of the teacher.
    model.config.checkpoint_info = inherited_terms(model.config.checkpoint_info or {}, teacher) | facts
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
