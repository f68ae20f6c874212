"""JSON that every reader accepts: values that are not finite become null; files are written whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from .atomic import atomic_path


def finite(value: Any) -> Any:
    """The value with every NaN and infinity in it replaced by None.

    >>> finite({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, record: dict) -> None:
    """Writes a file, whole or not at all."""
    with atomic_path(path) as working:
        working.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_json_line(path: Path, record: dict) -> None:
    """Adds a line to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(finite(record), allow_nan=False) + "\n")
