"""JSON that every reader accepts: values that are not finite become null; files are written whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any


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
    """Writes a file, to a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def append_json_line(path: Path, record: dict) -> None:
    """Adds a line to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(finite(record), allow_nan=False) + "\n")
