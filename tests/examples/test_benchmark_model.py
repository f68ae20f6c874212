"""The benchmark of the network's forms: the long run's form must stay within its budget, and be in the table."""

import argparse

import pytest
import torch


@pytest.fixture
def benchmark(load_example):
    return load_example("benchmarks/model")


def test_the_form_of_the_long_run_keeps_its_budget(benchmark):
    forms = benchmark.forms()
    first, _ = benchmark.count_operations(forms[benchmark.FIRST_FORM], 576)
    operations, parameters = benchmark.count_operations(forms["long run"], 576)
    assert operations["whole"] < 24e9 < 50e9 < first["whole"]
    # In float16 at most 16 MB.
    assert parameters < 8e6
    # Parts of parts are counted once.
    assert sum(operations[part] for part in benchmark.PARTS) < operations["whole"]
    assert sum(first[part] for part in benchmark.PARTS) > 0.9 * first["whole"]


@pytest.mark.slow
def test_the_table_has_all_forms_and_parts(benchmark):
    with torch.inference_mode():
        table = benchmark.forms_table(argparse.Namespace(pixels=96, rounds=1))
    [header] = [line for line in table if line.startswith("| form")]
    assert all(f"| {part} " in header for part in [*benchmark.PARTS, "whole"])
    rows = {line.split("|")[1].strip(): line for line in table if line.startswith("|")}
    assert set(benchmark.forms()) < set(rows)
    assert rows[benchmark.FIRST_FORM].rstrip(" |").endswith("1.000")
