"""Training: averages, schedule, checkpoints, and the script itself from pairs of files to a folder that loads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf import CfSamForNucleiSegmentation, CfSamImageProcessor, CfSamProcessor, NucleiSegmentationPipeline
from cfsam_hf.data import UNKNOWN_TYPE, Tile
from cfsam_hf.training import (
    ExponentialMovingAverage,
    cosine_with_warmup,
    latest_checkpoint,
    load_training_state,
    parameter_groups,
    save_training_state,
)
from cfsam_hf.training.data_items import DataItem, records_by_dataset
from cfsam_hf.training.validation import evaluate_tiles

from .data_cases import nuclei, painted
from .export_cases import make_result
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


def test_a_split_of_which_some_tiles_are_missing_is_refused(tmp_path, pairs_folder):
    item = DataItem("instance_pairs", str(pairs_folder), str(tmp_path / "split.json"))
    assert [record.id for record in records_by_dataset([item], "train")["painted"]] == ["tile0", "tile1"]
    (pairs_folder / "tile1.png").unlink()
    (pairs_folder / "tile1_instances.png").unlink()
    assert len(records_by_dataset([item], "validation")["painted"]) == 1
    with pytest.raises(ValueError, match="tile1 of the split"):
        records_by_dataset([item], "train")


@pytest.fixture
def run_example(load_example, monkeypatch):
    """Runs a script of `examples/` in this process, with arguments, and with some of its globals replaced."""

    def run(name: str, *arguments: str, **replaced) -> None:
        module = load_example(name)
        for variable, value in replaced.items():
            monkeypatch.setattr(module, variable, value)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        module.main()

    return run


def test_the_script_trains_resumes_exactly_and_writes_a_folder_that_loads(tmp_path, pairs_folder, run_example):
    base = tmp_path / "base"
    tiny_test_model(num_types=0).save_pretrained(base)

    def train(output: Path) -> dict[str, torch.Tensor]:
        run_example(
            "train",
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


def test_the_decoding_search_writes_what_loading_reads(tmp_path, pairs_folder, run_example):
    checkpoint = tmp_path / "model"
    tiny_test_model(num_types=0).save_pretrained(checkpoint)
    CfSamProcessor(CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)).save_pretrained(checkpoint)
    run_example(
        "tune_decoding",
        *("--checkpoint", str(checkpoint), "--tiles", "1", "--rounds", "1"),
        *("--data", f"reader=instance_pairs,path={pairs_folder},split={tmp_path / 'split.json'}"),
        GRID={"minimum_area": (1007, 1013)},
        # The larger the better, whatever the nuclei.
        quality=lambda cases, parameters: parameters.minimum_area,
    )
    assert CfSamImageProcessor.from_pretrained(checkpoint).decoding_parameters().minimum_area == 1013
    assert CfSamProcessor.from_pretrained(checkpoint).image_processor.tile_size == SIZE


def test_validation_finds_the_types_of_tiles_by_name():
    instance_map = nuclei()
    result = make_result(instance_map)  # Epithelial, inflammatory, spindle-shaped.
    numbers = np.array([0, 3, 1, 2], np.int16)[instance_map]
    names = {1: "inflammatory", 2: "spindle-shaped", 3: "epithelial"}

    def scores(type_map: np.ndarray, names: dict[int, str]) -> dict[str, float]:
        tile = Tile(painted(instance_map), instance_map, type_map, "tile", mpp=0.25, type_names=names)
        return evaluate_tiles(lambda _: result, [tile], result.type_names)

    found = scores(numbers, names)
    assert {found[f"type_f1_pooled/{name}"] for name in result.type_names.values()} == {1.0}
    for untyped in (
        scores(np.where(instance_map == 1, UNKNOWN_TYPE, numbers), names),
        scores(numbers, names | {1: "neutrophil"}),
    ):
        assert untyped["detection_f1_pooled"] == 1
        assert not any(key.startswith("type_") for key in untyped)


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_twice_the_batch(tmp_path, pairs_folder):
    tiny_test_model(num_types=0).save_pretrained(tmp_path / "base")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    weights = []
    for launcher, batch_size in ([], 4), (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"], 2):
        output = tmp_path / f"batch {batch_size}"
        command = [
            *(sys.executable, *launcher, str(EXAMPLES / "train.py")),
            *("--base", str(tmp_path / "base"), "--output_dir", str(output), "--batch_size", str(batch_size)),
            *("--data", f"reader=instance_pairs,path={pairs_folder},split={tmp_path / 'split.json'}"),
            *("--steps", "3", "--warmup_steps", "1", "--evaluate_every", "2", "--mixed_precision", "no"),
            *("--crop_size", str(SIZE), "--tile_overlap", "16", "--num_workers", "0"),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        weights.append(load_file(output / "model" / "model.safetensors"))
    one, two = weights
    before = load_file(tmp_path / "base" / "model.safetensors")
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-3
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
