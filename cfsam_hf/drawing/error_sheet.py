"""Examples of each class of error as one picture: tissue with the truth on the left, the prediction on the right."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data import Tile
from ..evaluation.errors import DEFINITIONS, LOOSE, MATCHED, MERGED, MISSED, MISTYPED, SPLIT, SPURIOUS, NucleusErrors
from ..evaluation.predictions import Prediction
from ..evaluation.scoring import DEFAULT_MPP
from .lettering import INK, MUTED, PAPER, fit_text
from .worst_and_best import names_of_types, outlined

ROWS = (MATCHED, LOOSE, SPLIT, MERGED, MISSED, SPURIOUS, MISTYPED)
SIDE_UM = 20.0
"""Width of the tissue that an example shows: two to three nuclei."""
MARGIN = 4
"""Pixels of the tile cut off all around what is drawn: where a nucleus is cut its outline would run along the edge."""
PANEL = 128
"""Pixels of a panel's side."""
GAP, TEXT = 10, 13
CONCERNED, OTHERS = (255, 225, 0), (70, 70, 80)
LARGEST_FILE = 400_000
PALETTES = (256, 128, 64, 32, 16)


@dataclass(frozen=True, eq=False)
class ErrorExample:
    """One error as it is drawn.

    Attributes:
        image: (S, S, 3) uint8, the tissue around it and the margin.
        truth, found: (S, S) integer label maps of the same place.
        true_ids, pred_ids: the nuclei concerned.
        caption: a few words.
    """

    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    true_ids: frozenset[int]
    pred_ids: frozenset[int]
    caption: str


def error_examples(
    tile: Tile, prediction: Prediction, errors: NucleusErrors, most: int
) -> dict[str, list[ErrorExample]]:
    """Examples of a tile by class, at most so many of each, evenly spread over the tile's errors in raster order.

    Those in the middle of their crop come before those too near the tile's border for it.

    Args:
        tile, prediction: what was classified.
        errors: of [`cfsam_hf.evaluation.errors.classify_nuclei`].
        most: examples of each class.
    """
    table = errors.table
    true_names = names_of_types(tile.instance_map, tile.type_map, tile.type_names)
    pred_names = names_of_types(prediction.instance_map, prediction.types, prediction.type_names)
    ious = dict(zip(zip(table.pair_true.tolist(), table.pair_pred.tolist(), strict=True), table.ious, strict=True))
    matches = table.matches()

    def pair(true: int, pred: int) -> tuple[list[int], list[int], str]:
        return [true], [pred], f"IoU {ious.get((true, pred), 0.0):.2f}"

    def mistyped(true: int, pred: int) -> tuple[list[int], list[int], str]:
        names = [true_names.get(table.true_ids[true], "none"), pred_names.get(table.pred_ids[pred], "none")]
        return [true], [pred], " > ".join(names)

    cases = {
        MATCHED: [pair(*rows) for rows in zip(table.pair_true[matches], table.pair_pred[matches], strict=True)],
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
    examples = {}
    for name, of_class in cases.items():
        examples[name] = []
        places = [
            np.concatenate([table.true_centroids[true_rows], table.pred_centroids[pred_rows]]).mean(axis=0)
            for true_rows, pred_rows, _ in of_class
        ]
        whole = [i for i, place in enumerate(places) if _is_whole(tile, place)]
        for i in evenly(whole or range(len(of_class)), most):
            true_rows, pred_rows, caption = of_class[i]
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


def evenly(items: Sequence, most: int) -> list:
    """At most so many of the items, evenly spread over them."""
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)] if len(items) > most else list(items)


