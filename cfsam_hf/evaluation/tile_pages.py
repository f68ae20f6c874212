"""The page of an evaluation's worst and best tiles: chooses the tiles and what is shown of each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data import Tile
from ..drawing.worst_and_best import UNTYPED, ComparedTile, Differences
from ..drawing.worst_and_best import tiles_page as draw_page
from .colors import colored_prediction, colored_truth, type_colors
from .errors import MATCHED, classify_nuclei
from .per_image import image_scores
from .predictions import Prediction
from .scoring import TileScore


@dataclass(frozen=True, eq=False)
class ShownTile:
    """A tile, what a system found in it, and how that scored."""

    score: TileScore
    tile: Tile
    prediction: Prediction


def ranked_tiles(tiles: Sequence[TileScore], each: int = 3) -> tuple[list[int], list[int]]:
    """Positions of the tiles with the lowest PQ, the worst first, and of those with the highest PQ, the best first.

    Args:
        tiles: the scores. A tile without a PQ (no true nucleus and no predicted one) is left out.
        each: tiles of either kind, at most; no tile is in both lists.
    """
    order = sorted(
        (i for i, tile in enumerate(tiles) if not math.isnan(tile.metrics.panoptic.pq)),
        key=lambda i: (tiles[i].metrics.panoptic.pq, tiles[i].id),
    )
    worst = order[: min(each, (len(order) + 1) // 2)]
    return worst, order[len(worst) :][::-1][:each]


def tiles_page(title: str, worst: Iterable[ShownTile], best: Iterable[ShownTile]) -> Image.Image:
    """One picture with a row per tile, the worst first: truth, prediction and differences, with the scores above.

    Args:
        title: what was evaluated on what.
        worst, best: the tiles. They are drawn one by one, so an iterator may hold a single tile at a time.

    Returns:
        An RGB picture.
    """
    return draw_page(title, _rows(worst), _rows(best))


def _rows(tiles: Iterable[ShownTile]) -> Iterator[ComparedTile]:
    for shown in tiles:
        tile, prediction, panoptic = shown.tile, shown.prediction, shown.score.metrics.panoptic
        colors = type_colors(tile, prediction)
        truth, found = colored_truth(tile, colors), colored_prediction(prediction, colors)
        untyped = UNTYPED in (*truth.colors.values(), *found.colors.values())
        yield ComparedTile(
            captions=captions(shown),
            image=tile.image,
            truth=truth,
            prediction=found,
            counts=(panoptic.num_true, panoptic.num_pred),
            differences=differences(tile, prediction, shown.score.type_names is not None),
            types=colors | ({"without type": UNTYPED} if untyped else {}),
            mpp=tile.mpp,
        )


def captions(shown: ShownTile) -> list[str]:
    """Two lines: which tile it is, and its scores."""
    scores = image_scores(shown.score)
    about = [shown.tile.id, shown.tile.tissue, None if shown.tile.mpp is None else f"{shown.tile.mpp:g} um per pixel"]
    values = {"PQ": "pq", "AJI": "aji", "Dice": "dice", "DQ": "dq", "SQ": "sq", "Fd": "detection_f1", "mPQ": "mpq"}
    text = [f"{name} {scores[key]:.2f}" for name, key in values.items() if not math.isnan(scores.get(key, math.nan))]
    text += [
        f"F1 {name} {scores[f'type_f1/{name}']:.2f}"
        for name in shown.score.type_names or ()
        if not math.isnan(scores[f"type_f1/{name}"])
    ]
    return [" · ".join(filter(None, about)), " · ".join(text)]


def differences(tile: Tile, prediction: Prediction, types_compared: bool) -> Differences:
    """Pairs the nuclei of both sides at IoU > .5.

    Unannotated pixels are left out. A prediction that matches a nucleus of unknown type counts as found.

    Args:
        tile, prediction: the two sides.
        types_compared: whether a match of another type is listed as such.
    """
    errors = classify_nuclei(tile, prediction)
    matched = errors.pred_classes == MATCHED
    mistyped = np.zeros(len(matched), dtype=bool)
    mistyped[errors.mistyped[:, 1]] = True
    ids = errors.table.pred_ids
    return Differences(
        found=frozenset(ids[matched & ~(mistyped & types_compared)].tolist()),
        other_type=frozenset(ids[mistyped].tolist()) if types_compared else None,
        invented=frozenset(ids[~matched].tolist()),
        missed=frozenset(errors.table.true_ids[errors.true_classes != MATCHED].tolist()),
    )
