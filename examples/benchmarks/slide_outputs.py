"""Measures the memory that the outputs of a whole slide need, for different numbers of nuclei.

    python examples/benchmarks/slide_outputs.py
    python examples/benchmarks/slide_outputs.py --nuclei 10000 1000000 --outputs table labels --json memory.json

Each output is written in a process of its own, from a stream of made-up nuclei on a slide of `--side` pixels, and the
highest resident memory of that process counts (`nothing`: the stream alone). The nuclei are the blobs of smoothed
noise, about 1,000 in each square of 1,024 px.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from scipy import ndimage

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.drawing.density_maps import DensityMaps
from cfsam_hf.drawing.overview import overview_size, write_overview
from cfsam_hf.model.result import DecodedNuclei, NucleiResult
from cfsam_hf.outputs.label_pyramid import write_label_pyramid
from cfsam_hf.outputs.slide_geojson import write_slide_geojson
from cfsam_hf.outputs.slide_record import slide_record
from cfsam_hf.outputs.slide_table import nuclei_batch, nuclei_schema, numbered, write_slide_table
from cfsam_hf.outputs.summary import slide_summary_rows, write_summary

SQUARE = 1024
TYPE_NAMES = {1: "miscellaneous", 2: "inflammatory", 3: "epithelial", 4: "spindle-shaped"}
Batches = Iterator[pyarrow.RecordBatch]


def square_of_nuclei() -> NucleiResult:
    """The nuclei of one square, of random types."""
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.normal(size=(SQUARE, SQUARE)), 7)
    instance_map = ndimage.label(noise > np.quantile(noise, 0.8))[0].astype(np.int32)
    places = ndimage.find_objects(instance_map)
    count = len(places)
    shares = random.dirichlet(np.ones(len(TYPE_NAMES)), count).astype(np.float32)
    decoded = DecodedNuclei(
        instance_map=instance_map,
        type_ids=shares.argmax(axis=1) + 1,
        type_probabilities=shares.max(axis=1).astype(np.float64),
        scores=random.random(count),
        boxes=np.array([[x.start, y.start, x.stop, y.stop] for y, x in places]),
        centroids=np.array(ndimage.center_of_mass(instance_map > 0, instance_map, range(1, count + 1)))[:, ::-1] + 0.5,
        areas=np.bincount(instance_map.ravel())[1:],
        probabilities=shares,
    )
    return NucleiResult.from_decoded(decoded, mpp=0.25, type_names=TYPE_NAMES)


def stream(nuclei: int, side: int) -> Batches:
    """So many nuclei, square by square from the top; when the slide is full they begin at the top again."""
    square, schema, across = square_of_nuclei(), nuclei_schema(TYPE_NAMES), side // SQUARE
    left, number = nuclei, 0
    while left > 0:
        row, column = divmod(number % (across * across), across)
        batch = nuclei_batch(square, schema, (column * SQUARE, row * SQUARE)).slice(0, left)
        yield batch
        left, number = left - len(batch), number + 1


def write(output: str, nuclei: int, side: int, folder: Path) -> Path:
    """Writes one output, and returns its file."""
    record = slide_record(
        image="made-up", image_size=(side, side), nuclei=nuclei, mpp=(0.25, 0.25), type_names=TYPE_NAMES
    )
    batches = numbered(stream(nuclei, side))

    def overview(path: Path) -> None:
        maps = DensityMaps((side, side), list(TYPE_NAMES)).add_all(batches)
        width, height = overview_size((side, side), len(TYPE_NAMES))
        image, tissue = np.full((height, width, 3), 240, dtype=np.uint8), np.ones((64, 64), dtype=bool)
        write_overview(image, tissue, maps, record, path)

    writers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "nothing": ("", lambda path: path.write_text(str(sum(map(len, batches))))),
        "table": (".parquet", lambda path: write_slide_table(batches, nuclei_schema(TYPE_NAMES), path, record)),
        "geojson": (".geojson.gz", lambda path: write_slide_geojson(batches, path, record)),
        "labels": ("_labels.ome.tif", lambda path: write_label_pyramid(batches, path, record)),
        "summary": ("_summary.csv", lambda path: write_summary(slide_summary_rows(batches, record), path)),
        "overview": ("_overview.png", overview),
    }
    ending, writer = writers[output]
    path = folder / f"made-up{ending}"
    writer(path)
    return path


def measure(output: str, nuclei: int, side: int) -> dict[str, Any]:
    """Writes one output in this process and says what it took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        path = write(output, nuclei, side, Path(folder))
        seconds, size = time.process_time() - began, path.stat().st_size
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "output": output,
        "nuclei": nuclei,
        "peak_mb": round(peak / 1e6),
        "cpu_seconds": round(seconds, 1),
        "file_mb": round(size / 1e6, 1),
    }


def main() -> None:
    """Measures each output in a process of its own."""
    outputs = ["nothing", "table", "geojson", "labels", "summary", "overview"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, nargs="+", default=[10_000, 1_000_000], metavar="N")
    parser.add_argument("--outputs", nargs="+", choices=outputs, default=outputs)
    parser.add_argument("--side", type=int, default=60_000, metavar="PX", help="side of the slide in pixels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--here", action="store_true", help="measure the first output in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.outputs[0], arguments.nuclei[0], arguments.side)))
        return
    figures = []
    for output in arguments.outputs:
        for nuclei in arguments.nuclei:
            command = [sys.executable, __file__, "--here", "--outputs", output, "--nuclei", str(nuclei)]
            command += ["--side", str(arguments.side)]
            figure = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            figures.append(figure)
            print("  ".join(f"{name} {value}" for name, value in figure.items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
