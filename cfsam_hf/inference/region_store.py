"""The files of finished regions, hidden in the output folder until they are merged.

    OUT/.cfsam/regions/SLIDE/KEY/0003_0012.parquet

SLIDE is a digest of the name of the slide's outputs, and KEY one of everything that its nuclei depend on: the content
of the file, the checkpoint, the version, the options, the tissue. Each file is written completely or not at all, so a
killed run can be resumed from the files that exist.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Self

import pyarrow
import pyarrow.parquet

from ..files.atomic import atomic_path
from ..files.disk import LockUnavailableError, locked
from ..files.stage import clean_up
from ..slides.regions import Region
from .record import RECORDS_NAME

REGIONS_NAME = "regions"


def digest(value: Any) -> str:
    """A 128-bit BLAKE2 digest of a JSON-able value, in hexadecimal."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RegionStore:
    """The region files of one slide. A small object that can be pickled.

    Args:
        output: the output folder.
        target: the common beginning of the slide's outputs, relative to the output folder.
        made_by: everything that the nuclei depend on, as JSON-able values.
    """

    def __init__(self, output: Path, target: PurePath, made_by: Mapping[str, Any]):
        self.base = output / RECORDS_NAME / REGIONS_NAME / digest(target.as_posix())
        self.folder = self.base / digest(dict(made_by))

    @contextmanager
    def held(self, *, resume: bool) -> Iterator[Self]:
        """Creates the folder and locks other runs out of it.

        Args:
            resume: whether to keep the files of an earlier run.

        Raises:
            OSError: another run is segmenting the same slide into the same folder, or the folder is not writable.
        """
        self.base.mkdir(parents=True, exist_ok=True)
        lock = self.base / "lock"
        try:
            with locked(lock, wait=False):
                for entry in self.base.iterdir():
                    if entry != lock and not (resume and entry == self.folder):
                        shutil.rmtree(entry, ignore_errors=True)
                self.folder.mkdir(exist_ok=True)
                clean_up(self.folder)
                yield self
        except LockUnavailableError as error:
            raise OSError("another run is segmenting this slide into the same folder; wait until it ends") from error

    def path(self, region: Region) -> Path:
        """The file of a region."""
        return self.folder / f"{region.name}.parquet"

    def has(self, region: Region) -> bool:
        """Whether the region's file exists and can be read."""
        path = self.path(region)
        try:
            with open(path, "rb") as file:
                pyarrow.parquet.read_metadata(file)
        except (OSError, pyarrow.ArrowException):
            return False
        return True

    def done(self, regions: Sequence[Region]) -> list[bool]:
        """Which regions' files are there and can be read."""
        return [self.has(region) for region in regions]

    @contextmanager
    def at_hand(self, regions: Sequence[Region]) -> Iterator["RegionStore"]:
        """The files of these regions where reading them again and again takes no time.

        Raises:
            OSError: one cannot be read.
        """
        yield self

    def write(self, region: Region, table: pyarrow.Table) -> None:
        """Writes a region's file, completely or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with atomic_path(self.path(region)) as working, open(working, "wb") as file:
            pyarrow.parquet.write_table(table, file, compression="zstd")

    def read(self, region: Region, columns: list[str] | None = None) -> pyarrow.Table:
        """Reads the rows of a region's file, with all or some of their columns.

        Raises:
            OSError: it cannot be read.
        """
        with open(self.path(region), "rb") as file:
            return pyarrow.parquet.read_table(file, columns=columns)

    def remove(self) -> None:
        """Removes the slide's region files, once its outputs are in place."""
        shutil.rmtree(self.base, ignore_errors=True)
