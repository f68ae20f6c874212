"""What the tests of the cluster share: painted slides, the two engines, and the processes of Ray."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import tifffile

from cfsam_hf.files.remote_folder import RemoteFolder
from cfsam_hf.inference import Job, RunRecord
from cfsam_hf.inference.cluster.connection import ClusterOptions
from cfsam_hf.inference.cluster.engine import run_slides_on_ray
from cfsam_hf.inference.remote_output import RemoteRecord, RemoteSlideSink
from cfsam_hf.inference.run import Outcome
from cfsam_hf.inference.slide_plan import WhereToLook
from cfsam_hf.inference.slide_run import run_slides
from cfsam_hf.inference.slide_sink import SlideSink
from cfsam_hf.inference.slide_source import SlideSource

from ...painted_model import paint
from ..slide_cases import SIDE, painted_pipeline

EVERYWHERE = WhereToLook(tissue="all")
TILE = 64


def write_slides(folder: Path, big: tuple[int, int] = (5, 4)) -> list[Job]:
    """A slide of 20 regions, or of so many rows and columns, and one of 2."""
    part, _, _ = paint(300, 300, count=18, seed=7)
    return [
        slide_job(write_tiles(np.tile(part, (rows, columns, 1)), folder / f"{name}.ome.tif"))
        for name, rows, columns in (("big", *big), ("small", 2, 1))
    ]


def write_tiles(image: np.ndarray, path: Path) -> Path:
    """Writes a picture as a tiled OME-TIFF with compressed tiles, each of which can be damaged on its own."""
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeXUnit": "µm"}
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(path, image, metadata=metadata, ome=True, **options)
    return path


def damage_tile(path: Path, number: int) -> None:
    """Overwrites the bytes of one tile."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[number], tiff.pages[0].databytecounts[number]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)


def slide_job(path: Path) -> Job:
    return Job(SlideSource(path, path.name), PurePath(path.name.split(".")[0]))


def run_plain(jobs: list[Job], out: Path, pipe=None) -> list[Outcome]:
    """The plain loop."""
    out.mkdir(exist_ok=True)
    with RunRecord(out) as record:
        return list(run_slides(jobs, pipe or painted_pipeline(), SlideSink(out), record, where=EVERYWHERE, side=SIDE))


def ray_outcomes(
    jobs: list[Job], out: Path | RemoteFolder, *, resume=False, pipe=None, **cluster
) -> Iterator[Outcome]:
    """The outcomes of the cluster, as they come."""
    if isinstance(out, Path):
        out.mkdir(exist_ok=True)
        record, sink = RunRecord(out), SlideSink(out)
    else:
        record, sink = RemoteRecord(out), RemoteSlideSink(out)
    options = ClusterOptions(**{"workers": 2, "cpus_per_worker": 1, **cluster})
    with record:
        yield from run_slides_on_ray(
            jobs,
            pipe or painted_pipeline(),
            sink,
            record,
            where=EVERYWHERE,
            side=SIDE,
            resume=resume,
            cluster=options,
        )


def files_of(out: Path) -> dict[str, bytes]:
    """The content of the files of slides, by name; the records beside them hold times."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def worker_pids() -> list[int]:
    """The processes of the workers on this machine, whatever run they belong to."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::RegionWorker"):
            pids.append(int(folder.name))
    return pids


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
