"""What `cfsam segment` has done in a folder: read again by `--resume`, and by every run for its summary."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from ..files.atomic import atomic_path
from ..files.json_files import append_json_line

# Lies in the folder of the results; a line for each image, of which the last counts.
RECORD_NAME = ".cfsam-done.jsonl"
CHUNK = 2**20
# What a checkpoint's results depend on; its card may change.
CHECKPOINT_FILES = ("*.json", "*.safetensors")


class DoneRecord:
    """The images whose results lie in a folder.

    A line is added when all files of an image are in place, so an interrupted run leaves nothing in it that is not
    complete; a line that was cut short by a crash is passed over.

    Args:
        output: the folder of the results.
    """

    def __init__(self, output: Path):
        self.output = output
        self.path = output / RECORD_NAME
        self._entries: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                self._entries[entry["target"]] = entry
        if len(lines) != len(self._entries):
            # Superseded lines and damaged ones, to which nothing may be appended.
            with atomic_path(self.path) as working:
                for entry in self._entries.values():
                    append_json_line(working, entry)
                working.touch()

    def add(
        self,
        target: PurePath,
        source: Mapping[str, Any],
        made_by: Mapping[str, Any],
        files: Iterable[Path],
        rows: list[dict[str, Any]],
    ) -> None:
        """Notes an image whose files are in place.

        Args:
            target: the files' common beginning, relative to the folder.
            source: what [`fingerprint`] said of the image before it was read.
            made_by: version, checkpoint and options.
            files: the files written.
            rows: the image's rows of the summary.
        """
        sizes = {file.relative_to(self.output).as_posix(): file.stat().st_size for file in files}
        entry = {
            "target": target.as_posix(),
            "source": dict(source),
            "made_by": dict(made_by),
            "files": sizes,
            "rows": rows,
        }
        self._entries[entry["target"]] = entry
        append_json_line(self.path, entry)

    def is_current(self, target: PurePath, path: Path, made_by: Mapping[str, Any]) -> bool:
        """Whether an image's results are complete, and doing it again would give the same.

        So it is if the image has the same size and time of change, or the same content; version, checkpoint and
        options are the same; and each file is there in its size.
        """
        entry = self._entries.get(target.as_posix())
        if entry is None or entry["made_by"] != json.loads(json.dumps(dict(made_by))) or not self._is_whole(entry):
            return False
        try:
            status = path.stat()
            source = entry["source"]
            if status.st_size != source["size"]:
                return False
            return status.st_mtime_ns == source["mtime_ns"] or content_digest(path) == source["digest"]
        except (OSError, KeyError):
            return False

    def rows(self, present: Iterable[PurePath] = ()) -> list[dict[str, Any]]:
        """Rows of the summary of all images whose files are in place, those of `present` first and in its order."""
        order = {target.as_posix(): None for target in present} | dict.fromkeys(sorted(self._entries))
        entries = [self._entries[target] for target in order if target in self._entries]
        return [row for entry in entries if self._is_whole(entry) for row in entry["rows"]]

    def _is_whole(self, entry: Mapping[str, Any]) -> bool:
        try:
            return all((self.output / name).stat().st_size == size for name, size in entry["files"].items())
        except OSError:
            return False


def fingerprint(path: Path) -> dict[str, Any]:
    """Size, time of change and content of a file, to be compared later; empty for what is no regular file.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return {}
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": content_digest(path)}


def content_digest(path: Path) -> str:
    """128 bits of BLAKE2 of a file's content, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def checkpoint_identity(pipe: Any) -> str:
    """What tells a pipeline's checkpoint from any other: its files' content, or its commit on the Hub."""
    model = getattr(pipe, "model", None)
    config = getattr(model, "config", None)
    folder = Path(str(getattr(model, "name_or_path", "") or ""))
    files = [file for pattern in CHECKPOINT_FILES for file in folder.glob(pattern)] if str(folder) != "." else []
    if files:
        return " ".join(f"{file.name}:{content_digest(file)}" for file in sorted(files))
    commit = getattr(config, "_commit_hash", None)
    return f"{os.fspath(folder)}@{commit or 'unknown'}"
