"""Means that say what they leave out: undefined values (NaN) do not count."""

from collections.abc import Iterable

import numpy as np


def defined_mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN where there are none (and no warning).

    Example:
        >>> defined_mean([0.5, float("nan"), 1.0]), defined_mean([float("nan")])
        (0.75, nan)
    """
    values = np.asarray(list(values), dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def defined_mean_by(values: Iterable[float], groups: Iterable[str]) -> dict[str, float]:
    """`defined_mean` of each group, groups in the order in which they first come.

    Example:
        >>> defined_mean_by([0.2, 0.4, 1.0], ["liver", "liver", "colon"])
        {'liver': 0.30000000000000004, 'colon': 1.0}
    """
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return {group: defined_mean(of_group) for group, of_group in members.items()}
