"""Measures the effect of window borders on nuclei: the same image under shifted grids, and contours along borders.

    python examples/benchmarks/benchmark.py seams --images TILE.png ... --tilings default 512:192
    python examples/benchmarks/benchmark.py seams --size 1000      # without images: the tissue picture of scikit-image

The images form one mosaic whose joins do not fall on tile borders. The table has a row for each tiling (tile size and
overlap, or `default` for those of the checkpoint's processor; `aligned`: tiles begin at multiples of the patch size)
and each way of stitching (`alone`: each tile is decoded by itself and its middle pasted; `crop`: the maps of a pixel
come from the tile with the nearest centre; `mean`: plain mean of the tiles' maps; `blend`: mean weighted by
`blend_weights`, as in the pipeline). Its columns are

- F1 between the nuclei under the tile grid and under shifted grids (pairs at IoU > .5): the mean over shifts by whole
  patches, and over other shifts, which also move the patches of the network;
- the share of nuclei that have a partner under the shifted grids: among those with a score of at least .5 (sure),
  among those whose centre lies less than a quarter of a tile inside the innermost tile of either grid (border), and
  among the others (middle). If seams did harm, border would be lower than middle;
- straight: pixels of contour in straight pieces along lines of tile borders, divided by those along other lines; s.e.:
  by how many standard errors the former exceed the latter;
- seconds of the network for the mosaic.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.metrics import matched_nuclei, panoptic_quality
from cfsam_hf.model.maps import MapLayout, stack_maps
from cfsam_hf.model.pictures import read_rgb
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.result import DecodedNuclei
from cfsam_hf.model.tiling import VIEW_COUNTS, MapBlender, Window, cut_window, tile_windows

STITCHES = ("alone", "crop", "mean", "blend")
PATCH_SHIFTS = ((48, 80), (112, 32))
OTHER_SHIFTS = ((37, 61),)
# Nuclei with at least this score count as sure.
SURE = 0.5
# A contour that follows a line for this many pixels counts as straight; nuclei are 20 to 60 px across.
STRAIGHT_LENGTH = 8
# Start of the mosaic in the row of images, chosen so that joins do not lie at multiples of anything.
MOSAIC_ORIGIN = (613, 571)
# Lines so near to a join, where the picture itself cuts nuclei straight, are ignored.
JOIN_MARGIN = 4

# Lines between rows and lines between columns: line i lies before pixel i.
Lines = tuple[np.ndarray, np.ndarray]
NO_LINES: Lines = (np.zeros(0, dtype=int), np.zeros(0, dtype=int))


@dataclass
class Run:
    """The network's maps of the tiles over one image."""

    windows: list[Window]
    maps: list[np.ndarray]
    layout: MapLayout
    overlap: int
    size: tuple[int, int]
    shift: tuple[int, int]
    seconds: float
    views: int = 1

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width that the tiles cover."""
        return tuple(max(getattr(w, axis) for w in self.windows) + self.windows[0].size for axis in "yx")

    def crop(self, values: np.ndarray) -> np.ndarray:
        """The part of values (..., H, W) of everything that the tiles cover that lies in the image."""
        (y, x), (height, width) = self.shift, self.size
        return np.ascontiguousarray(values[..., y : y + height, x : x + width])


def mosaic(images: list[np.ndarray], size: int) -> tuple[np.ndarray, Lines]:
    """A square of `size` px from the repeated row of images, and the lines of its joins."""
    rows = []
    joins: tuple[list[int], list[int]] = [], []
    top, count = 0, 0
    while top < size + MOSAIC_ORIGIN[0]:
        row, left = [], 0
        height = min(len(image) for image in images)
        while left < size + MOSAIC_ORIGIN[1]:
            row.append(images[count % len(images)][:height])
            left += row[-1].shape[1]
            joins[1].append(left)
            count += 1
        rows.append(np.concatenate(row, axis=1)[:, : size + MOSAIC_ORIGIN[1]])
        top += height
        joins[0].append(top)
    y, x = MOSAIC_ORIGIN
    image = np.ascontiguousarray(np.concatenate(rows)[y : y + size, x : x + size])
    lines = (np.unique(of) - start for of, start in zip(joins, MOSAIC_ORIGIN, strict=True))
    return image, tuple(of[(of > 0) & (of < size)] for of in lines)


@torch.inference_mode()
def predict_tiles(
    pipe: NucleiSegmentationPipeline,
    image: np.ndarray,
    tile_size: int,
    overlap: int,
    shift: tuple[int, int],
    aligned: bool = False,
    views: int = 1,
) -> Run:
    """Maps of all tiles of a grid that begins `shift` pixels above and left of the image; `aligned`: tiles begin at
    multiples of the patch size; `views`: number of views of the image, each with its own grid."""
    padded = np.pad(image, ((shift[0], 0), (shift[1], 0), (0, 0)), mode="reflect")
    unit = pipe.image_processor.pad_multiple if aligned else 1
    height, width = (-(-length // unit) for length in padded.shape[:2])
    windows = [
        Window(unit * window.y, unit * window.x, tile_size, window.view)
        for window in tile_windows(height, width, tile_size // unit, -(-overlap // unit), views)
    ]
    maps, seconds = [], 0.0
    for window in windows:
        values = torch.from_numpy(pipe.image_processor.pixel_values(cut_window(padded, window)[None]))
        began = time.perf_counter()
        outputs = pipe.model(pixel_values=window.view.turn(values).to(pipe.device, pipe.dtype))
        tile_maps, layout = window.view.turn_back(stack_maps(outputs)), MapLayout.of(outputs)
        maps.append(tile_maps[0].cpu().numpy().astype(np.float16))
        seconds += time.perf_counter() - began
    return Run(windows, maps, layout, overlap, image.shape[:2], shift, seconds, views)


def nearest_tiles(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays (H, W): for each pixel, the tile in which it lies deepest, and its depth in pixels."""
    tile_size = run.windows[0].size
    depth = np.minimum(np.arange(tile_size), np.arange(tile_size)[::-1]) + 1
    depth = np.minimum(depth[:, None], depth)
    deepest = np.zeros(run.padded_size, dtype=int)
    nearest = np.zeros(run.padded_size, dtype=int)
    for index, window in enumerate(run.windows):
        place = slice(window.y, window.y + tile_size), slice(window.x, window.x + tile_size)
        better = depth > deepest[place]
        nearest[place][better] = index
        deepest[place][better] = depth[better]
    return nearest, deepest


