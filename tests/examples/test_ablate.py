"""Why: an ablation must compare what it claims to, resume after an interruption, and tabulate the right figures."""

import json
import subprocess
import sys

import pytest

from cfsam_hf.training import TrainingStopped
from cfsam_hf.training.checkpoints import checkpoint_steps
from cfsam_hf.training.variants import VARIANTS, build_variant

from .. import REPOSITORY
from ..training.test_run import flags
from ..training_cases import smoke_recipe, smoke_values

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def ablate(load_example):
    return load_example("studies/ablate")


@pytest.fixture
def run_ablate(load_example, monkeypatch, capsys):
    """Runs the script with its runs in this process; gives what was run, and what was printed."""

    def run(values, *arguments):
        module, ran = load_example("studies/ablate"), []
        command = [*flags(values), *arguments]

        def in_this_process(common, variant, seed, start, keep_weights):
            ran.append((variant.name, seed))
            module.one_run(common, variant, seed, start, keep_weights)
            return 0

        monkeypatch.setattr(module, "run_in_child", in_this_process)
        monkeypatch.setattr("sys.argv", ["ablate.py", *command])
        module.main()
        return ran, capsys.readouterr().out

    return run


def test_two_variants_are_compared_and_finished_runs_are_left_alone(training_root, run_ablate):
    values = smoke_values(training_root, steps=2)
    ran, text = run_ablate(values, "--variants", "full,no_bgmr", "--seeds", "3")
    assert ran == [("full", 3), ("no_bgmr", 3)]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    titles = ["painted", "---", "CF-SAM", "CF-SAM, initial masks", "CF-SAM, initial masks, boundary map in decoding"]
    assert [row.split("|")[1].strip() for row in rows] == [*titles, "no BGMR"]
    assert "| PQ |" in rows[0]
    assert "2 steps of 2 crops of 64 pixels from the SAM of" in text

    record = json.loads((training_root / "run" / "ablation.json").read_text())
    full, without = record["variants"]["full"], record["variants"]["no_bgmr"]
    assert full["trainable"] > without["trainable"] > 0
    # 0 where earlier tests of the process left enough freed memory.
    assert full["peak_memory_mb"]["mean"] >= 0
    assert full["tiles_per_second"]["mean"] > 0
    assert set(full["scores"]) == {"refined", "initial", "initial_with_boundary"}
    assert full["runs"][0]["results"]["refined"]["painted"]["tiles"] == ["tile2"]
    assert full["runs"][0]["recipe"]["seed"] == 3
    assert (training_root / "run" / "ablation.md").read_text() in text
    # Weights are not kept unless asked for.
    assert checkpoint_steps(training_root / "run" / "full" / "seed3") == []

    ran, text = run_ablate(values, "--variants", "full,no_bgmr", "--seeds", "3,4", "--keep_weights")
    assert ran == [("full", 4), ("no_bgmr", 4)]
    assert "±" in text
    assert checkpoint_steps(training_root / "run" / "full" / "seed4") == [2]
    with pytest.raises(ValueError, match=r"another recipe: learning_rate .* Give another --output_dir"):
        run_ablate({**values, "learning_rate": 1e-5}, "--variants", "full", "--seeds", "3")
    with pytest.raises(ValueError, match="start 'backbone' -> 'whole'"):
        run_ablate(values, "--variants", "full", "--seeds", "3", "--start", "whole")


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(training_root, ablate, monkeypatch):
    def one(name):
        recipe = smoke_recipe(training_root, output_dir=str(training_root / name))
        ablate.train_and_score(recipe, variant, 0, "backbone", keep_weights=False)
        return json.loads((training_root / name / variant.name / "seed0" / "result.json").read_text())

    # Scored from one reading alone, which is faster.
    variant = VARIANTS["fixed_kernels"]
    expected = one("whole")

    def interrupt(optimizer, step, options):
        if step == 3:
            raise KeyboardInterrupt
        return rates(optimizer, step, options)

    with monkeypatch.context() as patch:
        from cfsam_hf.training.run import set_learning_rates as rates

        patch.setattr("cfsam_hf.training.run.set_learning_rates", interrupt)
        with pytest.raises(KeyboardInterrupt):
            one("parts")
    assert checkpoint_steps(training_root / "parts" / "fixed_kernels" / "seed0") == [2]
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "evaluate_records", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one("parts")
    assert checkpoint_steps(training_root / "parts" / "fixed_kernels" / "seed0") == [4]
    found = one("parts")
    assert found["results"] == expected["results"]
    # Measured in the sitting that trained, and kept by the one that scored.
    assert found["steps_timed"] == 2
    assert found["peak_memory_mb"] > 0
    with pytest.raises(ValueError, match="started with --start backbone, not whole"):
        ablate.check_start(training_root / "parts" / "fixed_kernels" / "seed0", "whole")


