"""Compares overlaps of the network's windows: work, quality, and nuclei near seams, on mosaics of annotated tiles.

    python examples/benchmarks/benchmark.py overlap --data reader=consep,path=DATA/consep

Four tiles at a time form a mosaic. A grid of `--windows` x `--windows` windows covers it with exactly the given
overlap (the pipeline spreads windows evenly, so that the overlap of a small image is larger than asked for), and all
overlaps are scored on the part of the mosaic that every grid covers. The columns of the table are

- windows, relative to those that would cover a large image without overlap: the network's work;
- PQ of all nuclei against the annotations, pooled over the mosaics;
- PQ of the nuclei whose centroid lies within `--margin` px of a seam, the middle of an overlap, and of the others;
- F1 between the nuclei and those of the largest overlap (pairs at IoU > .5).
"""

import argparse
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data.data_items import DataItem
from cfsam_hf.data.records import Tile
from cfsam_hf.evaluation.tables import markdown_table
from cfsam_hf.metrics import PanopticQuality, panoptic_quality
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline


class Row:
    """The scores of one overlap, summed over the mosaics."""

    def __init__(self) -> None:
        self.whole = self.near = self.far = self.agreement = PanopticQuality()


def mosaic(tiles: Sequence[Tile], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two by two tiles as one image (side, side, 3), and their nuclei with ids of their own, (side, side)."""
    shift, maps = 0, []
    for tile in tiles:
        maps.append(np.where(tile.instance_map > 0, tile.instance_map + shift, 0))
        shift = int(max(shift, maps[-1].max()))
    joined = [
        np.concatenate([np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)])
        for parts in ([tile.image for tile in tiles], maps)
    ]
    if min(joined[0].shape[:2]) < side:
        raise ValueError(f"four tiles make {joined[0].shape[:2]} px, less than the {side} px of the widest grid")
    return joined[0][:side, :side], joined[1][:side, :side]


def seams(size: int, overlap: int, windows: int) -> np.ndarray:
    """The middles of the overlaps along one axis."""
    return np.array([step * (size - overlap) + overlap / 2 for step in range(1, windows)])


def near_seams(labels: np.ndarray, lines: np.ndarray, margin: float) -> np.ndarray:
    """Which ids (0..N, boolean) have a centroid within `margin` px of a line, along either axis."""
    ids = np.unique(labels)[1:]
    near = np.zeros(int(labels.max(initial=0)) + 1, dtype=bool)
    if len(ids):
        centroids = np.array(ndimage.center_of_mass(labels > 0, labels, ids))
        near[ids] = (np.abs(centroids[:, :, None] - lines).min(axis=(1, 2)) <= margin) if len(lines) else False
    return near


def split_quality(true: np.ndarray, pred: np.ndarray, lines: np.ndarray, margin: float) -> list[PanopticQuality]:
    """PQ of nuclei near the lines and of the others. A nucleus without a partner counts where it lies itself."""
    kept = [near_seams(labels, lines, margin) for labels in (true, pred)]
    return [
        panoptic_quality(*(labels * (of[labels] == side) for labels, of in zip((true, pred), kept, strict=True)))
        for side in (True, False)
    ]


def measure(
    pipe: NucleiSegmentationPipeline, mosaics: Sequence[tuple[np.ndarray, np.ndarray]], args: argparse.Namespace
) -> dict[int, Row]:
    """The scores of each overlap."""
    size, rows = pipe.image_processor.tile_size, {overlap: Row() for overlap in args.overlaps}
    common = size + (args.windows - 1) * (size - max(args.overlaps))
    for image, true in mosaics:
        found = {}
        for overlap in args.overlaps:
            side = size + (args.windows - 1) * (size - overlap)
            result = pipe(image[:side, :side], mpp=pipe.image_processor.mpp, tile_size=size, tile_overlap=overlap)
            found[overlap] = result.instance_map[:common, :common]
        for overlap, row in rows.items():
            reference = true[:common, :common]
            near, far = split_quality(reference, found[overlap], seams(size, overlap, args.windows), args.margin)
            row.whole += panoptic_quality(reference, found[overlap])
            row.near, row.far = row.near + near, row.far + far
            row.agreement += panoptic_quality(found[max(args.overlaps)], found[overlap])
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=DataItem.parse, required=True, help="as for cfsam evaluate")
    parser.add_argument("--part", default="train", help="of the split file (default: train)")
    parser.add_argument("--tiles", type=int, default=8, help="number of tiles, a multiple of 4 (default: 8)")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[64, 96, 144], help="in px (default: 64 96 144)")
    parser.add_argument("--windows", type=int, default=3, help="windows along each side (default: 3)")
    parser.add_argument("--margin", type=float, default=48.0, help="px around seams (default: 48)")
    parser.add_argument(
        "--checkpoint", default=None, help="bundled checkpoint, folder or Hub id (default: cfsam-tiny)"
    )
    parser.add_argument("--device", default=None)


def run(args: argparse.Namespace) -> None:
    pipe = load_pipeline(args.checkpoint, args.device)
    size = pipe.image_processor.tile_size
    records = args.data.records(args.part)[: args.tiles // 4 * 4]
    if not records:
        raise ValueError(f"--part {args.part} has no tiles, or --tiles {args.tiles} is less than 4")
    side = size + (args.windows - 1) * (size - min(args.overlaps))
    mosaics = [
        mosaic([record.load() for record in records[first : first + 4]], side) for first in range(0, len(records), 4)
    ]
    rows = measure(pipe, mosaics, args)
    print(f"{len(records)} tiles in {len(mosaics)} mosaics, windows of {size} px\n")
    table = [
        [
            str(overlap),
            f"{(size / (size - overlap)) ** 2:.2f}",
            *(f"{quality.pq:.4f}" for quality in (row.whole, row.near, row.far)),
            f"{row.agreement.dq:.4f}",
        ]
        for overlap, row in rows.items()
    ]
    titles = ["overlap", "windows", "PQ", "PQ near seams", "PQ elsewhere", f"F1 with {max(args.overlaps)}"]
    print("\n".join(markdown_table(titles, table)))


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