def stitch(run: Run, how: str) -> np.ndarray:
    """The maps (C, H, W) of the image, float16 as the pipeline keeps them; `how` is crop, mean or blend."""
    tile_size = run.windows[0].size
    if how == "blend":
        bands = []
        blender = MapBlender(
            run.layout.channels, *run.padded_size, tile_size, run.overlap, run.views, sink=bands.append
        )
        for window, tile in zip(run.windows, run.maps, strict=True):
            blender.add(window, tile)
        blender.finish()
        return run.crop(np.concatenate(bands, axis=1))
    maps = np.zeros((run.layout.channels, *run.padded_size), dtype=np.float32)
    total = np.zeros(run.padded_size, dtype=np.float32)
    nearest = nearest_tiles(run)[0] if how == "crop" else None
    for index, (window, tile) in enumerate(zip(run.windows, run.maps, strict=True)):
        place = slice(window.y, window.y + tile_size), slice(window.x, window.x + tile_size)
        share = 1.0 if nearest is None else (nearest[place] == index).astype(np.float32)
        maps[:, *place] += tile.astype(np.float32) * share
        total[place] += share
    return run.crop(maps / total).astype(np.float16)


def paste(run: Run, decode: Callable[[np.ndarray], DecodedNuclei]) -> tuple[np.ndarray, np.ndarray]:
    """Label map and scores of tiles decoded one by one, the usual way, which cuts nuclei at the borders."""
    nearest, _ = nearest_tiles(run)
    labels = np.zeros(run.padded_size, dtype=np.int64)
    scores = [np.zeros(1)]
    count = 0
    for index, (window, tile) in enumerate(zip(run.windows, run.maps, strict=True)):
        place = slice(window.y, window.y + window.size), slice(window.x, window.x + window.size)
        found = decode(tile)
        chosen = (nearest[place] == index) & (found.instance_map > 0)
        labels[place][chosen] = found.instance_map[chosen] + count
        count += len(found)
        scores.append(found.scores)
    ids, labels = np.unique(np.append(0, run.crop(labels)), return_inverse=True)
    return labels[1:].reshape(run.size).astype(np.int32), np.concatenate(scores)[ids[1:]]


