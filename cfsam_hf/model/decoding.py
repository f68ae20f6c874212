"""From the model's maps to nuclei: instances, types and measures, without any per-tile rescaling.

Every threshold is absolute and every clean-up bounded in reach, so a nucleus decodes the same whatever lies elsewhere
on the tile. How instances come about is told in `instances.py`; here stand the parameters, the result, and the
one grouped pass that measures all nuclei.
"""

from dataclasses import asdict, dataclass, field, fields
from numbers import Real

import numpy as np

from .instances import JUMP_REACH, boundary_evidence, find_foreground, instance_runs
from .scores import ScoreWeights, score_measures
from .spans import InstanceRuns, expand_runs, run_summation


@dataclass(frozen=True)
class DecodingParameters:
    """Thresholds of decoding, all absolute: none depends on what else the tile shows.

    Args:
        nuclei_threshold: a pixel is foreground where the nuclei probability reaches this; in (0, 1).
        marker_threshold: a foreground pixel belongs to a marker where its nuclei probability exceeds the boundary
            energy (`boundary_weight * boundary + jump_weight * jump`) by this; in (0, 1).
        core_threshold: a marker in which several cores remain at this higher threshold is replaced by them, so that
            nuclei with a faint boundary between them come apart while small or faint ones keep their marker; at least
            `marker_threshold` and below 1.
        boundary_weight: weight of the boundary probability in the boundary energy; at least 0.
        jump_weight: weight of the distance maps' jump (0 inside a nucleus, 1 for the full fall from 1 to -1 between
            two touching nuclei) in the boundary energy; at least 0.
        lone_jump_weight: the same where there is no boundary map; at least 0.
        minimum_marker_area: markers of fewer pixels are ignored.
        minimum_core_area: cores of fewer pixels are ignored.
        minimum_area: nuclei of fewer pixels are dropped.
        minimum_score: nuclei with a lower score are dropped; at least 0 and below 1.
        maximum_hole_area: a nucleus's holes of at most so many pixels are filled, unless something lies inside them;
            larger ones are kept, and so are gaps between several nuclei.
        score_weights: what a nucleus' score is made of; by default it is its mean nuclei probability. They hold for
            the other parameters that they were fitted with.
    """

    nuclei_threshold: float = 0.5
    marker_threshold: float = 0.5
    core_threshold: float = 0.8
    boundary_weight: float = 1.0
    jump_weight: float = 1.0
    lone_jump_weight: float = 3.0
    minimum_marker_area: int = 5
    minimum_core_area: int = 40
    minimum_area: int = 20
    minimum_score: float = 0.0
    maximum_hole_area: int = 100
    score_weights: ScoreWeights = field(default_factory=ScoreWeights)

    def __post_init__(self):
        if not isinstance(self.score_weights, ScoreWeights):
            raise ValueError(
                f"score_weights are {self.score_weights!r}: they must be ScoreWeights; DecodingParameters.from_dict "
                "reads a dictionary of them"
            )
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if parameter.type is float and (isinstance(value, bool) or not isinstance(value, Real)):
                raise ValueError(f"{parameter.name} is {value!r}: it must be a number")
        for name in ("nuclei_threshold", "marker_threshold", "core_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie strictly between 0 and 1")
        if not 0 <= self.minimum_score < 1:
            raise ValueError(f"minimum_score is {self.minimum_score}: it must be at least 0 and below 1")
        if self.core_threshold < self.marker_threshold:
            raise ValueError(
                f"core_threshold is {self.core_threshold}: it must be at least the marker_threshold, "
                f"{self.marker_threshold}"
            )
        for name in ("boundary_weight", "jump_weight", "lone_jump_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or a positive number")
        for name in ("minimum_marker_area", "minimum_core_area", "minimum_area", "maximum_hole_area"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of pixels, 0 or more")

    @property
    def halo(self) -> int:
        """Pixels around a foreground component on which its decoding may depend.

        A crop that holds the component and so many pixels on each side of it (or ends with the image) decodes it as
        the whole image does, up to the id.
        """
        return JUMP_REACH

    def to_dict(self) -> dict:
        """Plain dictionary for a processor's configuration; `from_dict` restores it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DecodingParameters":
        """The inverse of `to_dict`; a name that is not a parameter raises ValueError."""
        known = [parameter.name for parameter in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            hint = ""
            if "minimum_probability" in unknown:
                hint = "; minimum_probability is minimum_score now, which is of the scores as score_weights make them"
            raise ValueError(f"unknown decoding parameters {unknown}: the known ones are {known}{hint}")
        if "score_weights" in values:
            values = {**values, "score_weights": ScoreWeights.from_dict(values["score_weights"])}
        return cls(**values)


@dataclass
class DecodedNuclei:
    """N nuclei of one image; row i of each array describes the nucleus with id i + 1.

    Args:
        instance_map: (H, W) int32, 0 is background; each id is one 4-connected region. Ids follow the raster order of
            the nuclei's first pixels.
        type_ids: (N,) int64, 1..T; 0 where the maps carry no types.
        type_probabilities: (N,) float64, share of the chosen type in the summed probabilities of all types
            (background left out); NaN without types.
        scores: (N,) float64 in [0, 1], how sure the nucleus is, as `ScoreWeights` makes it of its measures.
        boxes: (N, 4) int64, half-open x0, y0, x1, y1 in pixels.
        centroids: (N, 2) float64, x and y, where pixel (column i, row j) has its centre at (i + .5, j + .5).
        areas: (N,) int64, pixels.
        measures: (N, 5) float64, what the score was made of (`scores_cfsam.MEASURES`), in the model's pixels; None of
            nuclei that were not decoded from maps.
    """

    instance_map: np.ndarray
    type_ids: np.ndarray
    type_probabilities: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    centroids: np.ndarray
    areas: np.ndarray
    measures: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.areas)


def decode_nuclei(
    nuclei_probability: np.ndarray,
    hv_maps: np.ndarray,
    type_probabilities: np.ndarray | None = None,
    boundary_probability: np.ndarray | None = None,
    parameters: DecodingParameters = DecodingParameters(),
) -> DecodedNuclei:
    """Nuclei of one image from its maps.

    Args:
        nuclei_probability: (H, W), probability that a pixel lies in a nucleus.
        hv_maps: (2, H, W), horizontal (x) then vertical (y) offset from the nucleus's centroid, each side scaled
            to [-1, 1]; values outside the nuclei do not matter much.
        type_probabilities: (T + 1, H, W) with the background in channel 0, or None.
        boundary_probability: (H, W), probability that a pixel touches another label, or None.
        parameters: thresholds.

    Raises:
        ValueError: a map has the wrong shape, or holds a value that is not finite.
    """
    nuclei = _shaped(nuclei_probability, "nuclei_probability", None)
    shape = nuclei.shape
    if nuclei.size == 0:
        raise ValueError(f"nuclei_probability has shape {shape}: an image needs at least one pixel")
    hv_maps = _shaped(hv_maps, "hv_maps", (2, *shape))
    if boundary_probability is not None:
        boundary_probability = _shaped(boundary_probability, "boundary_probability", shape)
        require_finite(boundary_probability, "boundary_probability")
    if type_probabilities is not None:
        channels = len(type_probabilities) if np.ndim(type_probabilities) == 3 else 2
        # Whether they are finite is looked at when they are summed, so that they are read from memory once.
        type_probabilities = _shaped(type_probabilities, "type_probabilities", (max(channels, 2), *shape))
    require_finite(nuclei, "nuclei_probability")
    require_finite(hv_maps, "hv_maps")

    energy, evidence = boundary_evidence(nuclei, hv_maps, boundary_probability, parameters)
    runs = large_instances(*instance_runs(energy, find_foreground(evidence), parameters), parameters.minimum_area)
    instance_map = np.zeros(shape, dtype=np.int32)
    decoded, _ = measure_instances(*runs, instance_map, energy, nuclei, type_probabilities, parameters)
    return decoded


def _shaped(values: np.ndarray, name: str, shape: tuple | None) -> np.ndarray:
    """The map as contiguous float32, of the given shape or of any two-dimensional one."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 2 if shape is None else values.shape != shape:
        wanted = "(H, W)" if shape is None else f"{shape}, to fit nuclei_probability"
        raise ValueError(f"{name} has shape {values.shape}: it must be {wanted}")
    return values


def require_finite(values: np.ndarray, name: str) -> None:
    flat = values.reshape(-1)
    # A sum of squares costs less than a look at each value, and is finite only if they all are.
    if not np.isfinite(flat @ flat) and not np.isfinite(flat).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(flat))} values that are not finite")


