"""Why: a killed run must resume to the same weights; full disks, infinite losses and other recipes are reported."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf.training import TrainingStopped, checkpoints
from cfsam_hf.training.checkpoints import checkpoint_steps
from cfsam_hf.training.run_log import read_log

from .. import REPOSITORY
from ..training_cases import smoke_recipe, start_run, weights

ROOT = REPOSITORY
SOME_KILLS = ("between the files of a checkpoint", "in a line of the log")
OTHER_KILLS = (
    *("before the first checkpoint", "in a step", "before a checkpoint gets its name", "in a validation"),
    *("while an old checkpoint is removed", "while the model is written"),
)
STATE_FILES = ("trainable", "ema", "optimizer")


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def assert_equal_bits(whole: Path, resumed: Path, steps: int = 6) -> None:
    files = [f"checkpoint-{steps}/{name}.safetensors" for name in STATE_FILES] + ["model/model.safetensors"]
    for name in files:
        before, after = load_file(whole / name), load_file(resumed / name)
        assert before.keys() == after.keys()
        assert [key for key in before if not torch.equal(before[key], after[key])] == []
    # The log has each step and each validation once, whatever was written twice.
    logs = [read_log(folder) for folder in (whole, resumed)]
    kept = ("step", "loss", "gradient_norm", "learning_rate", "validation")
    assert [{k: r[k] for k in kept if k in r} for r in logs[0]] == [{k: r[k] for k in kept if k in r} for r in logs[1]]


def drive(root: Path, kind: str, kills: tuple[str, ...]) -> None:
    """Runs and resumes in processes of their own, each killed somewhere else."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.training_driver", str(root), kind, *kills]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert codes == {"whole": [0], **{name: [-9, 0] for name in kills}}, done.stderr
    for name in kills:
        assert_equal_bits(root / "whole", root / name)
        assert not [path for path in (root / name).glob(".*") if path.is_dir()]


@pytest.mark.slow
def test_killed_runs_go_on_to_the_very_weights_of_the_uninterrupted_one(training_root):
    drive(training_root, "alone", SOME_KILLS)


@pytest.mark.slow
def test_killed_runs_go_on_wherever_they_are_killed(training_root):
    drive(training_root, "alone", OTHER_KILLS)


@pytest.mark.slow
def test_two_killed_processes_go_on_to_the_very_weights_of_the_uninterrupted_ones(training_root):
    drive(training_root, "together", ("in a step", "between the files of a checkpoint", "in a validation"))


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(training_root, monkeypatch):
    run = start_run(smoke_recipe(training_root, steps=4, save_every=1, keep_checkpoints=2))
    written, save_file = [], checkpoints.save_file

    def on_a_small_disk(tensors, path):
        written.append(path)
        if len(written) > 4:
            path.write_bytes(b"as much as there was room for")
            raise checkpoints.SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", on_a_small_disk)
    with pytest.raises(TrainingStopped, match=r"No space left.*checkpoint-1, is intact.*same command"):
        run.train()
    assert checkpoint_steps(run.folder) == [1]
    assert not [path for path in run.folder.glob(".*") if path.is_dir()]
    monkeypatch.undo()
    run = start_run(smoke_recipe(training_root, steps=4, save_every=1, keep_checkpoints=2))
    assert run.step == 1
    run.train()
    assert checkpoint_steps(run.folder) == [3, 4]


def test_a_file_that_cannot_be_written_is_an_oserror_with_its_number(tmp_path, monkeypatch):
    def too_large(tensors, path):
        raise checkpoints.SafetensorError("Error while serializing: IoError(Os { code: 27, kind: FileTooLarge })")

    monkeypatch.setattr(checkpoints, "save_file", too_large)
    with pytest.raises(OSError, match="FileTooLarge") as caught:
        checkpoints.write_checkpoint(tmp_path, 1, {"trainable": {}}, {})
    assert caught.value.errno == errno.EFBIG


