"""The search for the decoding parameters with the highest PQ and AJI on annotated tiles."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data import Tile
from ..data.label_resampling import resample_labels
from ..metrics import aggregated_jaccard_index, defined_mean, overlap_table, panoptic_quality
from ..model.decoding import DecodingParameters, decode_nuclei
from ..model.maps import NucleiMaps
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.scores import ScoreWeights

# The candidates of each parameter, in the order in which they are searched.
GRID = {
    "nuclei_threshold": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "marker_threshold": (0.2, 0.3, 0.4, 0.5, 0.6),
    "core_threshold": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "boundary_weight": (0.5, 0.75, 1.0, 1.25, 1.5),
    "jump_weight": (0.0, 0.5, 1.0, 2.0, 3.0),
    "lone_jump_weight": (1.0, 2.0, 3.0, 4.5, 6.0),
    "minimum_marker_area": (3, 5, 10, 20),
    "minimum_core_area": (20, 40, 60, 80),
    # For scores that are mean probabilities, as before calibration.
    "minimum_score": (0.0, 0.6, 0.65, 0.7, 0.725, 0.75, 0.775, 0.8),
    "minimum_area": (10, 20, 30, 45, 60),
}
# The same for calibrated scores.
CALIBRATED_MINIMUM_SCORES = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
# The smallest gain for which a value is changed: a smaller one says more about these tiles than about others.
LEAST_GAIN = 0.001
# The parameters that matter only without a boundary map, and only with one.
LONE, PAIRED = {"lone_jump_weight"}, {"boundary_weight", "jump_weight"}

# Maps and true label map of each tile, by data set.
Cases = Mapping[str, Sequence[tuple[NucleiMaps, np.ndarray]]]


def tuning_case(pipe: NucleiSegmentationPipeline, tile: Tile) -> tuple[NucleiMaps, np.ndarray]:
    """Returns the blended maps of a tile, as `pipe` decodes them, and its true label map.

    Both are in the model's pixels, in which decoding parameters are, and empty outside the annotated area.
    """
    # Types take up most of the maps and do not matter here.
    maps = replace(pipe.blended_maps(tile.image, mpp=tile.mpp), types=None)
    truth = resample_labels(tile.instance_map, *maps.nuclei.shape)
    if tile.annotated is not None:
        annotated = resample_labels(tile.annotated, *maps.nuclei.shape)
        maps, truth = replace(maps, nuclei=maps.nuclei * annotated), np.where(annotated, truth, 0)
    return maps, truth


def quality(cases: Cases, parameters: DecodingParameters) -> float:
    """The mean of PQ and AJI over the tiles of each data set, averaged over the data sets.

    A search for PQ alone would drop every nucleus whose outline is too poor to match; a search for AJI alone, which
    counts pixels, would keep every nucleus that is half right.
    """
    by_dataset = []
    for pairs in cases.values():
        scores = []
        for maps, truth in pairs:
            decoded = decode_nuclei(maps.nuclei, maps.hv, None, maps.boundary, parameters)
            table = overlap_table(truth, decoded.instance_map)
            scores.append((panoptic_quality(table).pq + aggregated_jaccard_index(table)) / 2)
        by_dataset.append(defined_mean(scores))
    return float(np.mean(by_dataset))


def search_decoding(
    cases: Cases,
    parameters: DecodingParameters,
    rounds: int = 2,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[DecodingParameters, float]:
    """Searches the parameters one by one for the highest quality and keeps a better value if it gains enough.

    Args:
        cases: maps and truth of training tiles; the result flatters the tiles on which it was chosen.
        parameters: the start of the search, except for scores: the search uses mean probabilities and drops no nucleus
            by its score, since other parameters need another calibration.
        rounds: passes over all parameters.
        report: receives a line at the start and at every improvement.

    Returns:
        The parameters and their quality.

    Raises:
        ValueError: a data set has no nuclei, neither true nor decoded ones.
    """
    parameters = replace(parameters, score_weights=ScoreWeights(), minimum_score=0.0)
    best = _finite_quality(cases, parameters)
    report(f"{best:.4f} at the start (mean of PQ and AJI)")
    has_boundary = any(maps.boundary is not None for pairs in cases.values() for maps, _ in pairs)
    grid = {name: values for name, values in GRID.items() if name not in (LONE if has_boundary else PAIRED)}
    for _, (name, candidates) in itertools.product(range(rounds), grid.items()):
        scored = [(quality(cases, tried), value, tried) for value, tried in _variants(parameters, name, candidates)]
        score, value, tried = max(scored, key=lambda of: of[0], default=(best, None, parameters))
        if score >= best + LEAST_GAIN:
            best, parameters = score, tried
            report(f"{best:.4f} with {name} {value}")
    return parameters, best


def choose_minimum_score(cases: Cases, parameters: DecodingParameters) -> DecodingParameters:
    """Returns the parameters with the `minimum_score` of the highest quality, for scores that are calibrated.

    Raises:
        ValueError: a data set has no nuclei, neither true nor decoded ones.
    """
    tried = [replace(parameters, minimum_score=value) for value in CALIBRATED_MINIMUM_SCORES]
    return max(tried, key=lambda candidate: _finite_quality(cases, candidate))


def _finite_quality(cases: Cases, parameters: DecodingParameters) -> float:
    found = quality(cases, parameters)
    if not np.isfinite(found):
        raise ValueError(
            f"a data set among {', '.join(cases)} has no nuclei in its tiles; choose parameters on other tiles"
        )
    return found


def _variants(
    parameters: DecodingParameters, name: str, values: Sequence[float]
) -> Iterator[tuple[float, DecodingParameters]]:
    """Other values of one parameter, with the whole set of parameters for each."""
    for value in values:
        # Some values contradict another parameter, such as a core threshold below the marker threshold.
        with contextlib.suppress(ValueError):
            change: dict[str, Any] = {name: value}
            tried = replace(parameters, **change)
            if tried != parameters:
                yield value, tried
