"""Pictures of the errors of [`cfsam_hf.evaluation.errors`]: a sheet of examples, and a map of every tile."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from ..data import Tile
from ..drawing import error_map as error_maps
from ..drawing import error_sheet as sheets
from ..drawing.error_sheet import CONCERNED, OTHERS, ErrorExample, SheetRow
from ..drawing.lettering import INK, MUTED, PAPER
from ..drawing.outlines import Color, ColoredNuclei
from ..drawing.small_png import encode_small
from ..model.configuration_cfsam import rgb
from .colors import predicted_type_names, true_type_names
from .errors import DEFINITIONS, LOOSE, MATCHED, MERGED, MISSED, MISTYPED, SPLIT, SPURIOUS, NucleusErrors
from .predictions import Prediction
from .scoring import DEFAULT_MPP

ROWS = (MATCHED, LOOSE, SPLIT, MERGED, MISSED, SPURIOUS, MISTYPED)
SIDE_UM = 20.0
"""Width of the tissue that an example shows: two to three nuclei."""

# From the palette of the types, which colour-blind readers can distinguish too.
COLORS: dict[str, Color] = {
    MATCHED: (190, 190, 190),
    MISTYPED: rgb("#0072b2"),
    LOOSE: rgb("#009e73"),
    SPLIT: rgb("#cc79a7"),
    MERGED: rgb("#d55e00"),
    SPURIOUS: rgb("#56b4e9"),
    MISSED: (0, 0, 0),
}
LABELS = {
    MATCHED: "prediction, matched",
    MISTYPED: "matched, another type",
    LOOSE: "loose",
    SPLIT: "part of a split nucleus",
    MERGED: "merges several",
    SPURIOUS: "spurious",
    MISSED: "x: missed nucleus",
}

Item = TypeVar("Item")
# One error: rows of the true nuclei, rows of the predictions, and a caption.
Case = tuple[list[int], list[int], str]


def error_panel(tile: Tile, prediction: Prediction, errors: NucleusErrors) -> Image.Image:
    """One tile: the outline of every prediction in the colour of its class, and a cross on every missed nucleus.

    Args:
        tile, prediction: what was classified.
        errors: of [`cfsam_hf.evaluation.errors.classify_nuclei`]. Predictions outside the annotated area have no class
            and are not drawn.

    Returns:
        An RGB picture with the tile's name and counts above.
    """
    table = errors.table
    classes = dict(zip(table.pred_ids.tolist(), errors.pred_classes.tolist(), strict=True))
    # The mistyped are among the matched.
    classes |= dict.fromkeys(table.pred_ids[errors.mistyped[:, 1]].tolist(), MISTYPED)
    # In the order of the classes, so that errors lie on top of matches.
    colors = {i: color for name, color in COLORS.items() for i, of_class in classes.items() if of_class == name}
    nuclei = ColoredNuclei(np.asarray(prediction.instance_map), colors)
    matched = int((errors.true_classes == MATCHED).sum())
    about = [tile.id, tile.tissue, f"{matched:,} of {table.num_true:,} nuclei matched"]
    crosses = table.true_centroids[errors.true_classes == MISSED]
    return error_maps.error_panel(" · ".join(filter(None, about)), nuclei, crosses, COLORS[MISSED])


def error_map(title: str, panels: Sequence[Image.Image]) -> bytes:
    """The panels of a data set on one page, as a small PNG file.

    Args:
        title: what was classified on what.
        panels: of [`error_panel`].
    """
    page = error_maps.error_map(title, panels, [(COLORS[name], label) for name, label in LABELS.items()])
    return encode_small(page, kept=(INK, MUTED, PAPER, *COLORS.values()))


def error_examples(
    tile: Tile, prediction: Prediction, errors: NucleusErrors, most: int
) -> dict[str, list[ErrorExample]]:
    """Examples of a tile by class, evenly spread over the tile's errors in raster order.

    Errors so near the tile's border that they cannot lie in the middle of their crop are chosen only if there are no
    others.

    Args:
        tile, prediction: what was classified.
        errors: of [`cfsam_hf.evaluation.errors.classify_nuclei`].
        most: examples of each class, at most.
    """
    table = errors.table
    examples: dict[str, list[ErrorExample]] = {}
    for name, cases in _cases(tile, prediction, errors).items():
        examples[name] = []
        places = [
            np.concatenate([table.true_centroids[true_rows], table.pred_centroids[pred_rows]]).mean(axis=0)
            for true_rows, pred_rows, _ in cases
        ]
        whole = [i for i, place in enumerate(places) if _is_whole(tile, place)]
        for i in evenly(whole or range(len(cases)), most):
            true_rows, pred_rows, caption = cases[i]
            window = _window(tile, places[i])
            examples[name].append(
                ErrorExample(
                    tile.image[window],
                    np.ascontiguousarray(tile.instance_map[window]),
                    np.ascontiguousarray(np.asarray(prediction.instance_map)[window]),
                    frozenset(table.true_ids[true_rows].tolist()),
                    frozenset(table.pred_ids[pred_rows].tolist()),
                    " · ".join(filter(None, (caption, tile.tissue))),
                )
            )
    return examples


def error_sheet(
    title: str, examples: Mapping[str, Sequence[ErrorExample]], counts: Mapping[str, str], columns: int = 5
) -> bytes:
    """A row for each class that has an example, as a small PNG file.

    Args:
        title: what was classified on what.
        examples: by class; if there are more than fit in a row, they are chosen evenly.
        counts: text after the name of a class, such as how many there are.
        columns: examples in a row.
    """
    rows = [
        SheetRow(f"{name} {counts.get(name, '')}".strip(), DEFINITIONS[name], evenly(examples[name], columns))
        for name in ROWS
        if examples.get(name)
    ]
    return encode_small(sheets.error_sheet(title, rows, columns, SIDE_UM), (INK, MUTED, PAPER, CONCERNED, OTHERS))


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spread over them."""
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)] if len(items) > most else list(items)


