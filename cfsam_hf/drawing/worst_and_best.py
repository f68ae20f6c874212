"""Worst and best tiles as pictures: truth, prediction and their differences side by side."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import label

from ..data import Tile
from ..evaluation.per_image import image_scores
from ..evaluation.predictions import Prediction
from ..evaluation.scoring import TileScore, renumbered_types
from ..metrics import UNKNOWN_TYPE, overlap_table
from ..metrics.nucleus_types import NucleusTypes, row_types
from ..model.contours import nucleus_contours
from ..model.nucleus_types import default_type_color, rgb
from .contour_lines import display_line, draw_lines
from .lettering import INK, MUTED, PAPER, fit_text
from .overlay import NICE_LENGTHS_UM

PANEL = 900
"""Side in pixels that a panel has about; small tiles are enlarged by a whole factor."""
MAX_SCALE = 4
GAP = 12
TEXT = 20
LONGEST_LINE = 2 * PANEL

# Of nuclei without a type: no type has this colour.
UNTYPED = (0, 0, 0)
# On the greyed image of differences, told apart by colour-blind readers too.
FOUND, OTHER_TYPE, MISSED, INVENTED = (200, 200, 200), (240, 228, 66), (255, 128, 0), (86, 190, 255)


@dataclass(eq=False)
class ShownTile:
    """What one row of a page shows."""

    score: TileScore
    tile: Tile
    prediction: Prediction


def ranked_tiles(tiles: Sequence[TileScore], each: int = 3) -> tuple[list[int], list[int]]:
    """Places of the tiles of lowest and of highest PQ, the worst and the best first.

    Args:
        tiles: the scores. A tile without a PQ (nothing there and nothing found) is left out.
        each: how many of both, at most; no tile is in both.
    """
    order = sorted(
        (i for i, tile in enumerate(tiles) if not math.isnan(tile.metrics.panoptic.pq)),
        key=lambda i: (tiles[i].metrics.panoptic.pq, tiles[i].id),
    )
    worst = order[: min(each, (len(order) + 1) // 2)]
    return worst, order[len(worst) :][::-1][:each]


def tiles_page(title: str, worst: Iterable[ShownTile], best: Iterable[ShownTile]) -> Image.Image:
    """One picture: a row per tile, the worst first, with its scores as caption.

    Args:
        title: what was evaluated on what.
        worst, best: the tiles. They are drawn one after the other, so an iterator need hold one at a time.

    Returns:
        An RGB picture.
    """
    large, small = ImageFont.load_default(size=1.4 * TEXT), ImageFont.load_default(size=TEXT)
    strips = [_line(title, large, INK, 2.4)]
    for heading, shown in (("Lowest PQ", worst), ("Highest PQ", best)):
        for place, row in enumerate(shown):
            if place == 0:
                strips.append(_line(heading, large, INK, 2.6))
            strips += [_line(caption, small, MUTED if i else INK, 1.4) for i, caption in enumerate(captions(row))]
            strips += [_panels(row), _legend(row, small), _line("", small, INK, 1.2)]
    width = max(strip.width for strip in strips) + 2 * GAP
    page = Image.new("RGB", (width, sum(strip.height for strip in strips) + 2 * GAP), PAPER)
    top = GAP
    for strip in strips:
        page.paste(strip, (GAP, top))
        top += strip.height
    return page


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


def outlined(
    image: np.ndarray,
    label_map: np.ndarray,
    color_of: Callable[[int], tuple[int, int, int]],
    scale: float,
    thickness: int | None = None,
) -> np.ndarray:
    """The image with the outlines of a label map's nuclei.

    Args:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) integers, 0 background; a nucleus may be in several pieces.
        color_of: RGB of a nucleus by its id.
        scale: pixels of the picture per pixel of the image.
        thickness: of the lines in pixels of the picture; by default more where the image is enlarged.

    Returns:
        (H * scale, W * scale, 3) uint8.
    """
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    thickness = thickness or (2 if scale >= 1.5 else 1)
    return _draw(np.ascontiguousarray(canvas), label_map, color_of, scale, thickness)


def _draw(canvas: np.ndarray, label_map: np.ndarray, color_of: Callable, scale: float, thickness: int) -> np.ndarray:
    pieces, count = label(label_map, connectivity=1, background=0, return_num=True)
    first = np.unique(pieces, return_index=True)[1][-count:] if count else []
    ids = label_map.ravel()[first]
    lines: dict[tuple[int, int, int], list[np.ndarray]] = {}
    contours = nucleus_contours(pieces, np.zeros((count, 4)))
    for nucleus, rings in zip(ids.tolist() if count else [], contours, strict=True):
        lines.setdefault(color_of(nucleus), []).extend(display_line(ring, scale) for ring in rings)
    for color, of_color in lines.items():
        draw_lines(canvas, of_color, color, thickness)
    return canvas


def _panels(shown: ShownTile) -> Image.Image:
    tile, prediction = shown.tile, shown.prediction
    longest = max(tile.image.shape[:2])
    scale = float(min(MAX_SCALE, PANEL // longest)) if longest <= PANEL else PANEL / longest
    colors = type_colors(tile, prediction)
    true_types = names_of_types(tile.instance_map, tile.type_map, tile.type_names)
    pred_types = names_of_types(prediction.instance_map, prediction.types, prediction.type_names)
    panels = [
        outlined(tile.image, tile.instance_map, lambda i: colors.get(true_types.get(i), UNTYPED), scale),
        outlined(tile.image, prediction.instance_map, lambda i: colors.get(pred_types.get(i), UNTYPED), scale),
        _differences(tile, prediction, scale),
    ]
    height, width = panels[0].shape[:2]
    font = ImageFont.load_default(size=TEXT)
    strip = Image.new("RGB", (3 * width + 2 * GAP, height + round(1.5 * TEXT)), PAPER)
    draw = ImageDraw.Draw(strip)
    titles = (
        f"truth: {shown.score.metrics.panoptic.num_true:,} nuclei",
        f"prediction: {shown.score.metrics.panoptic.num_pred:,} nuclei",
        "differences",
    )
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = place * (width + GAP)
        draw.text((left, 0.7 * TEXT), title, INK, font, anchor="lm")
        strip.paste(Image.fromarray(panel), (left, round(1.5 * TEXT)))
    if tile.mpp is not None:
        _scale_bar(draw, tile.mpp, scale, width, strip.height, font)
    return strip


def _differences(tile: Tile, prediction: Prediction, scale: float) -> np.ndarray:
    """The greyed image with what was found (thin), missed, invented and given another type."""
    grey = cv2.cvtColor(cv2.cvtColor(tile.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    # Darker, so that the lines stand out on glass and stroma too.
    canvas = (grey * 0.5).astype(np.uint8)
    fates = nucleus_fates(tile, prediction)
    rows = (
        (prediction.instance_map, fates.found, FOUND, 1),
        (prediction.instance_map, fates.other_type, OTHER_TYPE, 2),
        (prediction.instance_map, fates.invented, INVENTED, 2),
        (tile.instance_map, fates.missed, MISSED, 2),
    )
    canvas = outlined(canvas, np.zeros_like(tile.instance_map), lambda i: FOUND, scale)
    for label_map, ids, color, thickness in rows:
        chosen = np.where(np.isin(label_map, list(ids)), label_map, 0)
        _draw(canvas, chosen, lambda i, color=color: color, scale, thickness)
    return canvas


@dataclass(frozen=True)
class NucleusFates:
    """Ids by what became of them at IoU > .5; `missed` are true ones, the others predicted ones."""

    found: frozenset[int]
    other_type: frozenset[int]
    invented: frozenset[int]
    missed: frozenset[int]


def nucleus_fates(tile: Tile, prediction: Prediction) -> NucleusFates:
    """Sorts the nuclei of both sides into found, found with another type, invented and missed.

    Pixels that are not annotated are left out, and types are compared where the scores compare them: what matches a
    nucleus of unknown type is found.
    """
    truth, found = tile.instance_map, np.asarray(prediction.instance_map)
    if tile.annotated is not None:
        truth, found = (np.where(tile.annotated, ids, 0) for ids in (truth, found))
    table = overlap_table(truth, found)
    matched = table.matches()
    true_rows, pred_rows = table.pair_true[matched], table.pair_pred[matched]
    agree = np.ones(len(matched), bool)
    numbers = None if prediction.types is None else renumbered_types(tile, prediction.type_names)
    if numbers is not None:
        true_types = row_types(table.true_ids, numbers, truth, None, "true types", unknown=True)[true_rows]
        pred_types = row_types(table.pred_ids, prediction.types, found, None, "predicted types")
        agree = (true_types == pred_types[pred_rows]) | (true_types == UNKNOWN_TYPE)
    return NucleusFates(
        found=frozenset(table.pred_ids[pred_rows[agree]].tolist()),
        other_type=frozenset(table.pred_ids[pred_rows[~agree]].tolist()),
        invented=frozenset(np.delete(table.pred_ids, pred_rows).tolist()),
        missed=frozenset(np.delete(table.true_ids, true_rows).tolist()),
    )


def type_colors(tile: Tile, prediction: Prediction) -> dict[str, tuple[int, int, int]]:
    """RGB by the name of the type: the same on both sides, the prediction's own colours first."""
    colors = {name: rgb(default_type_color(i)) for i, name in tile.type_names.items()}
    own = {n: prediction.type_colors.get(i, rgb(default_type_color(i))) for i, n in prediction.type_names.items()}
    return colors | own


