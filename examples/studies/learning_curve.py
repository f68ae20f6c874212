"""Draws how PQ grows with the crops that a model has seen, and prints the table.

    python examples/studies/learning_curve.py --runs runs/stage1 runs/stage2 --continued true --output curve.png
    python examples/studies/learning_curve.py --points 19200=results/a.json 38400=results/b.json --output curve.png

Of a run's folder it takes the validations in `log.jsonl`, and how many crops a step had from `model/config.json` or,
of a run that is not finished, from `recipe.yaml` (`--processes` where there were several). `--points` are results
files of `cfsam evaluate` or of training, each with the crops seen until then; they make one curve of their own.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from PIL import Image, ImageDraw, ImageFont
from transformers import HfArgumentParser

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.drawing.lettering import INK, MUTED, PAPER, fit_text
from cfsam_hf.evaluation.tables import MISSING, markdown_table
from cfsam_hf.files.atomic import atomic_path
from cfsam_hf.model.nucleus_types import default_type_color, rgb
from cfsam_hf.training.run_log import LOG_NAME, validations

GRID = (226, 229, 233)
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 56
TEXT = 14
SHARPER = 3  # drawn so much larger and averaged: Pillow's lines have stairs
STEPS = (1, 2, 2.5, 5, 10)  # of an axis, times a power of ten


@dataclass
class CurveOptions:
    output: str = field(metadata={"help": "picture to write (.png)"})
    runs: list[str] = field(default_factory=list, metadata={"help": "folders of runs"})
    points: list[str] = field(default_factory=list, metadata={"help": "CROPS=RESULTS.json, such as 19200=a.json"})
    continued: bool = field(default=False, metadata={"help": "each run went on from the one before: crops add up"})
    processes: int = field(default=1, metadata={"help": "of the runs that are not finished"})
    metric: str = field(default="pq_mean_over_images", metadata={"help": "score that is drawn"})
    title: str = field(default="Learning curve", metadata={"help": "heading of the picture"})


@dataclass(frozen=True)
class Curve:
    """One score of one data set.

    Attributes:
        run, dataset: what it is of.
        points: (crops seen, score), by crops.
    """

    run: str
    dataset: str
    points: tuple[tuple[int, float], ...]


def run_curves(folder: Path, metric: str, before: int = 0, processes: int = 1) -> tuple[list[Curve], int]:
    """The curves of a run, one per data set, and the crops that have been seen at its last validation.

    Args:
        folder: of the run.
        metric: score to take; validations without it, or where it is not a number, are left out.
        before: crops that the model had seen when the run began.
        processes: that shared a step, where the folder does not tell.

    Raises:
        ValueError: the run was not validated, or never with that score.
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
    curves = [Curve(folder.resolve().name, name, tuple(points)) for name, points in by_dataset.items()]
    return curves, before + max(found) * each


def crops_per_step(folder: Path, processes: int = 1) -> int:
    """How many crops a step of a run has.

    Raises:
        ValueError: neither the finished model nor the recipe tells.
    """
    config, recipe = folder / "model" / "config.json", folder / "recipe.yaml"
    if config.is_file():
        info = json.loads(config.read_text(encoding="utf-8")).get("checkpoint_info") or {}
        if each := info.get("training", {}).get("crops_per_step"):
            return int(each)
    if recipe.is_file():
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        return int(values["batch_size"]) * int(values["gradient_accumulation_steps"]) * processes
    raise ValueError(f"{folder}: neither model/config.json nor recipe.yaml tells the crops of a step; give --points")


