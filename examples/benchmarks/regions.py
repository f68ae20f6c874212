"""Compares the nuclei of a slide processed region by region with those of the same pixels in one piece.

    python examples/benchmarks/benchmark.py regions --images TILE.png ... --size 8352 --period 3024

The images form one mosaic, which is written as a slide. With `--period` a mosaic of that size is repeated. If that is
a multiple of the distance between windows, the network sees only the windows of one period. The table has a row for
the run in one piece and one for each size of regions. Its columns are

- regions: how many there are;
- new: windows of the network whose pixels differ from those of every window before (the maps of equal windows are
  remembered, so that the rows after the first take little time);
- nuclei; F1: between the run and the one in one piece (pairs at IoU > .5); same: nuclei with the same pixels, type and
  score in both;
- straight: pixels of contour in straight pieces along the borders of regions, divided by those along other lines;
  s.e.: by how many standard errors the former exceed the latter (as in the benchmark `seams`);
- density: nuclei per pixel with centroids within 32 px of a border, divided by those elsewhere.

The row of the run in one piece shows the last three for the borders of the smallest regions, the others for their own.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from seams import Lines, mosaic, seam_statistic

from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.inference import Job, RunRecord
from cfsam_hf.inference.run import Failed
from cfsam_hf.inference.slide_plan import WhereToLook
from cfsam_hf.inference.slide_run import run_slides
from cfsam_hf.inference.slide_sink import SlideSink
from cfsam_hf.inference.slide_source import SlideSource
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.model.maps import MapLayout
from cfsam_hf.model.pictures import read_rgb
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.slides.regions import RegionGrid

# Distance in pixels from a border up to which a nucleus counts as near to it.
NEAR = 32
COMPARED = ["type", "score", "area_px"]


class RememberedMaps:
    """Takes the place of a pipeline's network and keeps its maps in a folder, by the pixels of the window."""

    def __init__(self, pipe: NucleiSegmentationPipeline, folder: Path):
        self._predict: Callable[..., tuple[np.ndarray, MapLayout]] = pipe._tile_maps
        self._folder = folder
        self._layout: MapLayout | None = None
        self.new = 0
        pipe._tile_maps = self.maps  # type: ignore[method-assign]

    def maps(self, values: np.ndarray, *options: Any) -> tuple[np.ndarray, MapLayout]:
        """As the pipeline's own method."""
        key = hashlib.blake2b(values.tobytes() + repr(options).encode(), digest_size=16).hexdigest()
        path = self._folder / f"{key}.npy"
        if self._layout is None or not path.exists():
            self.new += 1
            maps, self._layout = self._predict(values, *options)
            np.save(path, maps)
        return np.load(path), self._layout


def write_slide(image: np.ndarray, path: Path, mpp: float) -> None:
    """Writes a picture as a tiled TIFF that states its pixel size."""
    per_centimetre = 10_000 / mpp
    tifffile.imwrite(
        path,
        image,
        tile=(512, 512),
        photometric="rgb",
        resolution=(per_centimetre, per_centimetre),
        resolutionunit="CENTIMETER",
    )


def by_regions(path: Path, folder: Path, pipe: NucleiSegmentationPipeline, side: int) -> tuple[np.ndarray, Any]:
    """Label map and table of a slide, processed in regions of about `side` pixels."""
    folder.mkdir()
    sink = SlideSink(folder, ["table", "labels"])
    job = Job(SlideSource(path, path.name), PurePath(path.stem))
    with RunRecord(folder) as record:
        outcomes = run_slides([job], pipe, sink, record, where=WhereToLook(tissue="all"), side=side)
        with closing(outcomes):
            for outcome in outcomes:
                if isinstance(outcome, Failed):
                    raise outcome.error
    labels = tifffile.imread(folder / f"{path.stem}_labels.ome.tif", key=0)
    return labels, pd.read_parquet(folder / f"{path.stem}.parquet", columns=["id", "x", "y", *COMPARED])


