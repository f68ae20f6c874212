"""The search for decoding parameters: of highest PQ and AJI on tiles whose truth is known."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..data import Tile
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
    # Of scores that are mean probabilities, as they are before calibration.
    "minimum_score": (0.0, 0.6, 0.65, 0.7, 0.725, 0.75, 0.775, 0.8),
    "minimum_area": (10, 20, 30, 45, 60),
}
# The same of calibrated scores.
CALIBRATED_MINIMUM_SCORES = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
# What another value must gain: less says more of the tiles at hand than of the next ones.
LEAST_GAIN = 0.001
# Which of them matter where there is no boundary map, and where there is one.
LONE, PAIRED = {"lone_jump_weight"}, {"boundary_weight", "jump_weight"}

# Maps and true label map of each tile, by data set.
Cases = Mapping[str, Sequence[tuple[NucleiMaps, np.ndarray]]]


def tuning_case(pipe: NucleiSegmentationPipeline, tile: Tile) -> tuple[NucleiMaps, np.ndarray]:
    """The blended maps of a tile, as `pipe` decodes them, and its true label map; nothing where it is not annotated.

    Raises:
        ValueError: the tile has another pixel size than the model, whose pixels the decoding parameters are in.
    """
    # Types, the larger half of the maps, have no say.
    maps, truth = replace(pipe.blended_maps(tile.image, mpp=tile.mpp), types=None), tile.instance_map
    if maps.nuclei.shape != truth.shape:
        raise ValueError(
            f"tile {tile.id} has {tile.mpp} micrometres per pixel and the model {pipe.image_processor.mpp}; choose "
            "decoding parameters and fit scores on tiles of the model's pixel size"
        )
    if tile.annotated is not None:
        maps, truth = replace(maps, nuclei=maps.nuclei * tile.annotated), np.where(tile.annotated, truth, 0)
    return maps, truth


def quality(cases: Cases, parameters: DecodingParameters) -> float:
    """Mean of PQ and AJI over the tiles of each data set, then over the data sets.

    PQ alone would drop every nucleus that is outlined too badly to match, AJI alone, which counts pixels, would keep
    all that are half right.
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
    """Searches the parameters one after the other for the highest quality: of each the best value, if it gains enough.

    Args:
        cases: of training tiles: whatever is chosen here flatters the tiles that it was chosen on.
        parameters: where the search begins, but for scores: they are mean probabilities in it and nothing is left out
            by them at first, since other nuclei need another calibration.
        rounds: times around all parameters.
        report: gets a line for the begin and for every improvement.

    Returns:
        The parameters, and their quality.

    Raises:
        ValueError: a data set in which there is nothing to find and nothing is found.
    """
    parameters = replace(parameters, score_weights=ScoreWeights(), minimum_score=0.0)
    best = _finite_quality(cases, parameters)
    report(f"{best:.4f} to begin with (mean of PQ and AJI)")
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
    """The same with the `minimum_score` of the highest quality, of scores that are calibrated probabilities.

    Raises:
        ValueError: a data set in which there is nothing to find and nothing is found.
    """
    tried = [replace(parameters, minimum_score=value) for value in CALIBRATED_MINIMUM_SCORES]
    return max(tried, key=lambda candidate: _finite_quality(cases, candidate))


def _finite_quality(cases: Cases, parameters: DecodingParameters) -> float:
    found = quality(cases, parameters)
    if not np.isfinite(found):
        raise ValueError(
            f"a data set among {', '.join(cases)} has no nuclei in its tiles: nothing can be chosen on it"
        )
    return found


def _variants(
    parameters: DecodingParameters, name: str, values: Sequence[float]
) -> Iterator[tuple[float, DecodingParameters]]:
    """Other values of one parameter, with the parameters that have them."""
    for value in values:
        # A value may not go with another parameter, as a core threshold below that of markers.
        with contextlib.suppress(ValueError):
            tried = replace(parameters, **{name: value})
            if tried != parameters:
                yield value, tried
