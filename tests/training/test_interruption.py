"""Why: a signal must leave a checkpoint, one line and an exit status, and resuming must reach the same weights."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from cfsam_hf.training import TrainingInterrupted
from cfsam_hf.training.checkpoints import checkpoint_steps
from cfsam_hf.training.interruption import SIGNALS, Abandoned, Interruption
from cfsam_hf.training.run_log import validations

from .. import REPOSITORY
from ..training_cases import smoke_recipe, smoke_values, start_run, weights
from .test_run import flags

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "heeded_signals")


@pytest.fixture
def heeded_signals():
    """Signals act as in a foreground process: background jobs and nohup start processes that ignore some of them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def signal_in_step(run, step: int, number: int) -> None:
    """Sends a signal while the forward pass of a step runs."""

    def hook(module, arguments):
        if module.training and run.step == step:
            send(number)

    run.plain.register_forward_pre_hook(hook)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_step_writes_its_checkpoint_and_the_resumed_run_ends_with_the_same_weights(
    training_root, number
):
    def recipe(name):
        return smoke_recipe(training_root, output_dir=str(training_root / name), steps=4, save_every=4)

    whole = start_run(recipe("whole"), dropout=0.2)
    whole.train()
    handlers = [signal.getsignal(one) for one in SIGNALS]
    run = start_run(recipe("cut"), dropout=0.2)
    signal_in_step(run, 1, number)
    with pytest.raises(
        TrainingInterrupted, match=rf"{signal.Signals(number).name}.*checkpoint-2 is written"
    ) as caught:
        run.train()
    assert caught.value.exit_status == 128 + number
    assert checkpoint_steps(run.folder) == [2]
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    resumed = start_run(recipe("cut"), dropout=0.2)
    assert resumed.step == 2
    resumed.train()
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    for name in ("trainable", "ema", "optimizer"):
        files = [load_file(one.folder / "checkpoint-4" / f"{name}.safetensors") for one in (whole, resumed)]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


def test_a_signal_in_a_validation_ends_it_at_once_and_the_resumed_run_repeats_it(training_root, monkeypatch):
    recipe = smoke_recipe(training_root, steps=4, save_every=4, evaluate_every=2)
    run = start_run(recipe)
    in_training = {}

    def long_validation(*arguments):
        in_training.update({name: p.detach().clone() for name, p in own.items()})
        send(signal.SIGTERM)
        raise AssertionError("the validation went on after the signal")

    own = dict(run.plain.named_parameters())
    monkeypatch.setattr("cfsam_hf.training.run.evaluate_records", long_validation)
    with pytest.raises(TrainingInterrupted, match="checkpoint-2 is written"):
        run.train()
    monkeypatch.undo()
    # The checkpoint has the weights in training, not the averages that the validation scores.
    saved = load_file(run.folder / "checkpoint-2" / "trainable.safetensors")
    assert any(not torch.equal(saved[name], in_training[name]) for name in saved)
    assert not validations(run.folder)
    resumed = start_run(recipe)
    assert all(torch.equal(value, saved[name]) for name, value in weights(resumed).items())
    resumed.train()
    assert sorted(validations(run.folder)) == [2, 4]


def test_a_second_request_ends_a_process_that_hangs_but_an_echo_of_the_first_does_not(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cfsam_hf.training.interruption.time.monotonic", lambda: now[0])
    with Interruption() as interruption:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert interruption.signal_number == signal.SIGTERM
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            send(signal.SIGHUP)
            assert interruption.signal_number == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_work_that_may_be_abandoned_is():
    with Interruption() as interruption:
        with interruption.abandoning():
            pass
        send(signal.SIGTERM)
        with pytest.raises(Abandoned), interruption.abandoning():
            raise AssertionError("begun after the signal")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_script_ends_with_one_line_and_the_status_of_the_signal_for_the_whole_group(training_root, number, status):
    """As a terminal and Slurm send it: to the workers that make crops, too."""
    values = smoke_values(training_root, steps=4000, save_every=4000, num_workers=1, mixed_precision="no")
    # A shell's background job ignores Ctrl-C; a terminal's job does not.
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = str(REPOSITORY / "examples" / "train.py")
    process = subprocess.Popen(
        [sys.executable, "-c", code, script, *flags(values)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = training_root / "run" / "log.jsonl"
    end = time.monotonic() + 300
    while not log.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == status, said
    assert "Traceback" not in said
    [step] = checkpoint_steps(training_root / "run")
    assert said.splitlines()[-1].startswith(f"Stopped by {signal.Signals(number).name}; ")
    assert f"checkpoint-{step} is written" in said.splitlines()[-1]
