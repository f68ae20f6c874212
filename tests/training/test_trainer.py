"""Why: transformers' own Trainer must find the labels, average correctly, and evaluate the model."""

import numpy as np
import pytest
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from cfsam_hf import CfSamForNucleiSegmentation

from ..tiny import SIZE, random_labels, tiny_test_model

LABELS = ["nuclei_labels", "hv_labels", "type_labels", "boundary_labels"]
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Crops(Dataset):
    """Crops of squares whose pixels show where nuclei are, so that a few steps learn it."""

    def __init__(self, number: int = 4, square: int = 16):
        labels = {
            name: values.repeat_interleave(square, -1).repeat_interleave(square, -2)
            for name, values in random_labels(number, SIZE // square, SIZE // square).items()
        }
        pixels = (2.0 * labels["nuclei_labels"] - 1)[:, None].expand(-1, 3, -1, -1)
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
    found = trainer(tmp_path, Crops(), max_steps=16, logging_steps=4, eval_strategy="steps", eval_steps=16)
    before = found.evaluate()["eval_loss"]
    found.train()
    losses = [record["loss"] for record in found.state.log_history if "loss" in record]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    assert found.evaluate()["eval_loss"] < 0.8 * before


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
