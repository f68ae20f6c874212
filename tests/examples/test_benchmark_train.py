"""Why: the benchmark of training options must measure what it says, with ratios to the reference."""

import argparse

import pytest
import torch

from cfsam_hf.training import make_recipe

from ..tiny import SIZE
from ..training_cases import write_base

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def benchmark(load_example):
    return load_example("benchmarks/train")


def test_every_option_is_one_of_a_recipe(benchmark):
    reference = {"output_dir": "run", "data": ["reader=consep,path=x"], "mixed_precision": "no"}
    for option, values in benchmark.OPTIONS.items():
        if option not in ("accumulation", benchmark.UPPER_HALF):
            changed = make_recipe(**{**reference, **values}).to_dict()
            before = make_recipe(**reference).to_dict()
            assert len([name for name in before if before[name] != changed[name]]) == len(values) <= 1


@pytest.mark.parametrize("option", ["accumulation", "channels first"])
def test_a_measurement(benchmark, tmp_path, monkeypatch, option):
    base = write_base(tmp_path / "model")
    ran = []
    monkeypatch.setattr(
        benchmark.TimedRun,
        "train_steps",
        lambda run, n, plain=benchmark.TimedRun.train_steps: ran.append(run) or plain(run, n),
    )
    args = argparse.Namespace(base=str(base), pixels=SIZE, batch_size=2, steps=1)
    folder = tmp_path / "tiles"
    folder.mkdir()
    monkeypatch.setitem(benchmark.OPTIONS, option, {**benchmark.OPTIONS[option], "num_workers": 0})
    found = benchmark.measure(args, option, folder)
    assert all(found[name] > 0 for name in ("wall", "cpu"))
    run = ran[0]
    assert run.step == 1 + benchmark.SETTLING == len(run.wall) == len(run.cpu)
    assert run.crops_per_step == 2
    options = run.recipe.optimization
    weight = run.plain.mask_features.join[0][0][0].weight
    if option == "accumulation":
        assert (options.batch_size, options.gradient_accumulation_steps) == (1, 2)
        assert weight.is_contiguous(memory_format=torch.channels_last)
    else:
        assert (options.batch_size, options.gradient_accumulation_steps) == (2, 1)
        assert weight.is_contiguous()


def test_the_upper_half_of_the_layers(benchmark, tmp_path):
    assert benchmark.upper_half(str(write_base(tmp_path))) == [2, 3]


def test_ratios_are_medians_over_the_rounds_to_the_reference(benchmark):
    def rounds(*walls):
        return [{"wall": wall, "cpu": 2 * wall, "memory": 1000 + wall} for wall in walls]

    lines = benchmark.result_table({"reference": rounds(100, 300, 200), "bf16": rounds(100, 100, 900)})
    assert lines[2:] == [
        "| reference | 5.00 | 1.00 | 400 ms | 1.00 | 1,200 MB | 1.00 |",
        "| bf16 | 10.00 | 2.00 | 200 ms | 0.50 | 1,100 MB | 0.92 |",
    ]


def test_options_by_name(benchmark):
    assert benchmark.named_options("bf16,reference") == ["reference", "bf16"]
    with pytest.raises(argparse.ArgumentTypeError, match="no option fp4; choose from reference, bf16"):
        benchmark.named_options("fp4")