def _cases(tile: Tile, prediction: Prediction, errors: NucleusErrors) -> dict[str, list[Case]]:
    table = errors.table
    true_names, pred_names = true_type_names(tile), predicted_type_names(prediction)
    ious = dict(zip(zip(table.pair_true.tolist(), table.pair_pred.tolist(), strict=True), table.ious, strict=True))
    matches = table.matches()

    def pair(true: int, pred: int) -> Case:
        return [true], [pred], f"IoU {ious.get((true, pred), 0.0):.2f}"

    def mistyped(true: int, pred: int) -> Case:
        names = [true_names.get(table.true_ids[true], "none"), pred_names.get(table.pred_ids[pred], "none")]
        return [true], [pred], " > ".join(names)

    matched = zip(table.pair_true[matches].tolist(), table.pair_pred[matches].tolist(), strict=True)
    return {
        MATCHED: [pair(*rows) for rows in matched],
        LOOSE: [pair(*rows) for rows in errors.loose_pairs.tolist()],
        SPLIT: [([true], preds, f"{len(preds)} for one") for true, preds in errors.split_nuclei],
        MERGED: [(trues, [pred], f"one for {len(trues)}") for pred, trues in errors.merging_predictions],
        MISSED: [
            ([row], [], true_names.get(table.true_ids[row], ""))
            for row in np.flatnonzero(errors.true_classes == MISSED).tolist()
        ],
        SPURIOUS: [
            ([], [row], pred_names.get(table.pred_ids[row], ""))
            for row in np.flatnonzero(errors.pred_classes == SPURIOUS).tolist()
        ],
        MISTYPED: [mistyped(*rows) for rows in errors.mistyped.tolist()],
    }


def _side(tile: Tile) -> int:
    """Pixels of an example's side, margins included."""
    return max(8, round(SIDE_UM / (tile.mpp or DEFAULT_MPP))) + 2 * sheets.MARGIN


def _is_whole(tile: Tile, centre: np.ndarray) -> bool:
    """Whether the square around a point (x, y) lies within the tile."""
    half, (height, width) = _side(tile) / 2, tile.instance_map.shape
    return bool(half <= centre[0] <= width - half and half <= centre[1] <= height - half)


def _window(tile: Tile, centre: np.ndarray) -> tuple[slice, slice]:
    """The square around a point (x, y) as (rows, columns), shifted to lie within the tile."""
    side = _side(tile)
    places = []
    for middle, length in zip(centre[::-1].tolist(), tile.instance_map.shape, strict=True):
        first = max(0, min(round(middle - side / 2), length - side))
        places.append(slice(first, min(first + side, length)))
    return places[0], places[1]
