"""The learning curve script: its points are those of the logs and results files, and its picture is small and true."""

import json

import numpy as np
import pytest
from PIL import Image

from cfsam_hf.model.nucleus_types import default_type_color, rgb
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
    with pytest.raises(ValueError, match="tells the crops of a step"):
        example.run_curves(run, METRIC)


def test_the_curve_rises_where_the_score_does(example):
    curves = [example.Curve("r", "a", ((0, 0.1), (500, 0.5), (1000, 0.3))), example.Curve("r", "b", ((1000, 0.2),))]
    picture = np.asarray(example.chart(curves, "mine", METRIC)).astype(int)
    # Below the key, left of the labels: the points' discs are filled.
    found = np.abs(picture - rgb(default_type_color(1))).sum(axis=-1) < 12
    found[: example.TOP - 8] = False
    rows, columns = np.nonzero(found[:, : example.WIDTH - 100])
    assert columns.min() == pytest.approx(example.LEFT, abs=5)
    assert rows[columns < columns.min() + 8].mean() > rows[columns > columns.max() - 8].mean() > rows.min() + 20
    assert np.median(columns[rows < rows.min() + 4]) == pytest.approx((columns.min() + columns.max()) / 2, abs=15)
    single = np.abs(picture - rgb(default_type_color(2))).sum(axis=-1) < 12
    assert single[example.TOP :].sum() > 20
    with pytest.raises(ValueError, match="no points"):
        example.chart([], "mine", METRIC)


def test_ticks_are_round_and_enclose(example):
    assert example.ticks(0.31, 0.52) == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    assert example.ticks(0, 48_000) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    for low, high in ((0.5, 0.5), (0.0, 0.0), (0.4999, 0.5001), (-3.0, 700.0)):
        marks = example.ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert 2 <= len(marks) <= 8
