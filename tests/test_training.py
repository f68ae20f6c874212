"""Training: averages, schedule, checkpoints, and the script itself from pairs of files to a folder that loads."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf import CfSamForNucleiSegmentation, NucleiSegmentationPipeline
from cfsam_hf.training import (
    ExponentialMovingAverage,
    cosine_with_warmup,
    latest_checkpoint,
    load_training_state,
    parameter_groups,
    save_training_state,
)
from cfsam_hf.training.data_items import DataItem

from .tiny import SIZE, random_labels, tiny_test_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_ema_follows_its_formula_and_gives_the_own_weights_back():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = ExponentialMovingAverage(model, decay=0.9)
    model.weight.data.fill_(2.0)
    ema.update(model)
    # The first update has d = min(.9, 2 / 11).
    assert ema.average["weight"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 2)
    with ema.applied_to(model):
        assert model.weight.item() == pytest.approx(ema.average["weight"].item())
    assert model.weight.item() == 2.0


def test_ema_of_frozen_parameters_is_not_kept():
    model = tiny_test_model()
    names = set(ExponentialMovingAverage(model, 0.9).average)
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}


def test_schedule():
    assert cosine_with_warmup(0, 10, 110) == pytest.approx(0.1)
    assert cosine_with_warmup(10, 10, 110) == pytest.approx(1.0)
    assert cosine_with_warmup(60, 10, 110) == pytest.approx(0.505)
    assert cosine_with_warmup(500, 10, 110) == pytest.approx(0.01)


def test_parameter_groups_hold_every_trainable_parameter_once():
    model = tiny_test_model()
    groups = parameter_groups(model, 1e-3, 0.1, mask_decoder_factor=0.5)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    by_id = {id(p): group for group in groups for p in group["params"]}
    assert by_id[id(model.task_decoder.task_tokens.weight)]["weight_decay"] == 0
    assert by_id[id(model.refinement.boundary.bias)]["weight_decay"] == 0
    assert by_id[id(model.refinement.boundary.weight)]["weight_decay"] == 0.1
    assert by_id[id(model.sam.mask_decoder.upscale_conv1.weight)]["lr"] == 5e-4


def test_a_checkpoint_restores_weights_averages_and_optimiser_and_holds_only_what_trains(tmp_path):
    def step(model, optimizer, ema, seed):
        torch.manual_seed(seed)
        model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)

    def make():
        model = tiny_test_model()
        return model, torch.optim.AdamW(parameter_groups(model, 1e-2, 0.1, 1.0)), ExponentialMovingAverage(model, 0.9)

    first = make()
    step(*first, seed=1)
    saved = save_training_state(tmp_path, 1, *first, {"note": "x"})
    assert set(load_file(saved / "trainable.safetensors")) == set(first[2].average)
    step(*first, seed=2)

    second = make()
    facts = load_training_state(latest_checkpoint(tmp_path), *second)
    assert facts["step"] == 1
    assert facts["note"] == "x"
    step(*second, seed=2)
    for (name, a), b in zip(first[0].named_parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(first[2].average[n], second[2].average[n]) for n in first[2].average)


def test_only_the_last_checkpoints_are_kept_and_unfinished_ones_do_not_count(tmp_path):
    model = tiny_test_model()
    optimizer, ema = torch.optim.AdamW(model.parameters()), ExponentialMovingAverage(model, 0.9)
    for step in (1, 2, 10):
        save_training_state(tmp_path, step, model, optimizer, ema, {}, keep=2)
    (tmp_path / ".checkpoint-11.tmp").mkdir()
    assert latest_checkpoint(tmp_path).name == "checkpoint-10"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-2"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model = tiny_test_model()
    optimizer, ema = torch.optim.AdamW(model.parameters()), ExponentialMovingAverage(model, 0.9)
    saved = save_training_state(tmp_path, 1, model, optimizer, ema, {})
    other = tiny_test_model(use_bgmr=False)
    with pytest.raises(ValueError, match=r"refinement\..*another output folder"):
        load_training_state(saved, other, torch.optim.AdamW(other.parameters()), ExponentialMovingAverage(other, 0.9))


@pytest.mark.parametrize("text", ["consep", "reader=consep", "reader=a,path=b,colour=c", "reader=a,path=b,weight=-1"])
def test_data_items_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match=text):
        DataItem.parse(text)


@pytest.fixture
def pairs_folder(tmp_path):
    """Three painted tiles with their label maps, and a split of them."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for tile in range(3):
        labels = np.zeros((96, 96), np.uint16)
        for i, (x, y) in enumerate(rng.integers(10, 86, (8, 2)), start=1):
            cv2.circle(labels, (int(x), int(y)), 7, i, -1)
        image = np.where(labels[..., None] > 0, (90, 60, 140), (230, 190, 220)).astype(np.uint8)
        cv2.imwrite(str(folder / f"tile{tile}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / f"tile{tile}_instances.png"), labels)
    split = {"dataset": "painted", "train": ["tile0", "tile1"], "validation": ["tile2"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    return folder


def run_train(monkeypatch, *arguments: str) -> None:
    """Runs examples/train.py in this process."""
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLES / "train.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    module.main()


def test_the_script_trains_resumes_exactly_and_writes_a_folder_that_loads(tmp_path, pairs_folder, monkeypatch):
    base = tmp_path / "base"
    tiny_test_model(num_types=0).save_pretrained(base)

    def train(output: Path) -> dict[str, torch.Tensor]:
        run_train(
            monkeypatch,
            *("--base", str(base), "--output_dir", str(output), "--steps", "4", "--batch_size", "2"),
            *("--data", f"reader=instance_pairs,path={pairs_folder},split={tmp_path / 'split.json'}"),
            *("--crop_size", str(SIZE), "--tile_overlap", "16", "--num_workers", "0", "--warmup_steps", "1"),
            *("--save_every", "2", "--log_every", "1", "--evaluate_every", "0"),
        )
        return load_file(output / "model" / "model.safetensors")

    whole = train(tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = train(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    before = load_file(base / "model.safetensors")
    changed = {name for name in whole if not torch.equal(whole[name], before[name])}
    assert any(name.startswith("refinement.") for name in changed)
    assert not any(name.startswith("sam.vision_encoder.") and ".adapter." not in name for name in changed)

    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 4]
    assert log[-1]["validation"] == "painted"
    assert log[-1]["images"] == 1

    model = CfSamForNucleiSegmentation.from_pretrained(tmp_path / "run" / "model")
    assert model.config.checkpoint_info["training"]["steps"] == 4
    assert model.config.checkpoint_info["data"] == ["painted: 2 tiles"]
    image = cv2.imread(str(pairs_folder / "tile0.png"))[..., ::-1]
    assert NucleiSegmentationPipeline(model=model)(image, mpp=0.25).instance_map.shape == (96, 96)
