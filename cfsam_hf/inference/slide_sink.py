"""Writes the files of a slide from a stream of its nuclei, all of them or none."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow

from ..drawing.density_maps import DensityMaps
from ..drawing.overview import overview_size, write_overview
from ..files.atomic import staged_folder
from ..files.disk import LockUnavailableError, locked
from ..files.json_files import write_json
from ..files.local_folder import LocalFolder
from ..files.remote_folder import RemoteFolder
from ..files.stage import clean_up
from ..outputs.label_pyramid import write_label_pyramid
from ..outputs.slide_geojson import slide_geojson_ending, write_slide_geojson
from ..outputs.slide_table import write_slide_table
from ..slides import tissue_geojson
from ..slides.overview import ASSUMED_MPP, read_overview
from .record import RECORDS_NAME
from .region_store import RegionStore
from .sink import LAST_KIND, OUTPUT_KINDS, check_replaceable, chosen_kinds, is_own_or_blank, is_replaceable
from .slide_plan import SlidePlan

CLUSTER_LOCK = "cluster-lock"
OTHER_RUN = (
    "{}: another run on a cluster writes into this folder; wait until it ends, or choose another folder with -o"
)
# Shown below the density maps of the types.
TYPES_NOTE = "Types are reliable only in the tissue that the checkpoint learned them from: for cfsam-tiny, colon."


@dataclass(frozen=True)
class SlideNuclei:
    """The nuclei of a slide, to be written.

    Attributes:
        plan: of the slide.
        record: the provenance record.
        batches: each call yields all nuclei, from the first to the last.
    """

    plan: SlidePlan
    record: Mapping[str, Any]
    batches: Callable[[], Iterator[pyarrow.RecordBatch]]


@dataclass(frozen=True)
class SlideKind:
    """A file that is written for each slide.

    Attributes:
        ending: what follows the slide's target in its name, from the number of nuclei.
        write: writes the nuclei to a path.
    """

    ending: Callable[[int], str]
    write: Callable[[SlideNuclei, Path], object]


def _write_overview(nuclei: SlideNuclei, path: Path) -> None:
    plan, record = nuclei.plan, nuclei.record
    width, _ = overview_size(plan.size, len(plan.type_names))
    side = ASSUMED_MPP if plan.pixel_size is None else plan.pixel_size.x
    with plan.source.open() as slide:
        picture = read_overview(slide, side * plan.size[0] / width)
    maps = DensityMaps(plan.size, [kind["id"] for kind in record["types"]]).add_all(nuclei.batches())
    write_overview(picture, plan.tissue.mask, maps, record, path, TYPES_NOTE if plan.type_names else None)


def _write_tissue(nuclei: SlideNuclei, path: Path) -> None:
    # The record comes first, so that the file is recognised as ours by its beginning.
    write_json(path, {"metadata": dict(nuclei.record), **tissue_geojson(nuclei.plan.tissue)}, indent=None)


SLIDE_KINDS: dict[str, SlideKind] = {
    "geojson": SlideKind(slide_geojson_ending, lambda n, path: write_slide_geojson(n.batches(), path, n.record)),
    "tissue": SlideKind(lambda count: "_tissue.geojson", _write_tissue),
    "overview": SlideKind(lambda count: "_overview.png", _write_overview),
    "labels": SlideKind(
        lambda count: "_labels.ome.tif", lambda n, path: write_label_pyramid(n.batches(), path, n.record)
    ),
    "table": SlideKind(
        lambda count: ".parquet", lambda n, path: write_slide_table(n.batches(), n.plan.schema, path, n.record)
    ),
}
"""All that can be written for a slide, by kind."""

DEFAULT_SLIDE_KINDS = ("geojson", "tissue", "overview", "table")


class SlideSink:
    """Writes the files of slides into a folder.

    The files of a slide appear together and replace those of an earlier run; `TARGET.parquet` appears last and
    disappears first.

    Args:
        folder: the output folder.
        kinds: what to write, of `SLIDE_KINDS`; the table is always written.

    Raises:
        ValueError: there is no such kind.
    """

    def __init__(self, folder: Path, kinds: Sequence[str] = DEFAULT_SLIDE_KINDS):
        self.folder = folder
        self.kinds = chosen_kinds(kinds, SLIDE_KINDS)

    @property
    def place(self) -> LocalFolder | RemoteFolder:
        """The folder, to read and write files that belong to no single slide."""
        return LocalFolder(self.folder)

    def store(self, target: PurePath, made_by: Mapping[str, Any]) -> RegionStore:
        """Where the regions of a slide go until they are merged; arguments as for [`RegionStore`]."""
        return RegionStore(self.folder, target, made_by)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs on a cluster out of the folder.

        Raises:
            OSError: there is one, or the folder cannot be written to.
        """
        records = self.folder / RECORDS_NAME
        records.mkdir(parents=True, exist_ok=True)
        try:
            with locked(records / CLUSTER_LOCK, wait=False):
                yield
        except LockUnavailableError as error:
            raise OSError(OTHER_RUN.format(self.folder)) from error

    def clean(self, targets: Iterable[PurePath]) -> None:
        """Removes what killed processes have left beside the results of these targets."""
        for folder in {self.folder / target.parent for target in targets}:
            clean_up(folder)

    def check(self, target: PurePath) -> None:
        """Makes sure that the results will overwrite nobody else's file.

        Raises:
            FileExistsError, IsADirectoryError: there is such a file or folder.
        """
        for ending in self._endings(self.kinds):
            path = self._path(target, ending)
            check_replaceable(path, partial(is_own_or_blank, path))

    def write(self, nuclei: SlideNuclei, target: PurePath) -> Mapping[str, Path | str]:
        """Writes the files of a slide, all of them or none.

        Args:
            nuclei: of the slide.
            target: the common beginning of the files, relative to the folder.

        Returns:
            The files by kind.

        Raises:
            OSError: a file cannot be written, or the slide can no longer be read.
        """
        count = nuclei.record["nuclei"]
        files = {kind: self._path(target, SLIDE_KINDS[kind].ending(count)) for kind in self.kinds}
        former = {self._path(target, ending): "table" for ending in self._endings(SLIDE_KINDS)}
        former |= {self._path(target, kind.ending): name for name, kind in OUTPUT_KINDS.items()}
        removed = [
            path.name
            for path, kind in former.items()
            if path not in files.values() and path.is_file() and is_replaceable(path, kind)
        ]
        with staged_folder(self.folder / target.parent, last=files[LAST_KIND].name, removed=removed) as stage:
            for kind, path in files.items():
                SLIDE_KINDS[kind].write(nuclei, stage / path.name)
        return files

    def _path(self, target: PurePath, ending: str) -> Path:
        return self.folder / target.parent / f"{target.name}{ending}"

    def _endings(self, kinds: Sequence[str] | Mapping[str, SlideKind]) -> list[str]:
        """All endings that files of these kinds can have."""
        return [ending for kind in kinds for ending in dict.fromkeys(SLIDE_KINDS[kind].ending(n) for n in (0, 10**9))]
