"""Segments one slide from Python, as `cfsam segment` does."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import pyarrow.parquet

from ..files.writable import check_writable
from ..model import DEFAULT_MODEL, TASK
from ..outputs.table import METADATA_KEY
from .record import RunRecord
from .run import Failed
from .slide_plan import WhereToLook
from .slide_run import SlideDone, run_slides
from .slide_sink import DEFAULT_SLIDE_KINDS, SLIDE_KINDS, SlideSink
from .slide_source import SlideSource
from .sources import Job

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SlideResult:
    """
    The files of a segmented slide.

    Attributes:
        files: by kind: `table` (GeoParquet), `geojson`, `tissue`, `overview` and, if requested, `labels`.
        record: number of nuclei, pixel size, area of the tissue, types, checkpoint and version.
    """

    files: Mapping[str, Path]
    record: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.record["nuclei"])

    def table(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """
        Reads the nuclei, one row each, in pixels of level 0. For the polygons, `geopandas.read_parquet` reads
        `files["table"]`.

        Args:
            columns: only these; default: all but the polygons, which are large.
        """
        with open(self.files["table"], "rb") as file:
            names = pyarrow.parquet.read_schema(file).names
            wanted = [name for name in names if name not in ("geometry", "bbox")] if columns is None else list(columns)
            frame: pd.DataFrame = pyarrow.parquet.read_table(file, columns=wanted).to_pandas()
        return frame


def segment_slide(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    pipe: Any = None,
    mpp: float | None = None,
    tissue: str | os.PathLike[str] | None = None,
    roi: str | os.PathLike[str] | None = None,
    exclude: str | os.PathLike[str] | None = None,
    labels: bool = False,
    resume: bool = False,
    **options: Any,
) -> SlideResult:
    """
    Segments a whole slide, region by region, into files.

    Example:

    ```python
    >>> import cfsam_hf

    >>> result = cfsam_hf.segment_slide("slide.svs", "out")
    >>> result.table(["type_name", "x", "y", "area_um2"])
    ```

    Args:
        path: the slide's file.
        output: folder of the results; created if needed.
        pipe: a nuclei-segmentation pipeline; default: one with `cfsam-tiny`, on a GPU if there is one.
        mpp: micrometres per pixel of level 0, in place of what the file states.
        tissue: `"auto"`, `"all"`, or a mask image or GeoJSON file; default: `"auto"`, or `"all"` with `roi`.
        roi, exclude: annotations (GeoJSON as QuPath exports it) to keep nuclei in, or to leave nuclei out of.
        labels: whether to write the label map too, as a pyramid (OME-TIFF).
        resume: whether to reuse what an earlier run with the same arguments finished.
        options: of the pipeline's call: `threshold`, `views`, `batch_size`, `autocast_dtype`, `decoding`, `tile_size`,
            `tile_overlap`.

    Raises:
        OSError, ValueError: the slide cannot be read, states no pixel size, or has no tissue; the message names it.
    """
    path, output = Path(path), Path(output)
    check_writable(output)
    if pipe is None:
        from transformers import pipeline

        # By name, since transformers comments on a default.
        pipe = pipeline(TASK, model=str(DEFAULT_MODEL))
    job = Job(SlideSource(path, path.name, mpp), PurePath(path.stem))
    kinds = [*DEFAULT_SLIDE_KINDS, *(["labels"] if labels else [])]
    where = WhereToLook(_given(tissue), _given(roi), _given(exclude))
    sink = SlideSink(output, kinds)
    files: Mapping[str, Path] = {}
    with RunRecord(output) as record:
        for outcome in run_slides([job], pipe, sink, record, {"mpp": mpp, **options}, where=where, resume=resume):
            if isinstance(outcome, Failed):
                raise outcome.error
            if isinstance(outcome, SlideDone):
                files = {kind: Path(path) for kind, path in outcome.files.items()}
    if not files:
        # An earlier run completed the slide.
        count = _record(output / f"{path.stem}.parquet")["nuclei"]
        files = {kind: output / f"{path.stem}{SLIDE_KINDS[kind].ending(count)}" for kind in sink.kinds}
    return SlideResult(files, _record(files["table"]))


def _given(value: str | os.PathLike[str] | None) -> Any:
    """`"auto"` and `"all"` as they are, a file as a path."""
    return value if value is None or value in ("auto", "all") else Path(value)


def _record(table: Path) -> dict[str, Any]:
    with open(table, "rb") as file:
        record: dict[str, Any] = json.loads(pyarrow.parquet.read_schema(file).metadata[METADATA_KEY])
    return record
