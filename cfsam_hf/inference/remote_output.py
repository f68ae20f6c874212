"""The results of slides in a folder behind a URL, such as `s3://bucket/study`, as [`RemoteFolder`] reaches it.

    .cfsam/regions/SLIDE/KEY/0003_0012.parquet   the regions of a slide that is not merged yet
    .cfsam/done/SLIDE.json                       what is known of a finished slide
    .cfsam/cluster-lock                          the run that writes here

The files of a slide are made in a temporary folder of the machine that merges it and then copied; `TARGET.parquet`
appears last and disappears first.
"""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

import pyarrow
import pyarrow.parquet

from ..files.json_files import finite
from ..files.remote_folder import RemoteFolder
from ..outputs.summary import SUMMARY_NAME, check_own_summary, write_summary
from ..slides.regions import Region
from .record import RECORDS_NAME, Entry
from .region_store import REGIONS_NAME, RegionStore, digest
from .sink import LAST_KIND, OUTPUT_KINDS
from .slide_sink import CLUSTER_LOCK, DEFAULT_SLIDE_KINDS, OTHER_RUN, SLIDE_KINDS, SlideNuclei, SlideSink
from .sources import Job

DONE = f"{RECORDS_NAME}/done"
TABLE_ENDING = SLIDE_KINDS[LAST_KIND].ending(0)


class RemoteRegionStore(RegionStore):
    """The region files of one slide in a remote folder; arguments are those of [`RegionStore`]."""

    def __init__(self, remote: RemoteFolder, target: PurePath, made_by: Mapping[str, Any]):
        self.remote = remote
        self._base = f"{RECORDS_NAME}/{REGIONS_NAME}/{digest(target.as_posix())}"
        self._key = digest(dict(made_by))

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[Self]:
        """Removes what is not kept; [`RemoteSlideSink.alone`] keeps other runs out of the whole folder."""
        for key in self.remote.names(self._base):
            if not (resume and key == self._key):
                self.remote.remove(f"{self._base}/{key}")
        yield self

    def name(self, region: Region) -> str:
        """The file of a region."""
        return f"{self._base}/{self._key}/{region.name}.parquet"

    def done(self, regions: Sequence[Region]) -> list[bool]:
        """Which regions' files are there."""
        present = set(self.remote.names(f"{self._base}/{self._key}"))
        return [f"{region.name}.parquet" in present for region in regions]

    def write(self, region: Region, table: pyarrow.Table) -> None:
        """Writes a region's file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        self.remote.write(self.name(region), buffer.getvalue())

    @contextmanager
    def at_hand(self, regions: Sequence[Region]) -> Iterator[RegionStore]:
        """Copies of the files in a temporary folder.

        Raises:
            OSError: one cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="cfsam-regions-") as folder:
            local = RegionStore(Path(folder), PurePath("slide"), {})
            local.folder.mkdir(parents=True)
            for region in regions:
                local.path(region).write_bytes(self.remote.read(self.name(region)))
            yield local

    def remove(self) -> None:
        """Removes the files of the slide, when its outputs are in place."""
        with suppress(OSError):
            self.remote.remove(self._base)


