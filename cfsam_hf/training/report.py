"""The report of a run: one self-contained HTML file with curves, scores and pictures."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..drawing.line_chart import Curve, line_chart
from ..files.atomic import atomic_path
from .recipe import Recipe
from .run_log import read_log, validations

REPORT_NAME = "report.html"
# The validation scores to show, if present; log.jsonl has all of them.
HEADLINES = (
    *("dice_mean_over_images", "aji_mean_over_images", "pq_mean_over_images", "dq_mean_over_images"),
    *("sq_mean_over_images", "detection_f1_pooled", "type_f1_pooled_mean_over_types"),
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #9aa0a6; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; } figcaption { font-weight: 600; }
.key { font-size: .85em; } .swatch { display: inline-block; width: 1em; height: .25em; margin: 0 .3em .2em .8em; }
img { max-width: 100%; } svg text { font: 11px system-ui, sans-serif; fill: #5f6368; }
"""


def write_report(folder: Path, recipe: Recipe, data: Sequence[str]) -> Path:
    """Writes `report.html` into the folder of a run, from its log and its pictures.

    Args:
        folder: of the run.
        recipe: its values.
        data: a line per data item.

    Raises:
        OSError: the disk is full.
    """
    records = [record for record in read_log(folder) if "loss" in record]
    scores = validations(folder)
    parts = [
        f"<h1>{html.escape(folder.resolve().name)}</h1>",
        f"<p>{_summary(records, recipe)}</p>",
        "<h2>Data</h2>",
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in data)}</ul>",
        "<h2>Validation</h2>",
        _score_table(scores) if scores else "<p>There were no validation tiles.</p>",
        f'<div class="charts">{"".join(line_chart(*item) for item in _validation_curves(scores))}</div>',
        "<h2>Training</h2>",
        f'<div class="charts">{"".join(line_chart(*item) for item in _training_curves(records))}</div>',
        "<h2>Examples</h2>",
        _pictures(folder),
        "<h2>Recipe</h2>",
        _recipe_table(recipe),
    ]
    title = html.escape(folder.resolve().name)
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    with atomic_path(folder / REPORT_NAME) as working:
        working.write_text(page, encoding="utf-8")
    return folder / REPORT_NAME


def _summary(records: list[dict[str, Any]], recipe: Recipe) -> str:
    if not records:
        return "No step was logged."
    last = records[-1]
    text = (
        f"Step {last['step']:,} of {recipe.optimization.steps:,}, from {recipe.model.base}. Last logged: loss "
        f"{last['loss']:.4f}, {last['tiles_per_second']:g} tiles per second, "
        f"{100 * last['data_wait_share']:.1f} % of the time waiting for data"
    )
    left_out = last.get("batches_left_out", 0)
    return html.escape(
        text + (f"; {left_out} batches were skipped because they were not finite." if left_out else ".")
    )


def _score_table(scores: dict[int, dict[str, dict[str, Any]]]) -> str:
    """The last validation."""
    step = max(scores)
    names = list(scores[step])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    keys = dict.fromkeys([*HEADLINES, *(key for name in names for key in scores[step][name] if "type_f1" in key)])
    rows = []
    for key in keys:
        values = [scores[step][name].get(key) for name in names]
        if any(value is not None for value in values):
            cells = "".join(f'<td class="number">{"" if v is None else f"{v:.4f}"}</td>' for v in values)
            rows.append(f"<tr><td>{html.escape(key)}</td>{cells}</tr>")
    return f"<table><tr><th>step {step:,}</th>{head}</tr>{''.join(rows)}</table>"


def _validation_curves(scores: dict[int, dict[str, dict[str, Any]]]) -> list[tuple[str, list[Curve]]]:
    names = dict.fromkeys(name for of_step in scores.values() for name in of_step)
    return [
        (
            name,
            [
                Curve(key, [(step, scores[step].get(name, {}).get(key)) for step in sorted(scores)])
                for key in HEADLINES
            ],
        )
        for name in names
    ]


def _training_curves(records: list[dict[str, Any]]) -> list[tuple[str, list[Curve], bool]]:
    def curve(key: str, name: str | None = None) -> Curve:
        return Curve(name or key, [(record["step"], record.get(key)) for record in records])

    keys = list(dict.fromkeys(key for record in records for key in record))
    terms = [key for key in keys if re.match(r"(nuclei|hv|type|boundary)_|disagreement|teacher", key)]
    return [
        ("Loss", [curve("loss")], True),
        ("Terms of the loss (unweighted)", [curve(key) for key in terms], True),
        (
            "The same terms for the initial maps",
            [curve(key, key[8:]) for key in keys if key.startswith("initial_")],
            True,
        ),
        ("Norm of the gradient before clipping", [curve("gradient_norm")], True),
        ("Learning rate", [curve("learning_rate")], False),
        ("Tiles per second", [curve("tiles_per_second")], False),
    ]


def _pictures(folder: Path) -> str:
    """First, middle and last picture."""
    paths = sorted((folder / "pictures").glob("step-*.png"))
    chosen = list(dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]])) if paths else []
    figures = []
    for path in chosen:
        step = int(path.stem.removeprefix("step-"))
        code = base64.b64encode(path.read_bytes()).decode()
        figures.append(
            f'<figure><figcaption>Step {step:,}</figcaption><img alt="input, truth, prediction and boundary at step '
            f'{step}" src="data:image/png;base64,{code}"></figure>'
        )
    return "".join(figures) or "<p>No picture was drawn.</p>"


def _recipe_table(recipe: Recipe) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in recipe.to_dict().items()
    )
    return f"<table><tr><th>value</th><th></th></tr>{rows}</table>"
