"""Why: training checkpoints must hold and restore everything that trains, and only the right ones are kept."""

import logging
import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf.training import ExponentialMovingAverage, OptimizationOptions, parameter_groups
from cfsam_hf.training.checkpoints import (
    check_checkpoint,
    checkpoint_steps,
    latest_checkpoint,
    prune_checkpoints,
    restore,
    set_aside_later_checkpoints,
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


def test_the_last_and_the_protected_checkpoints_stay(tmp_path):
    trained = parts()
    for step in (1, 2, 10, 11):
        write(tmp_path, step, *trained)
    prune_checkpoints(tmp_path, keep=2, protected=[1])
    assert checkpoint_steps(tmp_path) == [1, 10, 11]
    assert latest_checkpoint(tmp_path).name == "checkpoint-11"


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


def damage_in_every_way(saved):
    """Each kind of damage to a checkpoint: (description, function that does it, file that is named)."""
    tensors, state, sums = (saved / name for name in ("trainable.safetensors", "state.json", "SHA256SUMS"))
    content, half = tensors.read_bytes(), tensors.stat().st_size // 2
    return [
        ("cut short", lambda: tensors.write_bytes(content[:half]), tensors),
        ("empty", lambda: tensors.write_bytes(b""), tensors),
        ("zeros after a power failure", lambda: tensors.write_bytes(content[:half] + bytes(half)), tensors),
        (
            "one bit flipped",
            lambda: tensors.write_bytes(content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]),
            tensors,
        ),
        ("gone", tensors.unlink, tensors),
        ("state cut short", lambda: state.write_text(state.read_text()[:15]), state),
        ("one digit of the state", lambda: state.write_text(state.read_text().replace("2", "3", 1)), state),
        ("checksums gone", sums.unlink, sums),
        ("checksums empty", lambda: sums.write_text(""), sums),
        ("checksums of binary", lambda: sums.write_bytes(b"\xff\xfe"), sums),
    ]


@pytest.mark.parametrize("kind", range(10))
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(tmp_path, caplog, kind):
    trained = parts()
    for step in (1, 2):
        saved = write(tmp_path, step, *trained)
    _, spoil, file = damage_in_every_way(saved)[kind]
    spoil()
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path).name == "checkpoint-1"
    assert str(file) in caplog.text
    assert "resumes from checkpoint-1" in caplog.text
    with pytest.raises(OSError, match=re.escape(str(file))):
        check_checkpoint(saved)


def test_checkpoints_that_are_all_damaged_are_not_started_over(tmp_path):
    saved = write(tmp_path, 1, *parts())
    (saved / "ema.safetensors").write_bytes(b"")
    with pytest.raises(OSError, match=r"ema\.safetensors is damaged.*remove the checkpoint folders"):
        latest_checkpoint(tmp_path)


def test_restoring_a_damaged_checkpoint_names_the_file(tmp_path):
    trained = parts()
    for name in ("trainable.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"):
        saved = write(tmp_path, 1, *trained)
        (saved / name).write_bytes(b"{")
        with pytest.raises(OSError, match=f"{name} is damaged"):
            restore(saved, *trained)


def test_sha256sum_can_check_a_checkpoint(tmp_path):
    saved = write(tmp_path, 1, *parts())
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=saved, check=True, capture_output=True)
    assert {line.split()[1] for line in (saved / "SHA256SUMS").read_text().splitlines()} == {
        path.name for path in saved.iterdir()
    } - {"SHA256SUMS"}


def test_damaged_checkpoints_after_the_one_in_use_make_room(tmp_path):
    trained = parts()
    for step in (1, 2, 3):
        write(tmp_path, step, *trained)
    set_aside_later_checkpoints(tmp_path, 1)
    assert checkpoint_steps(tmp_path) == [1]
    assert (tmp_path / "checkpoint-3.damaged" / "state.json").exists()
    write(tmp_path, 3, *trained)
    set_aside_later_checkpoints(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("checkpoint-1", "checkpoint-2.damaged", "checkpoint-3.damaged"),
    ]
