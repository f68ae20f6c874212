"""Scores of single images as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..metrics import summarize
from .scoring import TileScore

# Averages over one image are the image's own scores, so their names lose the part that names the average.
_ENDINGS = ("_mean_over_images", "_pooled", "_mean_over_tissues")


def per_image_table(datasets: Mapping[str, Sequence[TileScore]]) -> pd.DataFrame:
    """A table with one row per image of all data sets and every score of [`cfsam_hf.metrics.summarize`] for one image.

    Args:
        datasets: scores of the tiles by data set.

    Returns:
        Columns `dataset`, `tile`, `tissue`, `fold`, `seconds`, `true_nuclei`, `pred_nuclei`, `dice`, `aji`, `pq`,
        `detection_f1`, `type_f1/<type>` and so on; a score that an image does not define is NaN.
    """
    rows = [
        {
            "dataset": dataset,
            "tile": tile.id,
            "tissue": tile.tissue,
            "fold": tile.fold,
            "seconds": tile.seconds,
            **image_scores(tile),
        }
        for dataset, tiles in datasets.items()
        for tile in tiles
    ]
    return pd.DataFrame(rows)


def image_scores(tile: TileScore) -> dict[str, Any]:
    """The scores of one image by name."""
    scores: dict[str, Any] = {}
    for name, value in summarize([tile.metrics], type_names=tile.type_names).items():
        stem, slash, of_type = name.partition("/")
        for ending in _ENDINGS:
            stem = stem.replace(ending, "")
        # R2 needs several images. Means over images and pooled scores are equal here; the first one stays.
        if name != "images" and "r2" not in stem:
            scores.setdefault(f"{stem}{slash}{of_type}", value)
    return scores
