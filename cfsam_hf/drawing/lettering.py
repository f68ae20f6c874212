"""Text on pictures: lines that fit their place, and the legend of colours."""

import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK = (32, 33, 36)
MUTED = (95, 99, 104)
PAPER = (255, 255, 255)


def fit_text(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont, width: float) -> str:
    """The text as Pillow's own font can write it, cut in its middle where it is wider than `width` pixels."""
    # That font has little beyond ASCII: accents are dropped, other letters and control characters become "?" and " ".
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
    """A strip of labelled colours, broken into lines, and a scale bar at its right end.

    Args:
        entries: RGB colour and label of each.
        width: of the strip in pixels.
        text: size of the letters in pixels.
        margin: free pixels at both sides.
        bar: length in pixels and label of the scale bar; none where None.
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
    # The bar takes the end of the last line, or a line of its own.
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
