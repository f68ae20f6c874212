"""The picture of a result: contours coloured by type over the image, with a title, a legend and a scale bar."""

import json
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files.own_results import SOFTWARE
from ..model.result import NucleiResult, provenance, type_styles
from .lettering import INK, MUTED, PAPER, fit_text, legend_strip, scale_bar_length
from .outlines import draw_rings, enlarge
from .picture_files import write_picture

# Small images are enlarged towards this side by an integer factor, since lines of whole pixels would hide small
# nuclei; very large ones are reduced to MAX_SIDE, beyond which viewers fail.
TARGET_SIDE = 2000
MAX_SCALE = 4
MAX_SIDE = 6000
MIN_PANEL_WIDTH = 560


def overlay_scale(image_size: tuple[int, int]) -> float:
    """Pixels of the overlay per pixel of an image of the given (W, H)."""
    longest = max(*image_size, 1)
    if longest > MAX_SIDE:
        return MAX_SIDE / longest
    return float(np.clip(TARGET_SIDE // longest, 1, MAX_SCALE))


def draw_contours(result: NucleiResult, image: np.ndarray, scale: float | None = None) -> np.ndarray:
    """The image, enlarged if it is small, with the contour of each nucleus in the colour of its type.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.
        scale: pixels of the drawing per pixel of the image; by default [`overlay_scale`] of the image's size.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: the image is not RGB uint8, or its size differs from the result's.
    """
    image = np.asarray(image)
    height, width = result.instance_map.shape
    if image.dtype != np.uint8 or image.shape != (height, width, 3):
        raise ValueError(
            f"The overlay needs the image as ({height}, {width}, 3) uint8 RGB, got {image.shape} {image.dtype}."
        )
    scale = overlay_scale((width, height)) if scale is None else scale
    canvas = enlarge(image, scale)
    thickness = 1 if scale < 1 else 2
    types = result.table["type"].to_numpy()
    contours = result.contours
    for style in type_styles(result):
        rows = np.flatnonzero(types == style.type_id)
        draw_rings(canvas, [ring for row in rows for ring in contours[row]], style.color, scale, thickness)
    return canvas


def render_overlay(result: NucleiResult, image: np.ndarray) -> Image.Image:
    """The whole overlay: a title, the image with contours, a legend that counts the types, and a scale bar.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the image is not RGB uint8, or its size differs from the result's.
    """
    return frame_overlay(result, draw_contours(result, image))


def frame_overlay(result: NucleiResult, canvas: np.ndarray) -> Image.Image:
    """Frames a drawing: the title above it, the legend that counts the types and the scale bar below it.

    Args:
        result: the nuclei of the image.
        canvas: (H', W', 3) uint8 RGB of the size that [`draw_contours`] returns.

    Returns:
        An RGB picture.
    """
    height, width = canvas.shape[:2]
    panel = max(width, MIN_PANEL_WIDTH)
    text = int(np.clip(panel / 56, 13, 40))
    margin = text
    title = _title(result, panel, text, margin)
    legend = _legend(result, panel, text, margin, overlay_scale(result.image_size))
    picture = Image.new("RGB", (panel, title.height + height + legend.height), PAPER)
    picture.paste(title, (0, 0))
    picture.paste(Image.fromarray(canvas), ((panel - width) // 2, title.height))
    picture.paste(legend, (0, title.height + height))
    return picture


def write_overlay(result: NucleiResult, image: np.ndarray, path: str | os.PathLike) -> None:
    """Writes [`render_overlay`] as a PNG file with the provenance record as JSON in its text chunk `cfsam_hf`.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.
        path: the file to write; an existing one is replaced.

    Raises:
        ValueError: the image is not RGB uint8, or its size differs from the result's.
        OSError: the file cannot be written.
    """
    texts = {"Software": f"{SOFTWARE} {result.version}", SOFTWARE: json.dumps(provenance(result))}
    write_picture(render_overlay(result, image), path, texts=texts, compress_level=4)


def _title(result: NucleiResult, width: int, text: int, margin: int) -> Image.Image:
    strip = Image.new("RGB", (width, round(3.6 * text)), PAPER)
    draw = ImageDraw.Draw(strip)
    large, small = ImageFont.load_default(size=1.15 * text), ImageFont.load_default(size=0.85 * text)
    count = "1 nucleus" if len(result) == 1 else f"{len(result):,} nuclei"
    scale = "pixel size unknown" if result.mpp is None else f"{result.mpp:g} um per pixel"
    name = result.image_name or "image"
    heading = fit_text(draw, f"{name}: {count}", large, width - 2 * margin)
    details = fit_text(
        draw, f"checkpoint {result.checkpoint} · cfsam_hf {result.version} · {scale}", small, width - 2 * margin
    )
    draw.text((margin, 1.1 * text), heading, INK, large, anchor="lm")
    draw.text((margin, 2.6 * text), details, MUTED, small, anchor="lm")
    return strip


def _legend(result: NucleiResult, width: int, text: int, margin: int, scale: float) -> Image.Image:
    types = result.table["type"].to_numpy()
    entries = [
        (style.color, f"{style.name}  {int((types == style.type_id).sum()):,}") for style in type_styles(result)
    ]
    bar = None if result.mpp is None else scale_bar_length(result.mpp, scale, width / 4)
    return legend_strip(entries, width, text, margin, bar)
