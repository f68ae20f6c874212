# ruff: noqa: E402 (the number of threads has to be set before the libraries are loaded)
"""Measures decoding on this machine and compares it with the usual recipe.

    python examples/benchmarks/benchmark.py decode
    python examples/benchmarks/benchmark.py decode --data DATA --json decoding.json

`decode`: from maps to nuclei, one thread, 1,024 px. The usual HoVer-Net recipe (`hovernet_recipe.py`) and this
package's decoding read the same maps and return the same results: instances, and for each its box, centroid, outline,
type and type probability. The recipe even gets a ready-made type map. The maps are perfect: they come from label maps
(synthetic ones, or with `--data` tiles of MoNuSeg and CoNSeP in DATA/monuseg and DATA/consep), averaged to the stride
of the model's masks and interpolated back. PQ compares with those label maps. Runs of the two alternate, and the
fastest run of each counts, in thread time, which excludes waiting for other programs.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import platform
import time
from pathlib import Path

import cv2
import numpy as np
from hovernet_recipe import hovernet_nuclei
from skimage.measure import label as connected_components

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data.crops.targets import boundary_labels, hv_labels, split_torn_nuclei
from cfsam_hf.data.registry import list_tiles
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.model.contours import nucleus_contours
from cfsam_hf.model.decoding import decode_nuclei

SIZE = 1024
TYPES = 4
# Published decoding times are for tiles with these numbers of nuclei: 394 and 1,060.
REAL_TILES = (("monuseg", "TCGA-21-5784-01Z-00-DX1"), ("consep", "train_10"))
SYNTHETIC_COUNTS = (400, 1060)


def synthetic_labels(count: int, seed: int = 0) -> np.ndarray:
    """(SIZE, SIZE) int32 with `count` ellipses, about half of which touch others, as in crowded tissue."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((SIZE, SIZE), dtype=np.int32)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    typical = 0.33 * SIZE / np.sqrt(count)
    painted = 0
    while painted < count:
        row, column = generator.uniform(0, SIZE, 2)
        radii, angle = typical * generator.uniform(0.7, 1.3, 2), generator.uniform(0, np.pi)
        reach = int(radii.max()) + 2
        window = tuple(slice(max(int(center) - reach, 0), int(center) + reach) for center in (row, column))
        down, right = rows[window] - row, columns[window] - column
        along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        ellipse = np.hypot(along / radii[0], across / radii[1]) < 1
        if (labels[window][ellipse] > 0).mean() < 0.15:
            painted += 1
            labels[window][ellipse & (labels[window] == 0)] = painted
    return split_torn_nuclei(labels)


def real_labels(data: Path, name: str, tile: str) -> np.ndarray:
    """(SIZE, SIZE) int32 from a tile of a data set, mirrored at the border if it is smaller."""
    records = [record for record in list_tiles(name, data / name) if record.id.endswith(tile)]
    if not records:
        raise SystemExit(f"{data / name} has no tile {tile}")
    labels = records[0].load().instance_map[:SIZE, :SIZE]
    padding = [(0, SIZE - side) for side in labels.shape]
    return connected_components(np.pad(labels, padding, mode="symmetric"), connectivity=1).astype(np.int32)


def through_stride(values: np.ndarray, stride: int) -> np.ndarray:
    small = cv2.resize(values, (SIZE // stride, SIZE // stride), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def perfect_maps(labels: np.ndarray, stride: int) -> dict[str, np.ndarray]:
    """Arguments of `decode_nuclei`. Types depend on the id: they cost time but do not change instances."""
    type_map = np.where(labels > 0, labels % TYPES + 1, 0)
    boundary = boundary_labels(labels).astype(np.float32)
    return {
        "nuclei_probability": through_stride((labels > 0).astype(np.float32), stride),
        "hv_maps": np.stack([through_stride(channel, stride) for channel in hv_labels(labels)]),
        "type_probabilities": np.stack(
            [through_stride((type_map == t).astype(np.float32), stride) for t in range(TYPES + 1)]
        ),
        "boundary_probability": through_stride(boundary, stride),
    }


def fastest(function, repeats: int, previous: float = np.inf) -> float:
    """Thread time in seconds of the fastest of some calls, or `previous` if that was faster."""
    for _ in range(repeats):
        begin = time.thread_time()
        function()
        previous = min(previous, time.thread_time() - begin)
    return previous


def benchmark_decode(arguments: argparse.Namespace) -> list[dict]:
    if arguments.data is None:
        tiles = {f"synthetic {count}": synthetic_labels(count) for count in SYNTHETIC_COUNTS}
    else:
        tiles = {tile: real_labels(arguments.data, name, tile) for name, tile in REAL_TILES}
    results = []
    for name, labels in tiles.items():
        maps = perfect_maps(labels, arguments.stride)
        nuclei, hv_maps = maps["nuclei_probability"], maps["hv_maps"]
        type_map = maps["type_probabilities"].argmax(axis=0)
        decoded = decode_nuclei(**maps)

        def usual(nuclei=nuclei, hv_maps=hv_maps, type_map=type_map):
            return hovernet_nuclei(nuclei, hv_maps, type_map)

        def ours(maps=maps):
            decoded = decode_nuclei(**maps)
            return nucleus_contours(decoded.instance_map, decoded.boxes)

        calls = {
            "usual_ms": (usual, 1),
            "ours_ms": (ours, 5),
            "decoding_ms": (lambda maps=maps: decode_nuclei(**maps), 5),
            "outlines_ms": (lambda decoded=decoded: nucleus_contours(decoded.instance_map, decoded.boxes), 5),
            # A lower bound for any decoding: every map must be read from memory once.
            "reading_ms": (lambda maps=maps: [values.reshape(-1) @ values.reshape(-1) for values in maps.values()], 5),
        }
        times = dict.fromkeys(calls, np.inf)
        for _ in range(arguments.rounds):
            for key, (function, repeats) in calls.items():
                times[key] = fastest(function, repeats, times[key])
        result = {"tile": name, "nuclei": int(labels.max())}
        result |= {key: round(1e3 * seconds, 2) for key, seconds in times.items()}
        result["ratio"] = round(times["usual_ms"] / times["ours_ms"], 1)
        result["usual_pq"] = round(panoptic_quality(labels, usual()[0]).pq, 4)
        result["ours_pq"] = round(panoptic_quality(labels, decoded.instance_map).pq, 4)
        alone = decode_nuclei(**maps | {"boundary_probability": None})
        result["ours_pq_without_boundary"] = round(panoptic_quality(labels, alone.instance_map).pq, 4)
        results.append(result)
    return results


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--data", type=Path, help="folder that holds consep/ and monuseg/; synthetic tiles without it")
    parser.add_argument("--stride", type=int, default=2, help="stride of the masks that the maps pass through")
    parser.add_argument("--rounds", type=int, default=5, help="alternations of the two")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def run(arguments: argparse.Namespace) -> None:
    """Prints a line per tile."""
    cv2.setNumThreads(1)
    results = benchmark_decode(arguments)
    print(f"{processor_name()}, one thread, {SIZE} px")
    columns = list(results[0])
    rows = [columns, *([str(result[column]) for column in columns] for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": processor_name(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
