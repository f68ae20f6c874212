"""Results as Markdown tables with the columns that papers print and captions that state the averages."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..files.plain_text import one_line

SEGMENTATION = {
    "Dice": "dice_mean_over_images",
    "AJI": "aji_mean_over_images",
    "AJI+": "aji_plus_mean_over_images",
    "DQ": "dq_mean_over_images",
    "SQ": "sq_mean_over_images",
    "PQ": "pq_mean_over_images",
    "mPQ": "mpq_mean_over_images",
    "mPQ+": "mpq_plus_pooled",
    "R2": "r2_mean_over_types",
}
DETECTION = {
    "precision": "detection_precision_pooled",
    "recall": "detection_recall_pooled",
    "Fd": "detection_f1_pooled",
}
COMPARISON = ("Dice", "AJI", "DQ", "SQ", "PQ", "mPQ")
TYPE_F1 = "type_f1_pooled/"
MISSING = "–"

UNTYPED = "true_nuclei_without_type"
MEAN_OVER_IMAGES = "_mean_over_images"

CAPTIONS = {
    "mPQ": "mPQ: over the types in the truth of an image (PanNuke).",
    "mPQ+": "mPQ+: counts pooled over images, then the mean over types (CoNIC).",
    "R2": "R2: of the number of nuclei per image, mean over types.",
}
"""What the caption adds about a column if the table has it."""
INTERVAL_CAPTION = "In brackets: 95 % bootstrap intervals over images; for a handful of images they are too narrow."
DEVIATION_CAPTION = "Means over the folds' results; after ±: standard deviation over the folds (n - 1)."
TISSUE_CAPTION = "Per tissue: means over its images. Last two rows: mean over images, mean over tissues."
BOLD_CAPTION = "Bold: the best of a data set's column."


def report(record: Mapping[str, Any]) -> str:
    """The tables of one results file, as Markdown.

    Args:
        record: of [`cfsam_hf.evaluation.results_record`], or a results file read back.
    """
    results = record["results"]
    folds = any("deviations" in result for result in results.values())
    spread = DEVIATION_CAPTION if folds else INTERVAL_CAPTION

    def table(title: str, columns: Mapping[str, str], caption: str) -> list[str]:
        rows = _score_rows(results, columns)
        # A single image has no intervals; their rows would be empty.
        spreads = any(cell for row in rows[1::2] for cell in row)
        lines = markdown_table([title, "images", "nuclei", *columns], rows if spreads else rows[::2])
        return [*lines, "", f"{caption} {spread}" if spreads else caption, ""]

    lines = [f"# {record['system']['name']}: {', '.join(results)} ({record['part']} tiles)", ""]
    columns = {
        label: key
        for label, key in SEGMENTATION.items()
        if any(key in result["scores"] for result in results.values())
    }
    lines += table("segmentation", columns, _segmentation_caption(columns))
    types = {f"F1 {name}": TYPE_F1 + name for result in results.values() for name in result["types"]}
    lines += table("detection", DETECTION | types, _detection_caption(bool(types)))
    for name, result in results.items():
        if reason := result.get("types_not_compared"):
            lines += [f"Types of {name} are not compared: {' '.join(reason.split())}.", ""]
        if note := _untyped_note(name, result):
            lines += [note, ""]
    for name, result in results.items():
        if len(result.get("tissues", {})) > 1:
            lines += [*_tissue_table(name, result), "", TISSUE_CAPTION, ""]
    return "\n".join(lines)


def comparison(records: Sequence[Mapping[str, Any]]) -> str:
    """One Markdown table of several results files, with a row per data set and system.

    Raises:
        ValueError: the files scored different tiles of a data set, so that they cannot be compared.
    """
    datasets = list(dict.fromkeys(name for record in records for name in record["results"]))
    types = list(
        dict.fromkeys(t for record in records for result in record["results"].values() for t in result["types"])
    )
    columns = {label: SEGMENTATION[label] for label in COMPARISON}
    columns |= {"Fd": DETECTION["Fd"]} | {f"F1 {name}": TYPE_F1 + name for name in types}
    present = {key for record in records for result in record["results"].values() for key in result["scores"]}
    columns = {label: key for label, key in columns.items() if key in present}
    rows, notes, bold = [], [], False
    for dataset in datasets:
        group = [(r["system"]["name"], r["results"][dataset]) for r in records if dataset in r["results"]]
        _check_same_tiles(dataset, group)
        cells = [[_number(result["scores"].get(key)) for key in columns.values()] for _, result in group]
        for column in range(len(columns)):
            values = [row[column] for row in cells if row[column] != MISSING]
            for row in cells:
                if len(values) > 1 and row[column] == max(values):
                    row[column], bold = f"**{row[column]}**", True
        rows += [[dataset, name, _images(result), *row] for (name, result), row in zip(group, cells, strict=True)]
        # The truth is the same for all systems, but the record of a system without types lacks this note.
        notes += [note for note in (_untyped_note(dataset, result) for _, result in group) if note][:1]
    table = markdown_table(["data set", "system", "images", *columns], rows)
    caption = _means_caption(columns)
    if "Fd" in columns:
        f1 = " and F1 of types" if any(key.startswith(TYPE_F1) for key in columns.values()) else ""
        caption += f" Fd (pairs of centroids within 3 um){f1}: counts pooled over images."
    caption += f" {BOLD_CAPTION}" if bold else ""
    return "\n".join([*table, "", caption, "", *(line for note in notes for line in (note, ""))])


def _segmentation_caption(columns: Mapping[str, str]) -> str:
    return " ".join([_means_caption(columns), *(CAPTIONS[label] for label in columns if label in CAPTIONS)])


def _detection_caption(typed: bool) -> str:
    f1 = " and F1 of each type" if typed else ""
    return (
        f"Detection (pairs of centroids within 3 um: 12 px at 40x){f1}: HoVer-Net's protocol, counts pooled over "
        "images."
    )


def _means_caption(columns: Mapping[str, str]) -> str:
    means = [label for label, key in columns.items() if key.endswith(MEAN_OVER_IMAGES)]
    listed = " and ".join(filter(None, [", ".join(means[:-1]), *means[-1:]]))
    return f"{listed}: means over images." if means else ""


def _untyped_note(name: str, result: Mapping[str, Any]) -> str | None:
    """A note about the nuclei that the scores of types leave out, if there are any."""
    count, true = result["scores"].get(UNTYPED), result["scores"]["true_nuclei"]
    if not count:
        return None
    return (
        f"{name}: true nuclei without a known type: {count:,} of {true:,}. Scores of types leave out these nuclei and "
        "the predictions that match them; all other scores count them."
    )


def _score_rows(results: Mapping[str, Mapping], columns: Mapping[str, str]) -> list[list[str]]:
    """A row of scores and a row of intervals per data set."""
    rows = []
    for name, result in results.items():
        scores, intervals = result["scores"], result.get("intervals", {})
        counts = [_images(result), f"{scores['true_nuclei']:,}"]
        rows.append([name, *counts, *(_number(scores.get(key)) for key in columns.values())])
        rows.append(["", "", "", *(_spread(result, intervals.get(key), key) for key in columns.values())])
    return rows


def _tissue_table(name: str, result: Mapping[str, Any]) -> list[str]:
    columns = {"Dice": "dice", "AJI": "aji", "PQ": "pq", "bPQ": "bpq", "mPQ": "mpq"}
    columns = {label: key for label, key in columns.items() if f"{key}_mean_over_images" in result["scores"]}

    def row(title: str, part: Mapping[str, Any], ending: str = "_mean_over_images") -> list[str]:
        deviations = part.get("deviations", {})
        values = [
            with_deviation(part["scores"].get(key + ending), deviations.get(key + ending)) for key in columns.values()
        ]
        return [title, _images(part), *values]

    rows = [row(tissue, part) for tissue, part in result["tissues"].items()]
    rows += [row("mean over images", result), row("mean over tissues", result, "_mean_over_tissues")]
    return markdown_table([f"{name}, by tissue", "images", *columns], rows)


def _check_same_tiles(dataset: str, group: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    (first, reference), *others = group
    for name, result in others:
        different = sorted(set(reference["tiles"]) ^ set(result["tiles"]))
        if different:
            raise ValueError(
                f"{first} and {name} were scored on different tiles of {dataset} (such as {different[0]}); evaluate "
                "both on the same ones to compare them"
            )


def _images(result: Mapping[str, Any]) -> str:
    return f"{result['scores']['images']:,}"


def _number(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}"


def _spread(result: Mapping[str, Any], interval: Sequence[float | None] | None, key: str) -> str:
    """The deviation over folds if there is one, else the interval."""
    if key in result.get("deviations", {}):
        return f"± {_number(result['deviations'][key])}"
    low, high = interval or (None, None)
    if low is None or high is None or math.isnan(low):
        return ""
    return f"[{low:.3f}, {high:.3f}]"


def with_deviation(value: float | None, deviation: float | None) -> str:
    """A score as tables print it, with its deviation if there is one."""
    text = _number(value)
    return text if deviation is None or text == MISSING else f"{text} ± {_number(deviation)}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        # An unescaped bar in a name would end its cell, and a tag would be one of the page.
        safe = (one_line(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        return "| " + " | ".join(safe) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
