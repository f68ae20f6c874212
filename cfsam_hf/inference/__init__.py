"""Images through a pipeline into files, without printing: jobs as data, a sink, a record of what is done.

[`collect_images`] turns files, folders and patterns into jobs, [`run_jobs`] yields an outcome for each, [`FileSink`]
writes the files of an image, and [`RunRecord`] keeps what is done and writes the summary.
"""

from .backends import BACKENDS, use_backend
from .collect import Collection, collect_images
from .placements import place_jobs, placement_in_name, read_placements
from .record import RunRecord
from .run import Current, Done, Failed, Outcome, run_jobs
from .sink import DEFAULT_KINDS, OUTPUT_KINDS, FileSink, OutputKind
from .sources import ArraySource, ImageSource, Job, Source

__all__ = [
    "BACKENDS",
    "DEFAULT_KINDS",
    "OUTPUT_KINDS",
    "ArraySource",
    "Collection",
    "Current",
    "Done",
    "Failed",
    "FileSink",
    "ImageSource",
    "Job",
    "Outcome",
    "OutputKind",
    "RunRecord",
    "Source",
    "collect_images",
    "place_jobs",
    "placement_in_name",
    "read_placements",
    "run_jobs",
    "use_backend",
]