def error_sheet(
    title: str, examples: Mapping[str, Sequence[ErrorExample]], counts: Mapping[str, str], columns: int = 5
) -> Image.Image:
    """Draws a row per class that has an example.

    Args:
        title: what was classified on what.
        examples: by class; of more than fit in a row some are chosen evenly.
        counts: what stands behind the name of a class, such as how many there are.
        columns: examples in a row.

    Returns:
        An RGB picture.
    """
    large, bold, small = (ImageFont.load_default(size=size) for size in (1.5 * TEXT, 1.15 * TEXT, TEXT))
    cell = 2 * PANEL + 2
    width = columns * (cell + GAP) + GAP
    rows = [(name, evenly(examples[name], columns)) for name in ROWS if examples.get(name)]
    head, line, foot = round(4.2 * TEXT), round(2.4 * TEXT), round(2.0 * TEXT)
    page = Image.new("RGB", (width, head + len(rows) * (line + PANEL + foot) + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 1.4 * TEXT), fit_text(draw, title, large, width - 2 * GAP), INK, large, anchor="lm")
    key = f"In each pair: truth left, prediction right; {SIDE_UM:g} um wide. Yellow: the nuclei meant; grey: others."
    draw.text((GAP, 3.3 * TEXT), fit_text(draw, key, small, width - 2 * GAP), MUTED, small, anchor="lm")
    top = head
    for name, shown in rows:
        heading = f"{name} {counts.get(name, '')}".strip()
        draw.text((GAP, top + 1.4 * TEXT), heading, INK, bold, anchor="lm")
        start = GAP + draw.textlength(heading, font=bold) + TEXT
        text = fit_text(draw, DEFINITIONS[name], small, width - GAP - start)
        draw.text((start, top + 1.4 * TEXT), text, MUTED, small, anchor="lm")
        top += line
        for place, example in enumerate(shown):
            left = GAP + place * (cell + GAP)
            page.paste(_panel(example.image, example.truth, example.true_ids), (left, top))
            page.paste(_panel(example.image, example.found, example.pred_ids), (left + PANEL + 2, top))
            text = fit_text(draw, example.caption, small, cell)
            draw.text((left, top + PANEL + 0.8 * TEXT), text, INK, small, anchor="lm")
        top += PANEL + foot
    return page


def encode_small(
    page: Image.Image,
    largest: int = LARGEST_FILE,
    kept: Sequence[tuple[int, int, int]] = (INK, MUTED, PAPER, CONCERNED, OTHERS),
) -> bytes:
    """The picture as a PNG with as many colours as keep it under `largest` bytes, 16 at the least.

    Args:
        page: an RGB picture.
        largest: bytes.
        kept: RGB colours that stay as they are, such as those of text and outlines; fewer than 16.
    """
    pixels = np.asarray(page)
    for colors in PALETTES:
        own = page.quantize(colors - len(kept), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
        palette = Image.new("P", (1, 1))
        palette.putpalette([value for color in kept for value in color] + own[: 3 * (colors - len(kept))])
        # Pillow takes a colour that is near enough, not the nearest.
        indices = np.array(page.quantize(palette=palette, dither=Image.Dither.NONE))
        for index, color in enumerate(kept):
            indices[(pixels == color).all(axis=-1)] = index
        picture = Image.fromarray(indices)
        picture.putpalette(palette.getpalette())
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        if file.tell() <= largest:
            break
    return file.getvalue()


def _panel(image: np.ndarray, label_map: np.ndarray, concerned: frozenset[int]) -> Image.Image:
    scale = PANEL / (max(image.shape[:2]) - 2 * MARGIN)
    cut = round(MARGIN * scale)
    picture = outlined(image, label_map, lambda nucleus: CONCERNED if nucleus in concerned else OTHERS, scale)
    panel = Image.new("RGB", (PANEL, PANEL), PAPER)
    panel.paste(Image.fromarray(picture[cut:-cut, cut:-cut][:PANEL, :PANEL]))
    return panel


def _side(tile: Tile) -> int:
    """Pixels of an example's side."""
    return max(8, round(SIDE_UM / (tile.mpp or DEFAULT_MPP))) + 2 * MARGIN


def _is_whole(tile: Tile, centre: np.ndarray) -> bool:
    """Whether an example around a point (x, y) lies in the tile."""
    half, (height, width) = _side(tile) / 2, tile.instance_map.shape
    return bool(half <= centre[0] <= width - half and half <= centre[1] <= height - half)


def _window(tile: Tile, centre: np.ndarray) -> tuple[slice, slice]:
    """The square around a point (x, y), moved into the tile where it would reach over its border."""
    side = _side(tile)
    places = []
    for middle, length in zip(centre[::-1].tolist(), tile.instance_map.shape, strict=True):
        first = max(0, min(round(middle - side / 2), length - side))
        places.append(slice(first, min(first + side, length)))
    return places[0], places[1]