def test_lora_is_trained_resumed_and_scored(training_root, ablate, monkeypatch):
    seen = []

    def note(recipe, *rest):
        seen.append(recipe)
        return build_variant(recipe, *rest)

    monkeypatch.setattr(ablate, "build_variant", note)
    recipe = smoke_recipe(training_root, steps=2, mixed_precision="bf16")
    folder = training_root / "run" / "lora" / "seed5"
    ablate.train_and_score(recipe, VARIANTS["lora"], 5, "whole", keep_weights=True)
    first = json.loads((folder / "result.json").read_text())
    # The variant starts from the common recipe; otherwise LoRA would not know the size of MALA or share its start.
    assert seen == [recipe]
    mala = first["origin"]["left_out"]["MALA"]
    assert abs(first["origin"]["new"]["LoRA"] - mala) < mala / first["origin"]["lora_rank"]
    assert first["recipe"]["seed"] == 5
    assert not json.loads(first["recipe"]["model_options"])["use_mala"]
    (folder / "result.json").unlink()
    ablate.train_and_score(recipe, VARIANTS["lora"], 5, "whole", keep_weights=True)
    again = json.loads((folder / "result.json").read_text())
    assert again["results"] == first["results"]


def test_tiles_to_compare_on_are_needed(training_root, ablate):
    data = [f"reader=instance_pairs,path={training_root / 'pairs'}"]
    with pytest.raises(ValueError, match="no validation tiles"):
        ablate.train_and_score(smoke_recipe(training_root, data=data), VARIANTS["full"], 0, "backbone", False)


def test_a_failure_does_not_end_the_others_but_the_first_does(training_root, ablate, monkeypatch, capsys):
    values = smoke_values(training_root)
    tried = []

    def fail(_recipe, variant, *_):
        tried.append(variant.name)
        return 1

    monkeypatch.setattr(ablate, "run_in_child", fail)
    monkeypatch.setattr("sys.argv", ["ablate.py", *flags(values), "--variants", "full,no_mala", "--seeds", "0"])
    with pytest.raises(SystemExit, match="Not finished: full with seed 0"):
        ablate.main()
    assert tried == ["full"]

    def only_full(_recipe, variant, *_):
        return hand_made("full", 0.5, 0) if variant.name == "full" else None

    monkeypatch.setattr(ablate, "finished", only_full)
    variants = "full,no_mala,no_bgmr"
    monkeypatch.setattr("sys.argv", ["ablate.py", *flags(values), "--variants", variants, "--seeds", "0"])
    (training_root / "run").mkdir()
    with pytest.raises(SystemExit, match="no_mala with seed 0, no_bgmr with seed 0"):
        ablate.main()
    assert tried == ["full", "no_mala", "no_bgmr"]
    assert "| CF-SAM |" in capsys.readouterr().out


def test_a_stopped_run_ends_with_its_sentence(training_root, ablate, monkeypatch, capsys):
    def stop(*_):
        raise TrainingStopped("The loss of step 1 is not finite.")

    monkeypatch.setattr(ablate, "train_and_score", stop)
    with pytest.raises(SystemExit) as ended:
        ablate.one_run(smoke_recipe(training_root), VARIANTS["full"], 0, "backbone", False)
    assert ended.value.code == 1
    assert capsys.readouterr().err.endswith("The loss of step 1 is not finite.\n")


