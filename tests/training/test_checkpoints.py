"""Training checkpoints: what they hold, that they restore it, and which of them stay."""

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf.training import ExponentialMovingAverage, OptimizationOptions, parameter_groups
from cfsam_hf.training.checkpoints import (
    checkpoint_steps,
    latest_checkpoint,
    prune_checkpoints,
    remove_unfinished,
    restore,
    training_tensors,
    write_checkpoint,
)

from ..tiny import SIZE, random_labels, tiny_test_model


def parts(**options):
    model = tiny_test_model(**options)
    groups = parameter_groups(model, OptimizationOptions(learning_rate=1e-2, weight_decay=0.1))
    return model, torch.optim.AdamW(groups), ExponentialMovingAverage(model, 0.9)


def write(folder, step, model, optimizer, ema, **facts):
    tensors = training_tensors(model, optimizer, ema)
    return write_checkpoint(folder, step, tensors, {"ema_updates": ema.num_updates, **facts})


def test_a_checkpoint_restores_weights_averages_and_optimiser_and_holds_only_what_trains(tmp_path):
    def step(model, optimizer, ema, seed):
        torch.manual_seed(seed)
        model(torch.randn(1, 3, SIZE, SIZE), **random_labels(1)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)

    first = parts()
    step(*first, seed=1)
    saved = write(tmp_path, 1, *first, note="x")
    assert set(load_file(saved / "trainable.safetensors")) == set(first[2].average)
    step(*first, seed=2)

    second = parts()
    facts = restore(latest_checkpoint(tmp_path), *second)
    assert (facts["step"], facts["note"]) == (1, "x")
    step(*second, seed=2)
    for (name, a), b in zip(first[0].named_parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(first[2].average[n], second[2].average[n]) for n in first[2].average)
    assert second[2].num_updates == 2


def test_the_last_and_the_protected_checkpoints_stay_and_unfinished_ones_do_not_count(tmp_path):
    trained = parts()
    for step in (1, 2, 10, 11):
        write(tmp_path, step, *trained)
    for name in (".checkpoint-12.tmp", ".checkpoint-3.old"):
        (tmp_path / name).mkdir()
    prune_checkpoints(tmp_path, keep=2, protected=[1])
    assert checkpoint_steps(tmp_path) == [1, 10, 11]
    assert latest_checkpoint(tmp_path).name == "checkpoint-11"
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-10", "checkpoint-11"]


def test_a_checkpoint_is_written_again_whole(tmp_path):
    trained = parts()
    write(tmp_path, 1, *trained, note="first")
    write(tmp_path, 1, *trained, note="second")
    assert restore(tmp_path / "checkpoint-1", *trained)["note"] == "second"


def test_there_may_be_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saved = write(tmp_path, 1, *parts())
    with pytest.raises(ValueError, match=r"refinement\..*another output folder"):
        restore(saved, *parts(use_bgmr=False))
