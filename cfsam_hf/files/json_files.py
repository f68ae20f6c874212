"""JSON that every reader accepts: values that are not finite become null."""

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
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


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
        path: the file; an existing one is replaced.
        record: its content.
        indent: spaces per level. None: everything on one line.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as working:
        text = json.dumps(finite(dict(record)), indent=indent, allow_nan=False)
        working.write_text(text + "\n", encoding="utf-8")


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON Lines file, whole or not at all; an existing one is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as working:
        working.write_text("".join(_line(record) for record in records), encoding="utf-8")


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line to a JSON Lines file and waits until it has reached the disk.

    Raises:
        OSError: the line cannot be written. The file keeps its whole lines.
    """
    line = _line(record)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(size)
            raise


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(finite(dict(record)), allow_nan=False) + "\n"