def test_a_signal_to_a_run_ends_the_whole_study(training_root, ablate, monkeypatch):
    tried = []
    monkeypatch.setattr(ablate, "run_in_child", lambda _, variant, *rest: tried.append(variant.name) or 143)
    values = smoke_values(training_root)
    monkeypatch.setattr("sys.argv", ["ablate.py", *flags(values), "--variants", "full,no_mala", "--seeds", "0"])
    with pytest.raises(SystemExit) as ended:
        ablate.main()
    assert (ended.value.code, tried) == (143, ["full"])


def hand_made(name, pq, seed, initial=None):
    """A result with one score, as the script writes it."""
    scores = {"refined": pq} | ({"initial": initial} if initial is not None else {})
    return {
        "title": VARIANTS[name].title,
        "seed": seed,
        "trainable": 1_234_567,
        "parameters": 2_000_000,
        "origin": {},
        "peak_memory_mb": 1000.0 + seed,
        "tiles_per_second": 10.0,
        "crops_per_step": 8,
        "memory_is": "resident",
        "environment": {"hardware": "a CPU"},
        "results": {
            of: {"consep": {"tiles": ["a"], "scores": {"pq_mean_over_images": value, "type_f1_pooled/red": None}}}
            for of, value in scores.items()
        },
    }


def test_the_table_has_means_deviations_and_paired_differences(ablate):
    full = ablate.summary([hand_made("full", 0.5, 0, 0.4), hand_made("full", 0.7, 1, 0.5)])
    other = ablate.summary([hand_made("no_mala", 0.45, 0), hand_made("no_mala", 0.63, 1)])
    lines = ablate.table({"full": full, "no_mala": other}, "consep")
    assert lines == [
        "| consep | seeds | PQ | PQ - CF-SAM's | trained | memory | tiles/s |",
        "|---|---|---|---|---|---|---|",
        "| CF-SAM | 2 | 0.600 ± 0.141 |  | 1.23 M | 1,000 MB | 10.0 |",
        "| CF-SAM, initial masks | 2 | 0.450 ± 0.071 | -0.150 ± 0.071 |  |  |  |",
        "| no MALA | 2 | 0.540 ± 0.127 | -0.060 ± 0.014 | 1.23 M | 1,000 MB | 10.0 |",
    ]


def test_a_difference_is_of_the_same_seeds_alone(ablate):
    full = ablate.summary([hand_made("full", 0.5, 0)])
    other = ablate.summary([hand_made("no_mala", 0.6, 0), hand_made("no_mala", 0.9, 1)])
    assert ablate.difference(full, other, "refined", "consep") == "+0.100"
    assert ablate.difference(full, ablate.summary([hand_made("no_mala", 0.9, 1)]), "refined", "consep") == "–"
    assert ablate.difference(None, other, "refined", "consep") == ""
    # One seed without a score leaves no mean.
    assert ablate.summary([hand_made("full", None, 0), hand_made("full", 0.5, 1)])["scores"]["refined"]["consep"][
        "pq_mean_over_images"
    ] == {"mean": None, "deviation": None}


def test_mistyped_variants_and_values_are_refused(ablate, capsys, tmp_path):
    for arguments, words in (
        (["--variants", "full,no_malla"], "no variant no_malla; choose from full, no_mala"),
        (["--seeds", "1,1"], "contains duplicates"),
        (["--stepps", "3"], "unknown: --stepps"),
    ):
        with pytest.raises(SystemExit):
            ablate.parse_arguments([*arguments, "--output_dir", str(tmp_path), "--data", "reader=consep,path=x"])
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own(training_root):
    # As a script: the process of a variant imports the module that started it.
    script = REPOSITORY / "examples" / "studies" / "ablate.py"
    values = flags(smoke_values(training_root, steps=2))
    command = [sys.executable, str(script), *values, "--variants", "head_only", "--seeds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "| head only |" in done.stdout
    assert (training_root / "run" / "head_only" / "seed0" / "result.json").exists()