def names_of_types(label_map: np.ndarray, types: NucleusTypes | None, names: Mapping[int, str]) -> dict[int, str]:
    """Name of the type of each nucleus that has one, by its id."""
    ids = np.unique(label_map[label_map > 0])
    if types is None:
        return {}
    types = np.maximum(types, 0) if isinstance(types, np.ndarray) else types
    rows = row_types(ids, types, np.asarray(label_map), None, "types")
    return {i: names[t] for i, t in zip(ids.tolist(), rows.tolist(), strict=True) if t in names}


def _has_untyped(label_map: np.ndarray, types: NucleusTypes | None, names: Mapping[int, str]) -> bool:
    return len(names_of_types(label_map, types, names)) < len(np.unique(label_map[label_map > 0]))


def _legend(shown: ShownTile, font: ImageFont.ImageFont) -> Image.Image:
    fates = nucleus_fates(shown.tile, shown.prediction)
    items = list(type_colors(shown.tile, shown.prediction).items())
    tile, prediction = shown.tile, shown.prediction
    if _has_untyped(tile.instance_map, tile.type_map, tile.type_names) or _has_untyped(
        prediction.instance_map, prediction.types, prediction.type_names
    ):
        items.append(("without type", UNTYPED))
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    differences = [
        (f"true nucleus without match {len(fates.missed):,}", MISSED),
        (f"prediction without match {len(fates.invented):,}", INVENTED),
        (f"match of another type {len(fates.other_type):,}", OTHER_TYPE),
        (f"match {len(fates.found):,} (IoU > .5)", FOUND),
    ]
    if shown.score.type_names is None:
        del differences[2]
    groups = [("types:", items), ("differences:", differences)]
    width = round(sum(measure.textlength(text, font) + 2.4 * TEXT for _, g in groups for text, _ in g) + 14 * TEXT)
    strip = Image.new("RGB", (width, 2 * TEXT), PAPER)
    draw, x = ImageDraw.Draw(strip), 0.0
    for heading, entries in groups:
        draw.text((x, TEXT), heading, INK, font, anchor="lm")
        x += measure.textlength(heading, font) + 0.8 * TEXT
        for text, color in entries:
            draw.rectangle((x, 0.6 * TEXT, x + 0.8 * TEXT, 1.4 * TEXT), fill=color, outline=MUTED)
            draw.text((x + 1.1 * TEXT, TEXT), text, INK, font, anchor="lm")
            x += measure.textlength(text, font) + 2.2 * TEXT
        x += 2 * TEXT
    return strip


def _line(text: str, font: ImageFont.ImageFont, color: tuple[int, int, int], height: float) -> Image.Image:
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = fit_text(measure, text, font, LONGEST_LINE)
    width = round(measure.textlength(text, font=font)) + 2
    strip = Image.new("RGB", (width, round(height * TEXT)), PAPER)
    ImageDraw.Draw(strip).text((0, strip.height / 2), text, color, font, anchor="lm")
    return strip


def _scale_bar(draw: ImageDraw.ImageDraw, mpp: float, scale: float, width: int, bottom: int, font) -> None:
    """A bar of at most a quarter of the truth's panel, in its lower left corner."""
    fitting = [length for length in NICE_LENGTHS_UM if length / mpp * scale <= width / 4]
    if not fitting:
        return
    length = round(fitting[-1] / mpp * scale)
    text = f"{fitting[-1]} um"
    draw.rectangle((8, bottom - 2.4 * TEXT, 24 + max(length, draw.textlength(text, font)), bottom - 8), fill=PAPER)
    draw.text((16, bottom - 1.8 * TEXT), text, INK, font, anchor="lm")
    draw.line((16, bottom - 16, 16 + length, bottom - 16), fill=INK, width=4)
