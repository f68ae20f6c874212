"""The results file: what was scored, and every score with its interval, by type and by tissue."""

from collections.abc import Mapping, Sequence
from typing import Any

from .bootstrap import CONFIDENCE, RESAMPLES, bootstrap_intervals
from .scoring import (
    TileScore,
    compare_types_of_all_or_none,
    known_tissues,
    summarize_tiles,
    why_types_are_not_compared,
)
from .systems import System

FORMAT = "cfsam_hf evaluation 1"

AVERAGING = {
    "_mean_over_images": "mean of the images' scores; an image that does not define the score is left out",
    "_mean_over_tissues": "mean over tissues of the mean over each tissue's images (PanNuke)",
    "_mean_over_types": "mean over types of the score that the rest of the name gives",
    "_pooled": "from counts summed over all images",
    "type_r2": "from the nuclei of the type counted per image (CoNIC)",
    "/NAME": "for the type NAME alone",
}
"""How a score was averaged, by the part of its name that states it."""


def results_record(
    system: System, part: str, environment: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The record of the whole results file.

    Args:
        system: what was evaluated.
        part: the scored part of the data sets.
        environment: [`cfsam_hf.evaluation.environment.environment`].
        datasets: [`dataset_record`] by the name of the data set.
    """
    return {
        "format": FORMAT,
        "system": {"name": system.name, **system.facts},
        "part": part,
        "environment": dict(environment),
        "averaging": AVERAGING,
        "results": {name: dict(record) for name, record in datasets.items()},
    }


def dataset_record(
    tiles: Sequence[TileScore],
    *,
    split: str | None = None,
    seconds: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The record of one data set.

    Args:
        tiles: scores of its tiles, from [`cfsam_hf.evaluation.evaluate_records`].
        split: split file or official split that lists the tiles.
        seconds: wall time of the whole evaluation.
        resamples, seed: of the bootstrap.

    Returns:
        `scores` and `intervals` by name for all tiles and, if the tissue of every tile is known, for those of each
        tissue in `tissues`. `types_not_compared`, if present, is the reason why there are no scores of types. If there
        are such scores, `true_nuclei_without_type` is the number of nuclei that they leave out.
    """
    tiles = compare_types_of_all_or_none(tiles)
    finding = sum(tile.seconds for tile in tiles)
    record = {
        "split": split,
        "tiles": [tile.id for tile in tiles],
        "types": list(tiles[0].type_names or ()),
        "seconds": None if seconds is None else round(seconds, 1),
        # NaN, which becomes null, if the nuclei were read from files.
        "seconds_finding_nuclei": round(finding, 1),
        "bootstrap": {
            "method": "percentiles, images drawn with replacement",
            "confidence": CONFIDENCE,
            "resamples": resamples,
            "seed": seed,
        },
        **_scores_and_intervals(tiles, resamples, seed),
    }
    if reason := why_types_are_not_compared(tiles):
        record["types_not_compared"] = reason
    tissues = known_tissues(tiles)
    if tissues is not None:
        groups = {name: [tile for tile in tiles if tile.tissue == name] for name in sorted(set(tissues))}
        record["tissues"] = {name: _scores_and_intervals(group, resamples, seed) for name, group in groups.items()}
    return record


def _scores_and_intervals(tiles: Sequence[TileScore], resamples: int, seed: int) -> dict[str, dict]:
    # The tiles of one tissue may lack types: then neither scores nor intervals have them.
    tiles = compare_types_of_all_or_none(tiles)
    tissues = known_tissues(tiles)
    intervals = bootstrap_intervals(
        [tile.metrics for tile in tiles],
        tissues=tissues,
        type_names=tiles[0].type_names,
        resamples=resamples,
        seed=seed,
    )
    return {
        "scores": summarize_tiles(tiles),
        # The last bits of sums of floats depend on the number of threads.
        "intervals": {name: [round(low, 6), round(high, 6)] for name, (low, high) in intervals.items()},
    }
