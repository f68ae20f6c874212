"""`cfsam segment` with a stand-in for the network, so that its tests take no time, and images to give it."""

from pathlib import Path

import numpy as np
import PIL.Image

from cfsam_hf.commands import segment, terminal
from cfsam_hf.inference import sources
from cfsam_hf.inference.record import RECORDS_NAME

from .export_cases import label_components, make_result

SUFFIXES = ["_instances.tif", ".geojson", ".parquet", "_overlay.png"]


ALL_KINDS = ["--also", "csv", "--also", "coco", "--also", "roi"]


def threshold_pipeline(image, mpp=None, batch_size=None, max_pixels=None, decoding=None):
    """Stands in for the network: dark pixels are nuclei."""
    if image.shape[0] == 13:
        raise RuntimeError("thirteen rows\nare too many")
    return make_result(label_components(image.mean(axis=2) < 100), mpp=mpp)


def record_options(monkeypatch) -> list[dict]:
    """The options of every image that the pipeline is given from now on."""
    seen = []
    monkeypatch.setattr(
        segment, "load_pipeline", lambda *wanted: lambda image, **o: seen.append(o) or threshold_pipeline(image)
    )
    return seen


def read_calls(monkeypatch):
    """The files that are read from here on."""
    read, real = [], sources.read_rgb

    def record(path, *arguments, **options):
        read.append(Path(path).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(sources, "read_rgb", record)
    return read


def write_image(path: Path, height=24, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), 230, np.uint8)
    image[3:8, 4:10] = image[2:6, 14:20] = 40
    PIL.Image.fromarray(image).save(path)
    return path


def names(folder):
    """All files below, hidden ones too, but for the records."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if path.parts[0] != RECORDS_NAME)


def run(*arguments):
    return terminal.main(["segment", *map(str, arguments)])
