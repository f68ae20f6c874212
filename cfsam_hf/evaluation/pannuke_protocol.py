"""PanNuke's three-fold protocol: three models, each tested on the fold that neither trained nor selected it."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ..data import list_tiles
from ..metrics.summary import COUNTS
from .bootstrap import RESAMPLES
from .processes import Processes
from .results import dataset_record
from .run import evaluate_records
from .scoring import TileScore
from .systems import System

SPLITS = (("1", "2", "3"), ("2", "1", "3"), ("3", "2", "1"))
"""Folds for training, validation and test of the three models, in the order of their training folds.

Gamper et al., "PanNuke Dataset Extension, Insights and Baselines", arXiv 2003.10778 (2020), section 4.
"""


def evaluate_pannuke(
    path: str,
    systems: Sequence[Callable[[], System]],
    *,
    part: str = "test",
    processes: Processes | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[TileScore], None] | None = None,
) -> tuple[dict[str, Any], list[list[TileScore]]]:
    """Evaluates three models by the protocol and averages their scores.

    Args:
        path: folder of the PanNuke download.
        systems: build the models trained on folds 1, 2 and 3; only one is in memory at a time.
        part: "test", or "validation" for the other fold that the model was not trained on.
        processes, progress: as in [`cfsam_hf.evaluation.evaluate_records`].
        resamples, seed: as in [`cfsam_hf.evaluation.dataset_record`].

    Returns:
        The record of the data set for the results file, and the scores of the tiles. In the record, `scores` are means
        over the three results and `deviations` their standard deviations, both also by tissue; `folds` holds each
        result.

    Raises:
        ValueError: there are not three systems, the part is unknown, or the reader refuses a fold.
        OSError: a fold is missing.
    """
    if len(systems) != len(SPLITS):
        raise ValueError(
            f"PanNuke's protocol needs {len(SPLITS)} models, trained on folds 1, 2 and 3; got {len(systems)}"
        )
    if part not in ("validation", "test"):
        raise ValueError(f"PanNuke's protocol tests or validates, part must be test or validation, got {part!r}")
    # A missing fold must be reported before the first one takes hours.
    folds = {fold: list_tiles("pannuke", path, split=fold) for fold in ("1", "2", "3")}
    results, scores = [], []
    for make_system, (train, validation, test) in zip(systems, SPLITS, strict=True):
        system = make_system()
        tiles = evaluate_records(folds[test if part == "test" else validation], system, processes, progress=progress)
        facts: dict[str, Any] = {"train": train, "validation": validation, "test": test}
        facts["system"] = {"name": system.name, **system.facts}
        results.append({**facts, **dataset_record(tiles, resamples=resamples, seed=seed)})
        scores.append(tiles)
    return {"protocol": "PanNuke, three folds", **average_folds(results), "folds": results}, scores


def average_folds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of every score over the folds that define it; counts are summed.

    Args:
        results: [`cfsam_hf.evaluation.dataset_record`] of each fold.

    Returns:
        `tiles`, `types`, `scores`, `deviations`, the last two also by tissue in `tissues`, and `types_not_compared` of
        the first fold that has it.
    """
    names = list(dict.fromkeys(tissue for result in results for tissue in sorted(result.get("tissues", {}))))
    record: dict[str, Any] = {
        "tiles": sorted({tile for result in results for tile in result["tiles"]}),
        "types": list(dict.fromkeys(name for result in results for name in result["types"])),
        **_mean_and_deviation([result["scores"] for result in results]),
    }
    reasons = [result["types_not_compared"] for result in results if "types_not_compared" in result]
    if reasons:
        record["types_not_compared"] = reasons[0]
    if all("tissues" in result for result in results):
        record["tissues"] = {
            name: _mean_and_deviation([r["tissues"][name]["scores"] for r in results if name in r["tissues"]])
            for name in sorted(names)
        }
    return record


def _mean_and_deviation(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    means, deviations = {}, {}
    for name in dict.fromkeys(name for of_fold in scores for name in of_fold):
        values = [of_fold[name] for of_fold in scores if not math.isnan(of_fold.get(name, math.nan))]
        if name in COUNTS:
            means[name] = sum(values)
            continue
        means[name] = fmean(values) if values else math.nan
        deviations[name] = stdev(values) if len(values) > 1 else math.nan
    return {"scores": means, "deviations": deviations}
