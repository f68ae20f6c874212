"""Records what has been done in an output folder; each run has its own record, which is merged with the others.

Several runs may write into one folder at the same time, on several machines too. Each appends to a file of its own,
and every run that ends merges all records and writes the summary under a lock, so that the summary is complete
whichever run ends last.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

from ..files.disk import locked
from ..files.json_files import append_json_line, write_json_lines
from ..outputs.summary import SUMMARY_NAME, check_own_summary, write_summary
from .sources import Job, file_digest

RECORDS_NAME = ".cfsam"
"""The hidden folder of the records in the output folder."""

MERGED_NAME, LOCK_NAME = "done.jsonl", "lock"
# The single record of all runs that version 0.1.0 wrote.
FORMER_NAME = ".cfsam-done.jsonl"


@dataclass(frozen=True)
class Entry:
    """An image whose results are complete.

    Attributes:
        target: the common beginning of its outputs, relative to the output folder.
        image: its name in the outputs.
        source: its fingerprint before it was read.
        made_by: version, checkpoint and options.
        files: sizes in bytes of its files, by their paths relative to the output folder.
        rows: its rows of the summary.
        finished: when the files were in place, in seconds since 1970.
        seconds: of work on the image, None if that was not measured.
    """

    target: str
    image: str
    source: dict[str, Any]
    made_by: dict[str, Any]
    files: dict[str, int]
    rows: list[dict[str, Any]]
    finished: float = 0.0
    seconds: float | None = None

    @classmethod
    def parse(cls, line: str) -> Self:
        """An entry from its line in a record.

        Raises:
            ValueError, TypeError, KeyError: the line is damaged.
        """
        values = json.loads(line)
        rows = [dict(row) for row in values["rows"]]
        files = {str(name): int(size) for name, size in values["files"].items()}
        image = values.get("image", rows[0]["image"] if rows else values["target"])
        target = PurePath(values["target"])
        if target.is_absolute() or ".." in target.parts:
            raise ValueError(f"{target} leads out of the folder")
        finished = float(values.get("finished", 0.0))
        seconds = values.get("seconds")
        made = dict(values["source"]), dict(values["made_by"]), files, rows, finished
        return cls(str(values["target"]), str(image), *made, None if seconds is None else float(seconds))

    @classmethod
    def of(
        cls,
        job: Job,
        source: Mapping[str, Any],
        made_by: Mapping[str, Any],
        files: dict[str, int],
        rows: Sequence[Mapping[str, Any]],
        seconds: float | None,
    ) -> Self:
        """The entry of an image whose files are in place as of now; arguments as the attributes."""
        name, copies = job.source.name, [dict(row) for row in rows]
        return cls(job.target.as_posix(), name, dict(source), dict(made_by), files, copies, time.time(), seconds)

    def fits(self, job: Job, made_by: Mapping[str, Any]) -> bool:
        """Whether the image has not changed, and version, checkpoint and options are the same."""
        same = self.image == job.source.name and self.made_by == json.loads(json.dumps(dict(made_by)))
        return same and job.source.matches(self.source)

    def is_whole(self, folder: Path) -> bool:
        """Whether each file exists with its recorded size."""
        try:
            return all((folder / name).stat().st_size == size for name, size in self.files.items())
        except OSError:
            return False


class RunRecord:
    """The record of one run, with what earlier runs into the same folder have done.

    As a context manager it ends the run with [`finish`], whatever ended the block.

    Args:
        folder: the output folder.

    Raises:
        FileExistsError: the folder has a `summary.csv` that this package did not write.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.summary = folder / SUMMARY_NAME
        check_own_summary(self.summary)
        self.images: list[str] = []
        """The images in the summary, known when the run has finished."""
        self.entries: list[Entry] = []
        """What is complete in the folder, known when the run has finished."""
        self._own = folder / RECORDS_NAME / f"run-{uuid.uuid4().hex}.jsonl"
        self._entries = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def add(
        self,
        job: Job,
        source: Mapping[str, Any],
        made_by: Mapping[str, Any],
        files: Iterable[Path | str],
        rows: Sequence[Mapping[str, Any]],
        seconds: float | None = None,
    ) -> None:
        """Adds an image whose files are in place.

        Args:
            job: the image and the name of its results.
            source: the image's fingerprint from before it was read.
            made_by: version, checkpoint and options.
            files: the files written.
            rows: the image's rows of the summary.
            seconds: of work on the image, None if that was not measured.

        Raises:
            OSError: the record cannot be written.
        """
        paths = list(map(Path, files))
        sizes = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}
        entry = Entry.of(job, source, made_by, sizes, rows, seconds)
        self._own.parent.mkdir(exist_ok=True)
        append_json_line(self._own, asdict(entry))
        self._entries[entry.target] = entry

    def is_current(self, job: Job, made_by: Mapping[str, Any]) -> bool:
        """Whether an image's results are complete and current, so that segmenting it again would give the same.

        This holds if the image has not changed; version, checkpoint and options are the same; and each file exists
        with its recorded size.
        """
        entry = self._entries.get(job.target.as_posix())
        return entry is not None and entry.is_whole(self.folder) and entry.fits(job, made_by)

    def other_targets(self, job: Job) -> list[PurePath]:
        """Other names under which an earlier run wrote the results of the same image."""
        target = job.target.as_posix()
        return [
            PurePath(entry.target)
            for entry in self._entries.values()
            if entry.image == job.source.name and entry.target != target
        ]

    def finish(self) -> None:
        """Merges the records of all runs and writes the summary of every image whose results are in the folder.

        Raises:
            OSError: the summary or the record cannot be written.
        """
        if not (self._entries or self._own.exists()):
            return
        records = self._own.parent
        records.mkdir(exist_ok=True)
        with locked(records / LOCK_NAME, wait=True):
            self._entries = self._read()
            whole = [entry for _, entry in sorted(self._entries.items()) if entry.is_whole(self.folder)]
            if whole:
                write_summary((row for entry in whole for row in entry.rows), self.summary)
            write_json_lines(records / MERGED_NAME, map(asdict, whole))
            self._own.unlink(missing_ok=True)
            (self.folder / FORMER_NAME).unlink(missing_ok=True)
        self.entries = whole
        self.images = list(dict.fromkeys(entry.image for entry in whole))

    def _read(self) -> dict[str, Entry]:
        """The last complete entry for each target, of all runs."""
        records = self.folder / RECORDS_NAME
        paths = [self.folder / FORMER_NAME, *sorted(records.glob("*.jsonl"))]
        entries: dict[str, Entry] = {}
        for entry in sorted((entry for path in paths for entry in _entries_of(path)), key=lambda e: e.finished):
            known = entries.get(entry.target)
            # Of two runs that did the same image at the same time, the one whose files were replaced is outdated.
            if known is None or entry.is_whole(self.folder) or not known.is_whole(self.folder):
                entries[entry.target] = entry
        return entries


def _entries_of(path: Path) -> Iterator[Entry]:
    """The entries of a record; lines that a crash has cut short or damaged are skipped."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            yield Entry.parse(line)


def checkpoint_identity(pipe: Any) -> str:
    """What identifies a pipeline's checkpoint: the content of its files, or its commit on the Hub."""
    model = getattr(pipe, "model", None)
    folder = Path(str(getattr(model, "name_or_path", "") or ""))
    # The card may change without any change of the results.
    files = [file for pattern in ("*.json", "*.safetensors") for file in folder.glob(pattern)]
    if str(folder) != "." and files:
        return " ".join(f"{file.name}:{file_digest(file)}" for file in sorted(files))
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return f"{os.fspath(folder)}@{commit or 'unknown'}"
