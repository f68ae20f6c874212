"""Why: the benchmark for GPUs must work at once where there is one, so it runs in miniature where there is none."""

import json

import pytest


@pytest.mark.slow
def test_in_miniature_on_a_cpu_everything_is_measured(run_example, tmp_path):
    file = tmp_path / "gpu.json"
    run_example("benchmarks/gpu", str(file), "--device", "cpu", "--miniature")
    record = json.loads(file.read_text())
    assert record["failed"] == {}
    assert record["environment"]["device"] == "cpu"
    # The same device: the only difference is none.
    assert record["equality"]["float32"]["largest_difference"] == 0
    assert record["equality"]["float32"]["same_nuclei"] == record["equality"]["nuclei"] > 10
    assert record["equality"]["bfloat16"]["mean_difference"] < 0.05
    assert set(record["networks"]) == {"tiny", "tiny, long run's form", "B", "L", "H"}
    for networks in record["networks"].values():
        assert set(networks) == {"float32", "bfloat16"}
        assert all(network["mm2_per_s"] > 0 for network in networks.values())
    assert record["pipeline"]["float32"]["nuclei"] > 0
    assert 0 <= record["pipeline"]["float32"]["waiting_share"] < 1
    assert record["training"]["float32"]["seconds"] > 0


def test_what_does_not_fit_or_fails_is_named(load_example):
    gpu = load_example("benchmarks/gpu")
    watch = gpu.Stopwatch(100.0)
    assert watch.has_time_for("short", 1)
    assert not watch.has_time_for("long", 1000)
    with watch.noting_failure("large"):
        raise RuntimeError("out of\nmemory")
    assert (watch.skipped, watch.failed) == (["long"], {"large": "out of memory"})
