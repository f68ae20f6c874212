"""Learning curve: draws how PQ grows with the crops seen in training, and prints the table.

    python examples/studies/learning_curve.py --runs runs/stage1 runs/stage2 --continued true --output curve.png
    python examples/studies/learning_curve.py --points 19200=results/a.json 38400=results/b.json --output curve.png

From the folder of a run it reads the validations in `log.jsonl` and the crops per step in `model/config.json`, or in
`recipe.yaml` if the run is not finished (give `--processes` if it has several). `--points` are results files of
`cfsam evaluate` or of training, each with the number of crops seen until then; they form a separate curve.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.drawing.learning_curve import LearningCurve, learning_curve_chart
from cfsam_hf.evaluation.tables import MISSING, markdown_table
from cfsam_hf.files.atomic import atomic_path
from cfsam_hf.training.run_log import LOG_NAME, validations


@dataclass
class CurveOptions:
    output: str = field(metadata={"help": "picture to write (.png)"})
    runs: list[str] = field(default_factory=list, metadata={"help": "folders of runs"})
    points: list[str] = field(default_factory=list, metadata={"help": "CROPS=RESULTS.json, such as 19200=a.json"})
    continued: bool = field(default=False, metadata={"help": "each run continues the one before; crops add up"})
    processes: int = field(default=1, metadata={"help": "processes of the unfinished runs"})
    metric: str = field(default="pq_mean_over_images", metadata={"help": "score that is drawn"})
    title: str = field(default="Learning curve", metadata={"help": "heading of the picture"})


def run_curves(folder: Path, metric: str, before: int = 0, processes: int = 1) -> tuple[list[LearningCurve], int]:
    """Returns the curves of a run, one per data set, and the crops seen by its last validation.

    Args:
        folder: the run's.
        metric: score to read; validations that lack it or have no number for it are left out.
        before: crops that the model had seen when the run began.
        processes: processes that shared a step, if the folder does not say.

    Raises:
        ValueError: the run has no validations, or none with that score.
        OSError: there is no such run.
    """
    if not (folder / LOG_NAME).is_file():
        raise FileNotFoundError(f"{folder}: no {LOG_NAME} here; give the folder of a run (its output_dir)")
    found = validations(folder)
    if not found:
        raise ValueError(f"{folder}: the run has no validations; train with evaluate_every, or give --points")
    each = crops_per_step(folder, processes)
    by_dataset: dict[str, list[tuple[int, float]]] = {}
    for step, scores in sorted(found.items()):
        for name, of_set in scores.items():
            if (value := of_set.get(metric)) is not None:
                by_dataset.setdefault(name, []).append((before + step * each, value))
    if not by_dataset:
        raise ValueError(f"{folder}: no validation has the score {metric!r}")
    curves = [LearningCurve(folder.resolve().name, name, tuple(points)) for name, points in by_dataset.items()]
    return curves, before + max(found) * each


def crops_per_step(folder: Path, processes: int = 1) -> int:
    """Returns the number of crops per step of a run.

    Raises:
        ValueError: neither the finished model nor the recipe gives it.
    """
    config, recipe = folder / "model" / "config.json", folder / "recipe.yaml"
    if config.is_file():
        info = json.loads(config.read_text(encoding="utf-8")).get("checkpoint_info") or {}
        if each := info.get("training", {}).get("crops_per_step"):
            return int(each)
    if recipe.is_file():
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        return int(values["batch_size"]) * int(values["gradient_accumulation_steps"]) * processes
    raise ValueError(f"{folder}: neither model/config.json nor recipe.yaml gives the crops per step; give --points")


def point_curves(texts: Sequence[str], metric: str) -> list[LearningCurve]:
    """Returns a curve per data set from `CROPS=RESULTS.json` pairs.

    Raises:
        ValueError: a text is not of that form, or its file is not a results file with that score.
        OSError: a file cannot be read.
    """
    by_dataset: dict[str, list[tuple[int, float]]] = {}
    for text in texts:
        crops, _, path = text.partition("=")
        if not crops.isdecimal() or not path:
            raise ValueError(f"cannot read the point {text!r}: write CROPS=RESULTS.json, such as 19200=results.json")
        try:
            results = json.loads(Path(path).read_text(encoding="utf-8"))["results"]
            values = {name: float(result["scores"][metric]) for name, result in results.items()}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a results file with the score {metric!r} ({error!r})") from error
        for name, value in values.items():
            by_dataset.setdefault(name, []).append((int(crops), value))
    return [LearningCurve("results", name, tuple(sorted(points))) for name, points in by_dataset.items()]


def table(curves: Sequence[LearningCurve], metric: str) -> list[str]:
    """The points as the lines of a Markdown table, a row per run and number of crops."""
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    scores = {(c.run, crops, c.dataset): value for c in curves for crops, value in c.points}
    places = sorted({(crops, run) for run, crops, _ in scores})
    values = {key: f"{value:.4f}" for key, value in scores.items()}
    rows = [[run, f"{crops:,}", *(values.get((run, crops, d), MISSING) for d in datasets)] for crops, run in places]
    return markdown_table(["run", "crops seen", *(f"{name}: {metric}" for name in datasets)], rows)


def main() -> None:
    options = HfArgumentParser(CurveOptions).parse_args_into_dataclasses()[0]
    if not options.runs and not options.points:
        raise ValueError("there is nothing to draw: give --runs or --points")
    curves, seen = [], 0
    for folder in options.runs:
        before = seen if options.continued else 0
        found, seen = run_curves(Path(folder), options.metric, before, options.processes)
        curves += found
    curves += point_curves(options.points, options.metric)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as working:
        # The picture has few colours, so a palette loses nothing visible.
        learning_curve_chart(curves, options.title, options.metric).quantize(64).save(working, "PNG", optimize=True)
    print("\n".join(table(curves, options.metric)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