def point_curves(texts: Sequence[str], metric: str) -> list[Curve]:
    """The curve per data set of `CROPS=RESULTS.json` pairs.

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
    return [Curve("results", name, tuple(sorted(points))) for name, points in by_dataset.items()]


def table(curves: Sequence[Curve], metric: str) -> list[str]:
    """The points as the lines of a Markdown table, a row per run and number of crops."""
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    scores = {(c.run, crops, c.dataset): value for c in curves for crops, value in c.points}
    places = sorted({(crops, run) for run, crops, _ in scores})
    values = {key: f"{value:.4f}" for key, value in scores.items()}
    rows = [[run, f"{crops:,}", *(values.get((run, crops, d), MISSING) for d in datasets)] for crops, run in places]
    return markdown_table(["run", "crops seen", *(f"{name}: {metric}" for name in datasets)], rows)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that divide an axis, from at most `low` to at least `high`.

    >>> ticks(0.31, 0.52)
    [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]
    """
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (*STEPS, 10 * STEPS[-1]) if math.ceil((high - low) / (s * power)) < most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def chart(curves: Sequence[Curve], title: str, metric: str) -> Image.Image:
    """The curves as a picture: a colour per data set, a line per run, the last value written beside it.

    Raises:
        ValueError: there are no points.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        raise ValueError("there is nothing to draw: no points")
    across, up = ticks(0, max(x for x, _ in points)), ticks(min(y for _, y in points), max(y for _, y in points))
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    colors = {name: rgb(default_type_color(number)) for number, name in enumerate(datasets, start=1)}
    right = RIGHT + 5 * TEXT

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - across[0]) / (across[-1] - across[0])
        above = (y - up[0]) / (up[-1] - up[0])
        width, height = WIDTH - LEFT - right, HEIGHT - TOP - BOTTOM
        return SHARPER * (LEFT + along * width), SHARPER * (TOP + (1 - above) * height)

    picture = Image.new("RGB", (SHARPER * WIDTH, SHARPER * HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    font, heading = (ImageFont.load_default(size=SHARPER * size) for size in (TEXT, 1.3 * TEXT))
    for y in up:
        draw.line((*place(across[0], y), *place(across[-1], y)), GRID, SHARPER)
        x, middle = place(across[0], y)
        draw.text((x - SHARPER * 8, middle), f"{y:g}", MUTED, font, anchor="rm")
    for x in across:
        middle, y = place(x, up[0])
        draw.line((middle, y, middle, y + SHARPER * 5), MUTED, SHARPER)
        draw.text((middle, y + SHARPER * 10), f"{x:,.0f}", MUTED, font, anchor="mt")
    centre = SHARPER * (LEFT + (WIDTH - LEFT - right) / 2)
    draw.text((centre, SHARPER * (HEIGHT - 8)), "crops seen in training", INK, font, anchor="mb")
    draw.text((SHARPER * 12, SHARPER * 16), fit_text(draw, title, heading, SHARPER * (WIDTH - 24)), INK, heading, "lm")
    draw.text((SHARPER * 12, SHARPER * 40), fit_text(draw, metric, font, SHARPER * WIDTH // 2), MUTED, font, "lm")

    labels = []
    for curve in curves:
        color, line = colors[curve.dataset], [place(*point) for point in curve.points]
        draw.line(line, color, 2 * SHARPER, joint="curve")
        for x, y in line:
            draw.ellipse((x - 3 * SHARPER, y - 3 * SHARPER, x + 3 * SHARPER, y + 3 * SHARPER), color)
        labels.append((line[-1], f"{curve.points[-1][1]:.3f}", color))
    # Only the ends of a data set's last curve are labelled: those of earlier stages lie in the middle.
    last = {color: (end, text) for end, text, color in labels}
    for color, ((x, y), text) in last.items():
        draw.text((x + SHARPER * 8, y), text, color, font, anchor="lm")
    x = SHARPER * (WIDTH - 16)
    for name in reversed(datasets):
        text = fit_text(draw, name, font, SHARPER * WIDTH // 4)
        draw.text((x, SHARPER * 40), text, INK, font, anchor="rm")
        x -= draw.textlength(text, font) + SHARPER * 8
        draw.line((x - SHARPER * 18, SHARPER * 40, x, SHARPER * 40), colors[name], 3 * SHARPER)
        x -= SHARPER * 36
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


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
        # Few colours are in it, so a palette loses nothing to be seen.
        chart(curves, options.title, options.metric).quantize(64).save(working, "PNG", optimize=True)
    print("\n".join(table(curves, options.metric)))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
