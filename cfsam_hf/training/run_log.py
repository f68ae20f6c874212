"""The record of a run: one JSON object a line, for people, for the report, and to go on from."""

import json
from pathlib import Path
from typing import Any

from ..files.json_files import append_json_line, write_json_lines

LOG_NAME = "log.jsonl"


class RunLog:
    """`log.jsonl` in the folder of a run.

    Lines hold `step` and either `loss`, its terms, rates and times (averages since the line before), or `validation`,
    the scores by data set, or `left_out`, the crops of a batch that was left out.

    Args:
        folder: of the run.
        last_step: what the file says of later steps is dropped: a run that goes on writes it again.
    """

    def __init__(self, folder: Path, last_step: int):
        self.path = folder / LOG_NAME
        records = read_log(folder)
        kept = [record for record in records if record["step"] <= last_step]
        if self.path.exists():
            # Also when nothing is dropped: a killed process may have left half a line.
            write_json_lines(self.path, kept)

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line.

        Raises:
            OSError: the disk is full.
        """
        append_json_line(self.path, record)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run; an unfinished last line does not count."""
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
    """One score of each validation by step, mean over the data sets; steps where it is not a number are left out."""
    found = {}
    for step, scores in validations(folder).items():
        values = [of_set.get(metric) for of_set in scores.values()]
        if None not in values:
            found[step] = sum(values) / len(values)
    return found