class RemoteSlideSink(SlideSink):
    """Writes the files of slides into a remote folder; arguments are those of [`SlideSink`]."""

    def __init__(self, remote: RemoteFolder, kinds: Sequence[str] = DEFAULT_SLIDE_KINDS):
        super().__init__(Path(), kinds)
        self.remote = remote

    @property
    def place(self) -> RemoteFolder:
        """The folder."""
        return self.remote

    def store(self, target: PurePath, made_by: Mapping[str, Any]) -> RegionStore:
        """Where the regions of a slide go until they are merged."""
        return RemoteRegionStore(self.remote, target, made_by)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs out of the folder.

        Raises:
            OSError: there is one, or the folder cannot be written to.
        """
        try:
            with self.remote.held(f"{RECORDS_NAME}/{CLUSTER_LOCK}"):
                yield
        except BlockingIOError as error:
            raise OSError(OTHER_RUN.format(self.remote)) from error

    def clean(self, targets: Iterable[PurePath]) -> None:
        """Does nothing: objects are whole, and temporary folders lie elsewhere."""

    def check(self, target: PurePath) -> None:
        """Makes sure that the results will overwrite nobody else's file: only those of a recorded slide are replaced.

        Raises:
            FileExistsError: there is such a file.
        """
        name = f"{target.as_posix()}{TABLE_ENDING}"
        if self.remote.size(name) is not None and self.remote.size(_done_name(target)) is None:
            raise FileExistsError(
                f"{self.remote.path(name)} exists and is not recorded as a result of cfsam; choose another folder "
                "with -o"
            )

    def write(self, nuclei: SlideNuclei, target: PurePath) -> dict[str, Path | str]:
        """Writes the files of a slide; `TARGET.parquet` appears last.

        Args:
            nuclei: of the slide.
            target: the common beginning of the files, relative to the folder.

        Returns:
            The URLs of the files by kind.

        Raises:
            OSError: a file cannot be written, or the slide can no longer be read.
        """
        names: dict[str, Path | str] = {}
        with tempfile.TemporaryDirectory(prefix="cfsam-slide-") as folder:
            files = SlideSink(Path(folder), self.kinds).write(nuclei, PurePath(target.name))
            present = {name.removeprefix(target.name) for name in self.remote.names(target.parent.as_posix())}
            endings = [*self._endings(SLIDE_KINDS), *(kind.ending for kind in OUTPUT_KINDS.values())]
            for ending in sorted(present.intersection(endings), key=lambda ending: ending != TABLE_ENDING):
                self.remote.remove(f"{target.as_posix()}{ending}")
            for kind, path in sorted(files.items(), key=lambda item: item[0] == LAST_KIND):
                name = (target.parent / Path(path).name).as_posix()
                self.remote.put(Path(path), name)
                names[kind] = self.remote.path(name)
        return names


class RemoteRecord:
    """What is done in a remote folder, as [`cfsam_hf.inference.record.RunRecord`] keeps it of a local one.

    Args:
        remote: the folder.

    Raises:
        FileExistsError: the folder has a `summary.csv` that this package did not write.
        OSError: the folder cannot be reached.
    """

    def __init__(self, remote: RemoteFolder):
        self.remote = remote
        self.summary = remote.path(SUMMARY_NAME)
        self.images: list[str] = []
        self.entries: list[Entry] = []
        with suppress(FileNotFoundError), tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / SUMMARY_NAME
            copy.write_bytes(remote.read(SUMMARY_NAME))
            try:
                check_own_summary(copy)
            except FileExistsError as error:
                raise FileExistsError(str(error).replace(str(copy), self.summary)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Sizes of all files when the run began."""
        return self.remote.sizes("")

    def is_current(self, job: Job, made_by: Mapping[str, Any]) -> bool:
        """Whether a slide's results are complete and current."""
        entry = self._entry(_done_name(job.target))
        return entry is not None and _is_whole(entry, self._sizes) and entry.fits(job, made_by)

    def add(
        self,
        job: Job,
        source: Mapping[str, Any],
        made_by: Mapping[str, Any],
        files: Iterable[Path | str],
        rows: Sequence[Mapping[str, Any]],
        seconds: float | None = None,
    ) -> None:
        """Adds a slide whose files are in place; arguments and errors are those of `RunRecord.add`."""
        names = [str(file).removeprefix(f"{self.remote.url}/") for file in files]
        sizes = {name: self.remote.size(name) or 0 for name in names}
        entry = Entry.of(job, source, made_by, sizes, rows, seconds)
        text = json.dumps(finite(asdict(entry)), allow_nan=False)
        self.remote.write(_done_name(job.target), text.encode())

    def finish(self) -> None:
        """Writes the summary of every slide whose results are in the folder.

        Raises:
            OSError: the summary cannot be written.
        """
        sizes = self.remote.sizes("")
        found = [self._entry(name) for name in sorted(sizes) if name.startswith(f"{DONE}/")]
        whole = sorted(
            (entry for entry in found if entry is not None and _is_whole(entry, sizes)), key=lambda e: e.target
        )
        if whole:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / SUMMARY_NAME
                write_summary((row for entry in whole for row in entry.rows), path)
                self.remote.put(path, SUMMARY_NAME)
        self.entries = whole
        self.images = list(dict.fromkeys(entry.image for entry in whole))

    def _entry(self, name: str) -> Entry | None:
        """The entry of a file, None if it is missing or damaged."""
        try:
            return Entry.parse(self.remote.read(name).decode())
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return None


def _done_name(target: PurePath) -> str:
    return f"{DONE}/{digest(target.as_posix())}.json"


def _is_whole(entry: Entry, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(name) == size for name, size in entry.files.items())
