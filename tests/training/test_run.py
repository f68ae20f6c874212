"""Why: the training script must work from tiles to a folder that loads, with all the pieces of a run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from accelerate.tracking import GeneralTracker, on_main_process
from safetensors.torch import load_file

from cfsam_hf import CfSamForNucleiSegmentation, NucleiSegmentationPipeline
from cfsam_hf.training import make_accelerator
from cfsam_hf.training.run_log import read_log

from .. import REPOSITORY
from ..tiny import tiny_test_model
from ..training_cases import TYPES, smoke_recipe, smoke_values, start_run, weights, write_qupath_tiles

EXAMPLES = REPOSITORY / "examples"
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def flags(values: dict) -> list[str]:
    """Values as a command line."""
    found = []
    for name, value in values.items():
        found += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
    return found


def test_the_script_trains_and_writes_a_folder_that_loads(training_root, run_example):
    run_example("train", *flags(smoke_values(training_root, picture_every=2)))
    folder = training_root / "run"
    trained = load_file(folder / "model" / "model.safetensors")
    before = load_file(training_root / "base" / "model.safetensors")
    changed = {name for name in trained if not torch.equal(trained[name], before[name])}
    assert any(name.startswith("refinement.") for name in changed)
    assert not any(name.startswith("sam.vision_encoder.") and ".adapter." not in name for name in changed)

    log = read_log(folder)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 4]
    assert log[-1]["validation"]["painted"]["images"] == 1
    assert {"tiles_per_second", "data_wait_share", "learning_rate", "hv_mse"} <= set(log[0])
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["step-00000002.png", "step-00000004.png"]
    results = json.loads((folder / "results.json").read_text())
    assert results["results"]["painted"]["tiles"] == ["tile2"]
    assert "pq_mean_over_images" in results["results"]["painted"]["scores"]

    model = CfSamForNucleiSegmentation.from_pretrained(folder / "model")
    assert model.config.checkpoint_info["training"]["steps"] == 4
    assert model.config.checkpoint_info["data"] == ["painted: 2 tiles"]
    image = cv2.imread(str(training_root / "pairs" / "tile0.png"))[..., ::-1]
    assert NucleiSegmentationPipeline(model=model)(image, mpp=0.25).instance_map.shape == (96, 96)


def test_the_same_command_after_the_end_writes_the_same_model_again(training_root, run_example):
    run_example("train", *flags(smoke_values(training_root)))
    before = load_file(training_root / "run" / "model" / "model.safetensors")
    run_example("train", *flags(smoke_values(training_root)))
    after = load_file(training_root / "run" / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(read_log(training_root / "run")) == 5


def test_the_smoke_recipe_runs_and_its_loss_falls(training_root, run_example):
    recipe = EXAMPLES / "recipes" / "cpu_smoke.yaml"
    changes = {name: smoke_values(training_root)[name] for name in ("data", "output_dir")}
    run_example("train", str(recipe), *flags(changes))
    losses = [record["loss"] for record in read_log(training_root / "run") if "loss" in record]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert (training_root / "run" / "report.html").stat().st_size > 10_000
    # The bundled base has a licence, which what comes of it inherits.
    info = CfSamForNucleiSegmentation.from_pretrained(training_root / "run" / "model").config.checkpoint_info
    assert "research" in info["license"]


def test_the_script_ends_with_a_sentence_where_it_cannot_continue(training_root, run_example, monkeypatch, capsys):
    monkeypatch.setattr(
        "cfsam_hf.training.run.write_checkpoint", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(SystemExit) as ended:
        run_example("train", *flags(smoke_values(training_root)))
    assert ended.value.code == 1
    assert "No space left. There is no checkpoint yet. Free some space" in capsys.readouterr().err


def test_passes_of_a_step_give_the_weights_of_one_large_batch(training_root):
    values = {"steps": 2, "mixed_precision": "no"}
    whole = start_run(smoke_recipe(training_root, batch_size=4, **values))
    whole.train()
    parts = start_run(
        smoke_recipe(
            training_root,
            output_dir=str(training_root / "parts"),
            batch_size=1,
            gradient_accumulation_steps=4,
            **values,
        )
    )
    parts.train()
    one, two = weights(whole), weights(parts)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    logs = [[record["loss"] for record in read_log(run.folder) if "loss" in record] for run in (whole, parts)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)


def test_validation_runs_in_full_precision_and_training_does_not(training_root):
    run = start_run(smoke_recipe(training_root, steps=2, mixed_precision="bf16", evaluate_every=1))
    seen = {True: set(), False: set()}

    def note(module, _, output):
        seen[module.training].add(output.dtype)

    run.plain.mask_features.register_forward_hook(note)
    run.train()
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}


def test_validation_sees_the_averages_and_gives_the_own_weights_back(training_root):
    run = start_run(smoke_recipe(training_root, steps=2, ema_decay=0.9))
    run.train()
    own = weights(run)
    with run.averaged_model() as model:
        held = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        assert not model.training
    assert all(torch.equal(held[name], run.ema.average[name]) for name in held)
    assert any(not torch.equal(held[name], own[name]) for name in held)
    assert all(torch.equal(value, own[name]) for name, value in weights(run).items())


def test_an_unknown_validation_score_is_refused(training_root):
    run = start_run(smoke_recipe(training_root, steps=1, best_metric="beauty"))
    with pytest.raises(ValueError, match=r"no 'beauty' \(best_metric\); it has .*pq_mean_over_images"):
        run.train()


def test_own_annotations_with_types_that_the_base_does_not_have(training_root, run_example):
    tiny_test_model(num_types=3).save_pretrained(training_root / "base")
    tiles = write_qupath_tiles(training_root)
    data = [f"reader=qupath,path={tiles},split={training_root / 'split.json'}"]
    run_example("train", *flags(smoke_values(training_root, data=data)))
    folder = training_root / "run"
    model = CfSamForNucleiSegmentation.from_pretrained(folder / "model")
    assert sorted(model.config.type_names.values()) == sorted(TYPES)
    assert read_log(folder)[0]["type_cross_entropy"] > 0
    scores = read_log(folder)[-1]["validation"]["painted"]
    assert {f"type_f1_pooled/{name}" for name in TYPES} <= set(scores)


def test_types_of_the_base_stay_where_the_tiles_have_none(training_root):
    tiny_test_model(num_types=2).save_pretrained(training_root / "base")
    run = start_run(smoke_recipe(training_root, steps=2))
    assert run.plain.config.num_types == 2
    run.train()
    assert read_log(run.folder)[0]["type_cross_entropy"] == 0


class ListTracker(GeneralTracker):
    """Records what is reported."""

    name = "list"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.config, self.values, self.images = {}, [], []

    @property
    def tracker(self):
        return self.values

    @on_main_process
    def store_init_configuration(self, values: dict):
        self.config = values

    @on_main_process
    def log(self, values: dict, step: int | None = None, **options):
        self.values.append((step, values))

    @on_main_process
    def log_images(self, values: dict, step: int | None = None, **options):
        self.images.append((step, values["examples"].shape))


def test_trackers_get_numbers_pictures_and_the_recipe(training_root):
    tracker = ListTracker()
    run = start_run(smoke_recipe(training_root, steps=2, picture_every=2), tracker)
    run.train()
    assert tracker.config["learning_rate"] == "0.0006"
    steps = [(step, sorted({name.partition("/")[0] for name in values})) for step, values in tracker.values]
    assert steps == [(1, ["train"]), (2, ["train"]), (2, ["validation"])]
    [(step, shape)] = tracker.images
    assert (step, shape[0], shape[-1]) == (2, 1, 3)


def test_tensorboard_reads_what_is_written(training_root):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = start_run(smoke_recipe(training_root, steps=2, log_with=["tensorboard"], picture_every=2))
    run.train()
    run.accelerator.end_training()
    [events] = {path.parent for path in run.folder.rglob("events.out.tfevents*") if path.parent.name == "cfsam"}
    found = event_accumulator.EventAccumulator(str(events)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert "validation/painted/pq_mean_over_images" in found.Tags()["scalars"]
    [image] = found.Images("examples")
    assert image.width > 4 * 64


def test_trackers_that_are_not_installed_are_refused_by_name(training_root):
    with pytest.raises(ValueError, match="swanlab"):
        make_accelerator(smoke_recipe(training_root, log_with=["swanlab"]))


def test_the_bar_shows_losses_rate_and_tiles_a_second(training_root, monkeypatch, capsys):
    run = start_run(smoke_recipe(training_root, steps=2, progress=True))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run.train()
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert all(f"{name}=" in shown for name in ("loss", "nuclei", "hv", "boundary", "rate", "tiles/s"))
    # tqdm's own: time gone and time left.
    assert "<00:00" in shown


def test_old_optimiser_steps_do_not_reach_frozen_weights(training_root):
    run = start_run(smoke_recipe(training_root, steps=2))
    frozen = {name: p.clone() for name, p in run.plain.named_parameters() if not p.requires_grad}
    run.train()
    now = dict(run.plain.named_parameters())
    assert frozen
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert all(now[name].grad is None for name in frozen)


@pytest.mark.slow
def test_a_compiled_model_trains_as_it_does_uncompiled(training_root, monkeypatch):
    # The graphs are traced as ever; making code of them, which is torch's own affair, would take minutes.
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: compile_in_place(model, backend="aot_eager"))
    losses = []
    for compiled in (False, True):
        changes = {"compile": compiled, "mixed_precision": "no", "steps": 2, "evaluate_every": 1}
        run = start_run(smoke_recipe(training_root, output_dir=str(training_root / f"{compiled}"), **changes))
        run.train()
        losses.append([record["loss"] for record in read_log(run.folder) if "loss" in record])
        names = set(load_file(run.folder / "checkpoint-2" / "trainable.safetensors"))
        assert names == {name for name, p in run.plain.named_parameters() if p.requires_grad}
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def launch(root: Path, launcher: list[str], **changes) -> dict[str, torch.Tensor]:
    """The exported weights of the script in processes of its own."""
    values = smoke_values(root, **{"mixed_precision": "no", "steps": 3, "evaluate_every": 2, **changes})
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(EXAMPLES / "train.py"), *flags(values)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return load_file(Path(values["output_dir"]) / "model" / "model.safetensors")


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.slow
def test_two_processes_train_and_validate_as_one_does_with_twice_the_batch(training_root):
    one = launch(training_root, [], output_dir=str(training_root / "one"), batch_size=4)
    two = launch(training_root, TWO, output_dir=str(training_root / "two"), batch_size=2)
    before = load_file(training_root / "base" / "model.safetensors")
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-3
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    validations = [
        [record["validation"]["painted"] for record in read_log(training_root / name) if "validation" in record]
        for name in ("one", "two")
    ]
    # Each tile is counted once, whichever process has it.
    assert [scores["images"] for scores in validations[1]] == [1, 1]
    for one_score, two_score in zip(*validations, strict=True):
        assert one_score["dice_mean_over_images"] == pytest.approx(two_score["dice_mean_over_images"], abs=1e-3)


@pytest.mark.slow
def test_sharded_parameters_train_save_resume_and_export_as_whole_ones(training_root):
    """The FSDP configuration, on two CPU processes."""
    whole = launch(training_root, [], output_dir=str(training_root / "whole"), steps=4)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TWO, "-m", "tests.fsdp_driver", str(training_root)]
    exported = []
    for _ in range(2):
        done = subprocess.run(
            command, cwd=EXAMPLES.parent, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        exported.append(load_file(training_root / "sharded" / "model" / "model.safetensors"))
        # The second time it resumes from the middle.
        shutil.rmtree(training_root / "sharded" / "checkpoint-4", ignore_errors=True)
    for sharded in exported:
        assert sharded.keys() == whole.keys()
        assert all(torch.allclose(whole[name], sharded[name], atol=1e-5) for name in whole)
