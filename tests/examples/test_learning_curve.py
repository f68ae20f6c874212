"""Why: the learning curve must show the points of the logs and results files, and its picture must stay small."""

import json

import pytest
from PIL import Image

from cfsam_hf.training.run_log import RunLog

METRIC = "pq_mean_over_images"


def write_run(folder, scores: dict[int, dict[str, float]], finished: bool):
    """A run of 8 crops a step with these validations by step and data set."""
    folder.mkdir()
    log = RunLog(folder, 0)
    for step, by_dataset in scores.items():
        log.write({"step": step, "loss": 1.0})
        log.write({"step": step, "validation": {name: {METRIC: value} for name, value in by_dataset.items()}})
    (folder / "recipe.yaml").write_text("batch_size: 4\ngradient_accumulation_steps: 2\n")
    if finished:
        (folder / "model").mkdir()
        info = {"checkpoint_info": {"training": {"crops_per_step": 32}}}
        (folder / "model" / "config.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def example(load_example):
    return load_example("studies/learning_curve")


def test_runs_that_follow_each_other(tmp_path, run_example, capsys):
    first = write_run(tmp_path / "first", {10: {"consep": 0.2, "monuseg": 0.3}, 20: {"consep": 0.3}}, finished=True)
    second = write_run(tmp_path / "second", {5: {"consep": 0.4}}, finished=False)
    output = tmp_path / "new" / "curve.png"
    run_example(
        "studies/learning_curve",
        *("--runs", str(first), str(second), "--continued", "true", "--processes", "2", "--output", str(output)),
    )
    assert capsys.readouterr().out.splitlines() == [
        "| run | crops seen | consep: pq_mean_over_images | monuseg: pq_mean_over_images |",
        "|---|---|---|---|",
        "| first | 320 | 0.2000 | 0.3000 |",
        "| first | 640 | 0.3000 | – |",
        "| second | 720 | 0.4000 | – |",
    ]
    assert output.stat().st_size < 40_000
    with Image.open(output) as picture:
        assert (picture.format, picture.size) == ("PNG", (760, 440))


def test_points_of_results_files(tmp_path, example):
    for name, value in (("a", 0.5), ("b", 0.4)):
        record = {"results": {"consep": {"scores": {METRIC: value}}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    [curve] = example.point_curves([f"200={tmp_path / 'a.json'}", f"100={tmp_path / 'b.json'}"], METRIC)
    assert (curve.dataset, curve.points) == ("consep", ((100, 0.4), (200, 0.5)))
    (tmp_path / "c.json").write_text('{"results": {"consep": {"scores": {}}}}')
    with pytest.raises(ValueError, match=r"c\.json: not a results file with the score"):
        example.point_curves([f"1={tmp_path / 'c.json'}"], METRIC)
    with pytest.raises(ValueError, match="cannot read the point 'a"):
        example.point_curves(["a.json"], METRIC)


def test_runs_that_tell_nothing(tmp_path, example):
    with pytest.raises(OSError, match=r"log\.jsonl"):
        example.run_curves(tmp_path, METRIC)
    RunLog(tmp_path, 0).write({"step": 1, "loss": 1.0})
    with pytest.raises(ValueError, match="has no validations"):
        example.run_curves(tmp_path, METRIC)
    run = write_run(tmp_path / "run", {1: {"a": 0.1}}, finished=False)
    with pytest.raises(ValueError, match="no validation has the score 'aji'"):
        example.run_curves(run, "aji")
    (run / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match="gives the crops per step"):
        example.run_curves(run, METRIC)