def large_instances(starts, ends, labels, minimum_area):
    """Runs of the instances of at least `minimum_area` pixels, their instances, 1..N in the order of their first
    pixels, and N."""
    areas = np.bincount(labels, ends - starts) if len(labels) else np.zeros(1)
    kept = (areas >= minimum_area)[labels]
    starts, ends, labels = starts[kept], ends[kept], labels[kept]
    first_run = np.full(len(areas), -1, dtype=np.int64)
    first_run[labels[::-1]] = np.arange(len(labels))[::-1]
    present = np.flatnonzero(first_run >= 0)
    ids = np.zeros(len(areas), dtype=np.int64)
    ids[present[np.argsort(first_run[present])]] = np.arange(1, len(present) + 1)
    return starts, ends, ids[labels], len(present)


def measure_instances(
    starts, ends, ids, count, instance_map, energy, nuclei, type_probabilities, parameters, *, top=0, first_id=1
) -> tuple[DecodedNuclei, np.ndarray]:
    """Scores instances, paints those that are sure enough, and sums everything over runs, then over instances.

    Args:
        starts, ends: (R,) the instances' runs, flat in the padded map (H + 2, W + 2).
        ids: (R,) the instance, 1..N, of each run.
        count: their number N.
        instance_map: (H, W) int32, painted in place with the ids of what is kept, counted from `first_id`.
        energy: (H + 2, W + 2) float32, as `boundary_evidence` gives it.
        nuclei: (H, W) float32.
        type_probabilities: (T + 1, H, W), or a list of T + 1 maps, float32; or None.
        parameters: of these `minimum_score`, `score_weights` and `nuclei_threshold`.
        top: the image's row in which the maps begin; positions are told in the image.
        first_id: what the first instance that is kept is called.

    Returns:
        The nuclei that are kept, and the first pixel (M,) of each, flat in the padded map.
    """
    runs = InstanceRuns(starts, ends, ids - 1, count, energy.shape[1])
    pixels = expand_runs(runs.rows * nuclei.shape[1] + runs.columns, runs.lengths)
    summation = run_summation(pixels, runs.lengths, nuclei.size)

    def sums(values: np.ndarray) -> np.ndarray:
        return runs.sums(summation @ values.reshape(-1))

    measures = score_measures(runs, sums(nuclei) / runs.areas, nuclei, energy, parameters.nuclei_threshold)
    scores = parameters.score_weights.scores(measures)
    kept = np.flatnonzero(scores >= parameters.minimum_score)
    new_ids = np.zeros(count, dtype=np.int32)
    new_ids[kept] = np.arange(first_id, first_id + len(kept))
    instance_map.reshape(-1)[pixels] = np.repeat(new_ids[runs.index], runs.lengths)

    type_ids = np.zeros(count, dtype=np.int64)
    type_shares = np.full(count, np.nan)
    if type_probabilities is not None:
        require_finite(type_probabilities[0], "type_probabilities")
        votes = np.empty((len(type_probabilities) - 1, count))
        for vote, values in zip(votes, type_probabilities[1:], strict=True):
            require_finite(values, "type_probabilities")
            vote[:] = sums(values)
        best = np.argmax(votes, axis=0)
        type_ids = best + 1
        total = votes.sum(axis=0)
        # Where no type has any probability they share it equally.
        votes, total = np.where(total > 0, votes, 1), np.where(total > 0, total, len(votes))
        type_shares = votes[best, np.arange(count)] / total
    decoded = DecodedNuclei(
        instance_map=instance_map,
        type_ids=type_ids[kept],
        type_probabilities=type_shares[kept],
        scores=scores[kept],
        boxes=runs.boxes(top)[kept],
        centroids=runs.centroids(top)[kept],
        areas=runs.areas.astype(np.int64)[kept],
        measures=measures[kept],
    )
    return decoded, starts[runs.first_runs[kept]]
