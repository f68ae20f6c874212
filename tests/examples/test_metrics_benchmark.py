"""Why: the two implementations in the benchmark must agree, or their ratio means nothing."""

import argparse
import json

import pytest


def test_a_small_run(tmp_path, capsys, load_example):
    benchmark_metrics = load_example("benchmarks/metrics")
    parser = argparse.ArgumentParser()
    benchmark_metrics.add_arguments(parser)
    output = tmp_path / "metrics.json"
    options = ["--nuclei", "1", "50", "--size", "200", "--repeats", "1", "--json", str(output)]
    results = benchmark_metrics.run(parser.parse_args(options))
    assert [figures["nuclei"] for figures in results] == [1, 50]
    assert json.loads(output.read_text()) == results
    assert "ratio" in capsys.readouterr().out


def test_disagreement_is_an_error(monkeypatch, load_example):
    benchmark_metrics = load_example("benchmarks/metrics")
    monkeypatch.setattr(benchmark_metrics, "dice", lambda table: 0.0)
    options = argparse.Namespace(nuclei=[9], size=60, repeats=1, json=None)
    with pytest.raises(RuntimeError, match="dice differs at 9 nuclei"):
        benchmark_metrics.run(options)
