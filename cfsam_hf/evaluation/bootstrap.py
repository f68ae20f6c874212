"""Bootstrap confidence intervals of the scores of a data set, pooled ones too.

No image is scored again: the scores are functions of sums over the images, and a resample only weights these by how
often it drew each image.
"""

from collections.abc import Sequence

import numpy as np

from ..metrics import ImageMetrics
from ..metrics.summary import COUNTS, weighted_scores

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_intervals(
    images: Sequence[ImageMetrics],
    *,
    tissues: Sequence[str] | None = None,
    type_names: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the scores of [`cfsam_hf.metrics.summarize`], images drawn with replacement.

    They estimate how the score would vary with other images of the same kind. For a handful of images they are too
    narrow, as with any bootstrap.

    Args:
        images: metrics of each image; types were compared in all of them or in none.
        tissues: tissue of each image, for the means over tissues; or None.
        type_names: names of the types 1..T; by default the numbers.
        resamples: number of data sets drawn.
        confidence: share of them that the interval contains.
        seed: of the draws.

    Returns:
        (low, high) by the name of the score, without counts and scores of single tissues. NaN for a score that no
        resample defines, and for fewer than two images.

    Raises:
        ValueError: no images, or a number out of range.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    if not len(images):
        raise ValueError("no images to resample; score at least one")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples must be positive and confidence in (0, 1), got {resamples} and {confidence}")
    count = len(images)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    scores = weighted_scores(images, drawn, tissues=tissues, type_names=type_names)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    intervals = {}
    for name, values in scores.items():
        if name in COUNTS or name.partition("/")[2] in (tissues or ()):
            continue
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, tails) if len(values) and count > 1 else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
