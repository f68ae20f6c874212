"""Times the metrics of one tile and compares them with the usual loop over nuclei with full-tile masks.

    python examples/benchmarks/metrics.py
    python examples/benchmarks/metrics.py --nuclei 100 1000 --size 1000 --json metrics.json

Both compute Dice, Dice2, AJI, AJI+ and PQ of the same label maps and must agree. The loop visits only pairs that
overlap and keeps one mask per nucleus, like the code published with the metrics; the package builds one sparse table.
The ratio does not include detection, whose pairing is the same assignment problem in both.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.metrics import (
    aggregated_jaccard_index,
    aggregated_jaccard_index_plus,
    dice,
    dice2,
    image_metrics,
    overlap_table,
    panoptic_quality,
)


def synthetic_tile(nuclei: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A true and a predicted label map (size, size): ellipses on a jittered grid; moved, some lost, some merged."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(nuclei)))
    pitch = size / side
    true, pred = np.zeros((size, size), np.int32), np.zeros((size, size), np.int32)
    rows, columns = np.mgrid[:size, :size]
    for number in range(1, nuclei + 1):
        row, column = (np.array(divmod(number - 1, side)) + rng.uniform(0.35, 0.65, 2)) * pitch
        radii = rng.uniform(0.3, 0.5, 2) * pitch
        window = (
            slice(max(int(row - pitch), 0), int(row + pitch) + 1),
            slice(max(int(column - pitch), 0), int(column + pitch) + 1),
        )
        for label_map, shift in ((true, np.zeros(2)), (pred, rng.normal(0, 0.08 * pitch, 2))):
            distance = np.hypot(
                (rows[window] + 0.5 - row - shift[0]) / radii[0],
                (columns[window] + 0.5 - column - shift[1]) / radii[1],
            )
            label_map[window][distance <= 1] = number
    fate = rng.random(nuclei + 1)
    fate[0] = 1
    pred[fate[pred] < 0.1] = 0
    merged = (fate[pred] >= 0.1) & (fate[pred] < 0.15) & (pred > 1)
    pred[merged] -= 1
    return true, pred


def loop_scores(true: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """The five scores by full-tile masks, one pair of nuclei at a time."""
    true_masks = [true == number for number in np.unique(true) if number]
    pred_ids = [number for number in np.unique(pred) if number]
    pred_masks = [pred == number for number in pred_ids]
    position = {number: j for j, number in enumerate(pred_ids)}
    shared = np.zeros((len(true_masks), len(pred_masks)))
    joined = np.ones_like(shared)
    dice2_shared = dice2_total = 0
    for i, true_mask in enumerate(true_masks):
        for number in np.unique(pred[true_mask]):
            if not number:
                continue
            j = position[number]
            total = int(true_mask.sum()) + int(pred_masks[j].sum())
            shared[i, j] = (true_mask & pred_masks[j]).sum()
            joined[i, j] = total - shared[i, j]
            dice2_shared += shared[i, j]
            dice2_total += total
    iou = shared / joined

    def aggregated(pairs: list[tuple[int, int]]) -> float:
        true_paired, pred_paired = {i for i, _ in pairs}, {j for _, j in pairs}
        intersection = sum(shared[i, j] for i, j in pairs)
        union = sum(joined[i, j] for i, j in pairs)
        union += sum(mask.sum() for i, mask in enumerate(true_masks) if i not in true_paired)
        union += sum(mask.sum() for j, mask in enumerate(pred_masks) if j not in pred_paired)
        return float(intersection / union)

    best = [(i, int(row.argmax())) for i, row in enumerate(iou) if row.any()]
    one_to_one = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] > 0]
    matched = iou[iou > 0.5]
    return {
        "dice": float(2 * ((true > 0) & (pred > 0)).sum() / ((true > 0).sum() + (pred > 0).sum())),
        "dice2": float(2 * dice2_shared / dice2_total),
        "aji": aggregated(best),
        "aji_plus": aggregated(one_to_one),
        "pq": float(matched.sum() / ((len(true_masks) + len(pred_masks)) / 2)),
    }


def table_scores(true: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """The same five scores from one overlap table."""
    table = overlap_table(true, pred)
    return {
        "dice": dice(table),
        "dice2": dice2(table),
        "aji": aggregated_jaccard_index(table),
        "aji_plus": aggregated_jaccard_index_plus(table),
        "pq": panoptic_quality(table).pq,
    }


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs, the one that the machine disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--nuclei", type=int, nargs="+", default=[100, 1000], help="nuclei in the tile")
    parser.add_argument("--size", type=int, default=1000, help="side of the tile in pixels")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the fast form; the fastest counts")
    parser.add_argument("--json", type=Path, help="file to write the figures to")


def run(args: argparse.Namespace) -> list[dict[str, float]]:
    """Prints one line per tile and returns its figures (milliseconds).

    Raises:
        RuntimeError: the two forms disagree, so that their times cannot be compared.
    """
    results = []
    print(f"{'nuclei':>8} {'loop ms':>10} {'table ms':>10} {'ratio':>7} {'all metrics ms':>15}")
    for nuclei in args.nuclei:
        true, pred = synthetic_tile(nuclei, args.size)
        slow_scores, fast_scores = loop_scores(true, pred), table_scores(true, pred)
        for name, value in slow_scores.items():
            if abs(value - fast_scores[name]) > 1e-9:
                raise RuntimeError(f"{name} differs at {nuclei} nuclei: {value} by the loop, {fast_scores[name]} here")
        figures = {
            "nuclei": nuclei,
            "size": args.size,
            "loop_ms": 1e3 * fastest(lambda maps=(true, pred): loop_scores(*maps), 1),
            "table_ms": 1e3 * fastest(lambda maps=(true, pred): table_scores(*maps), args.repeats),
            "image_metrics_ms": 1e3 * fastest(lambda maps=(true, pred): image_metrics(*maps), args.repeats),
        }
        figures["ratio"] = figures["loop_ms"] / figures["table_ms"]
        print(
            f"{nuclei:8d} {figures['loop_ms']:10.1f} {figures['table_ms']:10.1f} {figures['ratio']:6.0f}x "
            f"{figures['image_metrics_ms']:15.1f}"
        )
        results.append(figures)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    with errors_in_one_line():
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        add_arguments(parser)
        run(parser.parse_args())