def spoil(run, steps: set[int]) -> None:
    """Makes the losses of some steps not a number."""

    def hook(module, arguments, output):
        if module.training and run.step in steps:
            output.loss = output.loss * math.nan
        return output

    run.plain.register_forward_hook(hook)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_crops_and_tiles(training_root):
    run = start_run(smoke_recipe(training_root, steps=4, save_every=1))
    spoil(run, {2})
    with pytest.raises(TrainingStopped, match=r"loss of step 2.*crops \[4, 5\] from the tiles tile.*checkpoint-2"):
        run.train()
    assert checkpoint_steps(run.folder) == [1, 2]
    kept = load_file(run.folder / "checkpoint-2" / "trainable.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in weights(run).items())
    assert run.crops.tile_of(4) in ("tile0", "tile1")


def test_batches_that_are_not_finite_are_left_out_by_choice(training_root):
    run = start_run(smoke_recipe(training_root, steps=4, on_nonfinite="skip"))
    spoil(run, {1})
    before = {}
    original = run._leave_out
    run._leave_out = lambda *arguments: (before.update(weights(run)), original(*arguments))
    run.train()
    assert run.skipped == [1]
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert all(torch.isfinite(value).all() for value in run.ema.average.values())
    assert run.ema.num_updates == 3
    [line] = [record for record in read_log(run.folder) if "left_out" in record]
    assert line["left_out"] == [2, 3]
    assert json.loads((run.folder / "checkpoint-4" / "state.json").read_text())["skipped"] == [1]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(training_root):
    run = start_run(smoke_recipe(training_root, steps=2, on_nonfinite="skip"))
    parameter = next(p for p in run.plain.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf if run.step == 0 else gradient)
    run.train()
    assert run.skipped == [0]
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_too_many_batches_left_out_in_a_row_end_the_run(training_root):
    run = start_run(smoke_recipe(training_root, steps=6, on_nonfinite="skip", max_skipped=3))
    spoil(run, {0, 2, 3, 4})
    with pytest.raises(TrainingStopped, match=r"step 4.*number 3 in a row"):
        run.train()


def test_another_recipe_in_the_same_folder_is_refused_by_what_differs(training_root):
    run = start_run(smoke_recipe(training_root, steps=2))
    run.train()
    with pytest.raises(ValueError, match=r"learning_rate 0\.0006 -> 0\.001.*another output_dir"):
        start_run(smoke_recipe(training_root, steps=2, learning_rate=1e-3))
    with pytest.raises(ValueError, match="crops_per_step 2 -> 4"):
        start_run(smoke_recipe(training_root, steps=2, batch_size=4))
    # What does not change what is learned may change, and so may the sharing out of the same crops.
    changed = smoke_recipe(
        training_root, steps=2, batch_size=1, gradient_accumulation_steps=2, log_every=7, num_workers=1
    )
    assert start_run(changed).step == 2
    for name in ("tile0.png", "tile0_instances.png"):
        shutil.copy(training_root / "pairs" / name, training_root / "pairs" / name.replace("tile0", "tile9"))
    (training_root / "split.json").write_text(
        json.dumps({"dataset": "painted", "train": ["tile0", "tile9"], "validation": ["tile2"]})
    )
    with pytest.raises(ValueError, match=r"training tile painted/tile9 is new.*another output_dir"):
        start_run(smoke_recipe(training_root, steps=2))


def test_the_best_and_the_last_checkpoints_stay(training_root, monkeypatch):
    scores = iter([0.2, 0.5, 0.3, math.nan])

    def validation(tiles):
        return {"pq_mean_over_images": next(scores)}

    monkeypatch.setattr("cfsam_hf.training.run.evaluate_records", lambda records, *others: records)
    monkeypatch.setattr("cfsam_hf.training.run.summarize_tiles", validation)
    recipe = smoke_recipe(training_root, steps=8, save_every=2, keep_checkpoints=1, evaluate_every=2, export="best")
    run = start_run(recipe)
    run.train()
    assert checkpoint_steps(run.folder) == [4, 8]
    assert run.best() == {"step": 4, "metric": "pq_mean_over_images", "score": 0.5}
    averages = load_file(run.folder / "checkpoint-4" / "ema.safetensors")
    run.finish()
    exported = load_file(run.folder / "model" / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in averages.items())
    assert json.loads((run.folder / "results.json").read_text())["step"] == 4
