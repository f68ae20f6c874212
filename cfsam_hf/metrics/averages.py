"""Combines single images into a data set: counts that add up, and means that leave out undefined values (NaN).

Both take weights, how often a data set holds each image: weights of 1 give a data set's scores, and the draws of a
bootstrap give those of its resamples.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np

Added = TypeVar("Added", bound="Counts")


@dataclass(frozen=True, eq=False)
class Counts:
    """Base of counts that add over images with `+`, `sum` and `pooled`."""

    def __radd__(self: Added, other: object) -> Added:
        # sum() starts from the number 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented


def pooled(counts: Iterable[Added]) -> Added:
    """The counts of all images added up; at least one image.

    Example:
        >>> from cfsam_hf.metrics import PanopticQuality
        >>> pooled([PanopticQuality(3, 1, 1, 2.4), PanopticQuality(0, 2, 0, 0.0)]).false_positives
        3
    """
    images = list(counts)
    if not images:
        raise ValueError("no images: there are no counts to add up")
    return reduce(operator.add, images)


def defined_mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none (and no warning).

    Example:
        >>> defined_mean([0.5, float("nan"), 1.0]), defined_mean([float("nan")])
        (0.75, nan)
    """
    given = list(values)
    return float(weighted_means(np.ones((1, len(given))), given)[0])


def defined_mean_by(values: Iterable[float], groups: Iterable[str]) -> dict[str, float]:
    """`defined_mean` of each group, in the order in which the groups first appear.

    Example:
        >>> defined_mean_by([0.2, 0.4, 1.0], ["liver", "liver", "colon"])
        {'liver': 0.30000000000000004, 'colon': 1.0}
    """
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return {group: defined_mean(of_group) for group, of_group in members.items()}


def weighted_sums(weights: np.ndarray, values: Any) -> np.ndarray:
    """(R, ...) float64 sums over N images of the values (N, ...), with weights (R, N).

    Weights of 1 give the same as adding the values one by one, to the last bit: whole numbers are exact in any order,
    others are added in the order of the images.

    Example:
        >>> weighted_sums(np.array([[1, 1, 1], [2, 0, 1]]), [0.5, 2.0, 1.0]).tolist()
        [3.5, 2.0]
    """
    values = np.asarray(values)
    weights = np.asarray(weights, dtype=np.float64)
    if np.issubdtype(values.dtype, np.integer):
        return np.tensordot(weights, values.astype(np.float64), axes=1)
    sums = np.zeros((len(weights), *values.shape[1:]))
    for weight, value in zip(np.transpose(weights), values, strict=True):
        sums += np.multiply.outer(weight, value)
    return sums


def weighted_totals(weights: np.ndarray, counts: Sequence[Counts]) -> tuple[np.ndarray, ...]:
    """The fields of the counts of N images, each added up to (R, ...) with weights (R, N)."""
    names = [each.name for each in fields(counts[0])]
    return tuple(weighted_sums(weights, [getattr(of_image, name) for of_image in counts]) for name in names)


def weighted_means(weights: np.ndarray, values: Any) -> np.ndarray:
    """(R,) means over N images of the values (N,) that are defined, with weights (R, N); NaN where there are none.

    Example:
        >>> weighted_means(np.array([[1, 1, 1], [3, 1, 0]]), [0.5, 1.0, float("nan")]).tolist()
        [0.75, 0.625]
    """
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    if not defined.all():
        # Contiguous rows are added like a single vector.
        weights, values = np.ascontiguousarray(weights[:, defined]), values[defined]
    return ratio((weights * values).sum(axis=1), weights.sum(axis=1))


def first_values(quality: Any) -> Any:
    """A dataclass, tuple or dictionary of arrays (R,) with the first value of each in its place.

    Example:
        >>> first_values({"dice": (np.array([0.5]),), "images": 3})
        {'dice': (0.5,), 'images': 3}
    """
    if isinstance(quality, np.ndarray):
        return float(quality[0])
    if isinstance(quality, tuple):
        return tuple(first_values(value) for value in quality)
    if isinstance(quality, dict):
        return {name: first_values(value) for name, value in quality.items()}
    if is_dataclass(quality) and not isinstance(quality, type):
        return replace(quality, **{each.name: first_values(getattr(quality, each.name)) for each in fields(quality)})
    return quality


def row_means(values: Any) -> np.ndarray:
    """(R,) means of the values in each row (R, K) that are defined; NaN where there are none.

    Example:
        >>> row_means([[0.5, float("nan"), 1.0], [float("nan")] * 3]).tolist()
        [0.75, nan]
    """
    values = np.asarray(values, dtype=np.float64)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Numerator over denominator, element by element; NaN where the denominator is 0.

    Example:
        >>> ratio([1, 2], [4, 0]).tolist()
        [0.25, nan]
    """
    undefined = np.full(np.shape(numerator), np.nan)
    quotient: np.ndarray = np.divide(numerator, denominator, out=undefined, where=np.greater(denominator, 0))
    return quotient