def same_nuclei(labels: np.ndarray, table: Any, other_labels: np.ndarray, other_table: Any) -> int:
    """How many nuclei of two label maps have the same pixels, and the same type and score in their tables."""
    both = (labels > 0) & (other_labels > 0)
    width = int(other_labels.max()) + 1
    keys, shared = np.unique(labels[both].astype(np.int64) * width + other_labels[both], return_counts=True)
    pairs = pd.DataFrame({"id": keys // width, "other": keys % width, "shared": shared})
    areas, other_areas = (np.bincount(ids.ravel()) for ids in (labels, other_labels))
    pairs = pairs[(areas[pairs["id"]] == pairs["shared"]) & (other_areas[pairs["other"]] == pairs["shared"])]
    ours = table.set_index("id").loc[pairs["id"], COMPARED].to_numpy()
    theirs = other_table.set_index("id").loc[pairs["other"], COMPARED].to_numpy()
    return int((ours == theirs).all(axis=1).sum())


def density_near(table: Any, borders: Lines, size: int) -> float:
    """Nuclei per pixel near the borders divided by those elsewhere."""
    near = np.zeros(len(table), dtype=bool)
    near_rows, near_columns = (np.zeros(size, dtype=bool) for _ in "yx")
    for lines, places, pixels in zip(borders, (table["y"], table["x"]), (near_rows, near_columns), strict=True):
        for line in lines:
            near |= np.abs(places.to_numpy() - line) < NEAR
            pixels[line - NEAR : line + NEAR] = True
    area = float((near_rows[:, None] | near_columns).sum())
    return float(near.sum() / area / ((~near).sum() / (size * size - area)))


def repeated(image: np.ndarray, joins: Lines, size: int) -> tuple[np.ndarray, Lines]:
    """A square of `size` px from copies of a square picture side by side, and the lines of all joins."""
    period = len(image)
    copies = -(-size // period)
    lines = (np.unique([of + copy * period for copy in range(copies) for of in (0, *cuts)]) for cuts in joins)
    picture = np.tile(image, (copies, copies, 1))[:size, :size]
    return picture, tuple(of[(of > 0) & (of < size)] for of in lines)


def borders_of(pipe: NucleiSegmentationPipeline, size: int, side: int) -> tuple[Lines, int]:
    """The borders between regions, and the number of regions."""
    grid = RegionGrid(size, size, pipe.tiling_for(size, size), side=side)
    rows, columns = (np.array([part.first for part in parts[1:]], dtype=int) for parts in (grid.rows, grid.columns))
    return (rows, columns), len(grid.rows) * len(grid.columns)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", required=True, help="files, at the pixel size of the model")
    parser.add_argument("--size", type=int, default=8000, help="side of the slide in pixels")
    parser.add_argument("--period", type=int, metavar="PX", help="side of the part that is repeated; default: all")
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 2048, 1024], help="sides of the regions")
    parser.add_argument(
        "--checkpoint", default=None, help="bundled checkpoint, folder or Hub id (default: cfsam-tiny)"
    )
    parser.add_argument("--device", default=None)


def run(args: argparse.Namespace) -> None:
    pipe = load_pipeline(args.checkpoint, args.device)
    mpp = pipe.image_processor.mpp
    image, joins = repeated(*mosaic([read_rgb(path) for path in args.images], args.period or args.size), args.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "maps").mkdir()
        write_slide(image, folder / "slide.tif", mpp)
        network = RememberedMaps(pipe, folder / "maps")
        whole = pipe(image, mpp=mpp, progress=False)

        def show(side: int, labels: np.ndarray, table: Any, title: str) -> None:
            borders, count = borders_of(pipe, args.size, side)
            ratio, errors = seam_statistic(labels, borders, joins=joins)
            f1, same = panoptic_quality(whole.instance_map, labels).dq, len(whole)
            if labels is not whole.instance_map:
                same = same_nuclei(whole.instance_map, whole.table, labels, table)
            values = [title, count if labels is not whole.instance_map else 1, network.new, len(table), f"{f1:.5f}"]
            values += [same, f"{ratio:.3f}", f"{errors:.2f}", f"{density_near(table, borders, args.size):.3f}"]
            print("".join(f"{value:>11}" for value in values), flush=True)
            network.new = 0

        titles = ["side", "regions", "new", "nuclei", "F1", "same", "straight", "s.e.", "density"]
        print(f"{args.size} px mosaic of {len(args.images)} images, {pipe.device}")
        print("".join(f"{title:>11}" for title in titles))
        show(min(args.sides), whole.instance_map, whole.table, "one piece")
        for side in args.sides:
            labels, table = by_regions(folder / "slide.tif", folder / str(side), pipe, side)
            show(side, labels, table, str(side))
