"""The log of a run, one JSON object per line: for people, for the report, and for resuming."""

import json
from pathlib import Path
from typing import Any

from ..files.json_files import append_json_line, write_json_lines

LOG_NAME = "log.jsonl"


class RunLog:
    """`log.jsonl` in the folder of a run.

    A line holds `step` and either `loss`, its terms, rates and times (averages since the previous line), or
    `validation`, the scores by data set, or `left_out`, the crops of a skipped batch.

    Args:
        folder: of the run.
        last_step: lines of later steps are removed, because the resumed run writes them again.
    """

    def __init__(self, folder: Path, last_step: int):
        self.path = folder / LOG_NAME
        records = read_log(folder)
        kept = [record for record in records if record["step"] <= last_step]
        if self.path.exists():
            # Even if no line is removed: a killed process may have left half a line.
            write_json_lines(self.path, kept)

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line.

        Raises:
            OSError: the disk is full.
        """
        append_json_line(self.path, record)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, without an unfinished last line."""
    path = folder / LOG_NAME
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def validations(folder: Path) -> dict[int, dict[str, dict[str, Any]]]:
    """The scores of each validation so far, by step and data set."""
    return {record["step"]: record["validation"] for record in read_log(folder) if "validation" in record}


def validation_history(folder: Path, metric: str) -> dict[int, float]:
    """One score of each validation by step, averaged over the data sets; steps without a number are skipped."""
    found = {}
    for step, scores in validations(folder).items():
        values = [value for of_set in scores.values() if (value := of_set.get(metric)) is not None]
        if len(values) == len(scores):
            found[step] = sum(values) / len(values)
    return found
