"""Why: transformers' own Trainer must find the labels, average correctly, and evaluate the model."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from cfsam_hf import CfSamForNucleiSegmentation

from ..tiny import SIZE, random_labels, tiny_test_model

LABELS = ["nuclei_labels", "hv_labels", "type_labels", "boundary_labels"]
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Crops(Dataset):
    """A few crops that can be learned by heart."""

    def __init__(self, number: int = 4):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(number, 3, SIZE, SIZE, generator=generator)
        labels = random_labels(number)
        self.items = [
            {"pixel_values": pixels[i]} | {name: value[i] for name, value in labels.items()} for i in range(number)
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def trainer(tmp_path, crops: Crops, **options) -> Trainer:
    arguments = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "report_to": [],
        "per_device_train_batch_size": 2,
        "max_steps": 12,
        "learning_rate": 3e-3,
        "logging_steps": 3,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    compute_metrics = options.pop("compute_metrics", None)
    return Trainer(
        tiny_test_model(),
        TrainingArguments(**{**arguments, **options}),
        train_dataset=crops,
        eval_dataset=crops,
        compute_metrics=compute_metrics,
    )


def test_labels_are_found_by_their_names():
    assert find_labels(CfSamForNucleiSegmentation) == LABELS


def test_the_loss_falls_and_the_evaluation_loop_runs(tmp_path):
    found = trainer(tmp_path, Crops(), max_steps=240, logging_steps=60, eval_strategy="steps", eval_steps=240)
    before = found.evaluate()["eval_loss"]
    found.train()
    losses = [record["loss"] for record in found.state.log_history if "loss" in record]
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0]
    assert found.evaluate()["eval_loss"] < 0.9 * before


def test_predictions_reach_a_metric(tmp_path):
    seen = {}

    def dice(prediction):
        nuclei, labels = prediction.predictions[0], prediction.label_ids[0]
        seen["shapes"] = nuclei.shape, labels.shape
        found = nuclei[:, 0] > 0
        return {"dice": 2 * np.sum(found & (labels == 1)) / (np.sum(found) + np.sum(labels == 1))}

    scores = trainer(tmp_path, Crops(), compute_metrics=dice, per_device_eval_batch_size=2).evaluate()
    assert seen["shapes"] == ((4, 1, SIZE, SIZE), (4, SIZE, SIZE))
    assert 0 <= scores["eval_dice"] <= 1


def test_accumulated_passes_weigh_as_one_batch(tmp_path):
    """The losses are means over images: the Trainer must divide by the passes, as it does for such models."""
    norms = []
    for batch_size, passes in ((4, 1), (1, 4)):
        found = trainer(
            tmp_path,
            Crops(),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=passes,
            max_steps=1,
            logging_steps=1,
        )
        found.train()
        norms.append(found.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
