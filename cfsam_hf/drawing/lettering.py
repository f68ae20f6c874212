"""Text on pictures: lines shortened to fit, the legend of colours, and the length of a scale bar."""

import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK = (32, 33, 36)
MUTED = (95, 99, 104)
PAPER = (255, 255, 255)
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Color = tuple[int, int, int]
NICE_LENGTHS_UM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


def fit_text(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """The text in the characters of Pillow's own font, shortened in the middle if it is wider than `width` pixels."""
    # That font has little beyond ASCII: accents are dropped, other letters become "?", and control characters spaces.
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = "".join(
        c if (c.isascii() and c.isprintable()) or c in "·…" else "?" if c.isprintable() else " " for c in letters
    )
    if draw.textlength(text, font=font) <= width:
        return text
    keep = len(text)
    while keep > 2:
        keep -= 1
        cut = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
        if draw.textlength(cut, font=font) <= width:
            return cut
    return "…"


def legend_strip(
    entries: Sequence[tuple[tuple[int, int, int], str]],
    width: int,
    text: int,
    margin: int,
    bar: tuple[int, str] | None = None,
) -> Image.Image:
    """A strip of labelled colours, broken into lines, with a scale bar at its right end.

    Args:
        entries: RGB colour and label of each.
        width: pixels of the strip.
        text: size of the letters in pixels.
        margin: free pixels on both sides.
        bar: length in pixels and label of the scale bar, as [`scale_bar_length`] returns them; None for no bar.
    """
    font = ImageFont.load_default(size=text)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    room = width - 2 * margin
    items, x, line = [], 0, 0
    for color, label in entries:
        label = fit_text(measure, label, font, room - 2 * text)
        needed = round(1.6 * text + measure.textlength(label, font=font))
        if x and x + needed > room:
            x, line = 0, line + 1
        items.append((x, line, color, label))
        x += needed + 2 * text
    # The bar takes the end of the last line, or a separate line.
    if bar and x + bar[0] + 6 * text > room:
        line += 1
    strip = Image.new("RGB", (width, round((2.0 * (line + 1) + 0.8) * text)), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, row, color, label in items:
        left, middle = margin + x, (1.4 + 2.0 * row) * text
        draw.rounded_rectangle(
            (left, middle - 0.5 * text, left + text, middle + 0.5 * text),
            radius=text // 4,
            outline=color,
            width=max(2, text // 6),
        )
        draw.text((left + 1.6 * text, middle), label, INK, font, anchor="lm")
    if bar:
        length, label = bar
        middle, right = (1.4 + 2.0 * line) * text, width - margin
        draw.line((right - length, middle, right, middle), fill=INK, width=max(2, text // 6))
        draw.text((right - length - 0.6 * text, middle), label, INK, font, anchor="rm")
    return strip


def scale_bar_length(mpp: float, scale: float, longest: float) -> tuple[int, str] | None:
    """Length in pixels of the picture and label of the longest round scale bar that fits.

    Args:
        mpp: micrometres per pixel of the image.
        scale: pixels of the picture per pixel of the image.
        longest: pixels of the picture that the bar may take.

    Returns:
        None if even the shortest bar does not fit.
    """
    length = scale_bar_um(longest * mpp / scale)
    # The font that Pillow ships lacks the sign for micro.
    return None if length is None else (round(length / mpp * scale), f"{length} um")


def scale_bar_um(longest: float) -> int | None:
    """The longest round length in micrometres of at most `longest`; None if even the shortest does not fit."""
    return max((length for length in NICE_LENGTHS_UM if length <= longest), default=None)


def draw_measure(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: Color, size: float, anchor: str = "lm"
) -> float:
    """Draws a line in which the 2 of each `mm2` is raised, which Pillow's own font has no letter for.

    Args:
        draw: the canvas.
        place: where the line's left end, middle or right end lies, and its middle height.
        text: the line, of characters that the font has.
        color: RGB.
        size: of the letters in pixels.
        anchor: "lm", "mm" or "rm", as Pillow names them.

    Returns:
        The width of the line in pixels.
    """
    large, small = ImageFont.load_default(size=size), ImageFont.load_default(size=0.62 * size)
    # Each piece but the last is followed by a raised 2.
    pieces = text.replace("mm2", "mm\0").split("\0")
    gap = 0.06 * size
    raised = draw.textlength("2", font=small) + 2 * gap
    width = sum(draw.textlength(piece, font=large) for piece in pieces) + raised * (len(pieces) - 1)
    x, y = place
    x -= {"l": 0.0, "m": width / 2, "r": width}[anchor[0]]
    for number, piece in enumerate(pieces):
        if number:
            draw.text((x + gap, y - 0.28 * size), "2", color, small, anchor="lm")
            x += raised
        draw.text((x, y), piece, color, large, anchor="lm")
        x += draw.textlength(piece, font=large)
    return width