def seam_lines(starts: list[int], tile_size: int, length: int, how: str) -> np.ndarray:
    """Lines between pixels along one axis (line i lies before pixel i) at which another tile takes over."""
    ends = [start + tile_size for start in starts]
    if how in ("alone", "crop"):
        lines = [(start + end) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)]
    else:
        lines = starts[1:] + ends[:-1]
    return np.unique([line for line in lines if 0 < line < length])


def straight_edges(instance_map: np.ndarray) -> np.ndarray:
    """For each line between rows (H - 1,), the pixels of contour that lie in straight pieces of at least
    `STRAIGHT_LENGTH` px on it."""
    edges = instance_map[1:] != instance_map[:-1]
    padded = np.pad(edges.astype(np.int8), ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1)
    counts = np.zeros(len(edges), dtype=np.int64)
    rows, starts = np.nonzero(changes == 1)
    _, ends = np.nonzero(changes == -1)
    lengths = ends - starts
    long = lengths >= STRAIGHT_LENGTH
    np.add.at(counts, rows[long], lengths[long])
    return counts


def away_from(joins: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """The lines that do not lie near a join."""
    return lines[np.all(np.abs(lines[:, None] - joins) > JOIN_MARGIN, axis=1)]


def seam_statistic(
    instance_map: np.ndarray, seams: Lines, unit: int = 1, joins: Lines = NO_LINES
) -> tuple[float, float]:
    """Straight contour on seams divided by that on other lines, and by how many standard errors the mean over the
    seams exceeds that over the others.

    Args:
        instance_map: (H, W).
        seams: of `seam_lines`.
        unit: the other lines lie at its multiples. It is the patch size if the seams lie at multiples of that, since
            the network's own grid leaves traces.
        joins: of the picture; lines near them are left out on both sides.
    """
    on_seams, elsewhere = [], []
    for lines, cuts, ids in zip(seams, joins, (instance_map, instance_map.T), strict=True):
        counts = straight_edges(ids)
        grid = away_from(cuts, np.arange(unit, len(ids), unit))
        on_seams.append(counts[away_from(cuts, lines) - 1])
        elsewhere.append(counts[np.setdiff1d(grid, lines) - 1])
    first, second = np.concatenate(on_seams), np.concatenate(elsewhere)
    if len(first) == 0 or len(second) < 2 or second.mean() == 0:
        return float("nan"), float("nan")
    error = np.sqrt(second.var(ddof=1) * (1 / len(first) + 1 / len(second)))
    return float(first.mean() / second.mean()), float((first.mean() - second.mean()) / error)


def measure(
    pipe: NucleiSegmentationPipeline,
    image: np.ndarray,
    tile_size: int | None,
    overlap: int | None,
    aligned: bool = False,
    shifts: Sequence[tuple[int, int]] = PATCH_SHIFTS + OTHER_SHIFTS,
    joins: Lines = NO_LINES,
    views: int = 1,
) -> Iterator[dict[str, float | str | int]]:
    """A row of the table for each way of stitching. `tile_size` and `overlap`: `None` for those of the pipeline."""
    tile_size, overlap, _ = pipe.tiling_for(*image.shape[:2], tile_size, overlap)

    def find(run: Run, how: str) -> tuple[np.ndarray, np.ndarray]:
        def decode(maps: np.ndarray) -> DecodedNuclei:
            return pipe.image_processor.decode_maps(run.layout.split(maps))

        if how == "alone":
            return paste(run, decode)
        found = decode(stitch(run, how))
        return found.instance_map, found.scores

    patch = pipe.image_processor.pad_multiple
    base, *others = (
        predict_tiles(pipe, image, tile_size, overlap, shift, aligned, views) for shift in ((0, 0), *shifts)
    )
    base_depth, *other_depths = (run.crop(nearest_tiles(run)[1]) for run in (base, *others))
    least_depths = [np.minimum(base_depth, depth) for depth in other_depths]
    starts = [sorted({getattr(window, axis) for window in base.windows}) for axis in "yx"]
    # Only a blend turns several views into one picture.
    for how in STITCHES if views == 1 else ("blend",):
        found, scores = find(base, how)
        f1: dict[bool, list[float]] = {True: [], False: []}
        places = tuple(middles(found).T)
        partners, depths = [], []
        for run, shift, least_depth in zip(others, shifts, least_depths, strict=True):
            again, _ = find(run, how)
            whole_patches = all(step % patch == 0 for step in shift)
            f1[whole_patches].append(panoptic_quality(found, again).dq)
            partners.append(has_partner(found, again))
            depths.append(least_depth[places])
        kept, depth = np.array(partners).reshape(-1, len(scores)), np.array(depths).reshape(-1, len(scores))
        near = depth < tile_size / 4
        seams = [seam_lines(s, tile_size, n, how) for s, n in zip(starts, image.shape[:2], strict=True)]
        ratio, errors = seam_statistic(found, tuple(seams), patch if aligned else 1, joins)
        yield {
            "tiles": f"{tile_size}:{overlap}" + ":aligned" * aligned,
            "stitch": how,
            "nuclei": int(found.max()),
            "F1 patches": mean(f1[True]),
            "F1 other": mean(f1[False]),
            "sure kept": mean(kept[:, scores >= SURE]),
            "border": mean(kept[near]),
            "middle": mean(kept[~near]),
            "straight": ratio,
            "s.e.": errors,
            "seconds": base.seconds,
        }


def has_partner(instance_map: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the nuclei 1 to n of a label map (H, W) overlap one of another with IoU > .5: (n,)."""
    return np.array(list(matched_nuclei(other, instance_map).values()), dtype=bool)


def middles(instance_map: np.ndarray) -> np.ndarray:
    """Row and column (n, 2) at which the nuclei 1 to n of a label map have their centre, rounded."""
    centres = ndimage.center_of_mass(instance_map > 0, instance_map, np.arange(1, instance_map.max() + 1))
    return np.rint(np.reshape(centres, (-1, 2))).astype(int)


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of all values; NaN without values."""
    return float(np.mean(values)) if np.size(values) else float("nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", default=[], help="files; default: scikit-image's tissue picture")
    parser.add_argument("--size", type=int, default=2000, help="side of the mosaic in pixels")
    parser.add_argument("--tilings", nargs="+", default=["default"], metavar="default|SIZE:OVERLAP[:aligned]")
    views = "number of views of the mosaic; several views show only blend and exclude :aligned"
    parser.add_argument("--views", type=int, choices=VIEW_COUNTS, default=1, help=views)
    parser.add_argument(
        "--checkpoint", default=None, help="bundled checkpoint, folder or Hub id (default: cfsam-tiny)"
    )
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    if args.views > 1 and any(tiling.endswith(":aligned") for tiling in args.tilings):
        raise ValueError("the grids of several views are not aligned; omit :aligned or --views")
    if args.images:
        images = [read_rgb(path) for path in args.images]
    else:
        from skimage import data

        images = [data.immunohistochemistry()]
    pipe = load_pipeline(args.checkpoint, args.device)
    image, joins = mosaic(images, args.size)
    print(f"{args.size} px mosaic of {len(images)} images, {pipe.device}, {args.threads} threads, {args.views} views")
    titles = None
    for tiling in args.tilings:
        numbers, aligned = tiling.removesuffix(":aligned"), tiling.endswith(":aligned")
        size, overlap = (None, None) if numbers == "default" else map(int, numbers.split(":"))
        for row in measure(pipe, image, size, overlap, aligned, joins=joins, views=args.views):
            if titles is None:
                titles = list(row)
                print("".join(f"{title:>11}" for title in titles))
            values = (value if isinstance(value, str | int) else f"{value:.3f}" for value in row.values())
            print("".join(f"{value:>11}" for value in values), flush=True)


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
