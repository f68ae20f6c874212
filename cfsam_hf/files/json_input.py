"""Reads JSON files of other programs; every error names the file and says what is wrong."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import IO, Any

from .archives import naming_archive
from .regular_file import check_regular

MOST_UNPACKED = 2**30
"""Bytes of text that a compressed file may hold."""

MOST_EXPANSION = 200
"""Compressed outlines expand 5 to 30 times; a small file that expands much more is probably an attack on memory."""

FREE_EXPANSION = 2**26
CHUNK = 2**16

ENDINGS = (".json", ".geojson", ".ndjson", ".geojsonl", ".geojsons")
RECORD_SEPARATOR = "\x1e"
"""Begins each line of a GeoJSON text sequence (RFC 8142)."""


def read_json(path: Path) -> Any:
    """Reads a JSON file, which may be compressed by gzip, or alone in a ZIP archive.

    A file with an object on each line (NDJSON, as TIAToolbox writes it, and GeoJSON text sequences) gives their list.

    Raises:
        OSError: the file is missing, truncated, not JSON, or nested too deeply.
        ValueError: a compressed file expands too much, or an archive holds several JSON files.
    """
    content = _unpacked(path)
    try:
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if (lines := _objects(text)) is None:
                raise
            return lines
    except RecursionError as error:
        raise OSError(f"{path}: not a JSON file that can be read (nested too deeply)") from error
    except ValueError as error:  # syntax, bytes that are not text, numbers of too many digits
        raise OSError(f"{path}: not a JSON file that can be read, or truncated ({error})") from error


def _objects(text: str) -> list[Any] | None:
    """The objects of a text with one on each line; None for any other text."""
    lines = [line.strip(f"{RECORD_SEPARATOR} \t\r") for line in text.split("\n")]
    lines = [line for line in lines if line]
    # The first line decides, so that the error of a damaged file is that of the whole file.
    is_sequence = len(lines) > 1 or text.startswith(RECORD_SEPARATOR)
    if not is_sequence or not (lines[0].startswith("{") and lines[0].endswith("}")):
        return None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"object {number}: {error}") from error
    return found


def _unpacked(path: Path) -> bytes:
    check_regular(path)
    size = path.stat().st_size
    limit = min(MOST_UNPACKED, max(FREE_EXPANSION, MOST_EXPANSION * size))
    with naming_archive(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as unpacked:
                content = _read_some(unpacked, limit + 1)
        elif magic == b"PK\3\4":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(ENDINGS)]
                names = [name for name in names if not name.startswith("__MACOSX")]
                if len(names) != 1:
                    raise ValueError(f"{path}: the archive holds {len(names)} JSON files; it must hold one")
                with archive.open(names[0]) as unpacked:
                    content = _read_some(unpacked, limit + 1)
        else:
            return path.read_bytes()
    if len(content) > limit:
        raise ValueError(f"{path}: unpacks to more than {limit:,} bytes, too much for a file of {size:,}")
    return content


def _read_some(file: IO[bytes] | gzip.GzipFile, most: int) -> bytes:
    """Reads at most so many bytes; a buffered file that is asked for them at once allocates all of them at once."""
    chunks: list[bytes] = []
    while most > 0 and (chunk := file.read(min(most, CHUNK))):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)
