"""The picture that shows the nuclei: contours coloured by type over the image, with a legend."""

import json
import os

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ..files.atomic import atomic_path
from ..model.result import NucleiResult, provenance, type_styles
from .contour_lines import display_line, draw_lines
from .lettering import INK, MUTED, PAPER, fit_text, legend_strip

# Small images are enlarged by a whole factor towards this side (lines of whole pixels would hide small nuclei),
# very large ones reduced to MAX_SIDE, beyond which viewers give up.
TARGET_SIDE = 2000
MAX_SCALE = 4
MAX_SIDE = 6000
MIN_PANEL_WIDTH = 560
NICE_LENGTHS_UM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def overlay_scale(image_size: tuple[int, int]) -> float:
    """Pixels of the overlay per pixel of an image of the given (W, H)."""
    longest = max(*image_size, 1)
    if longest > MAX_SIDE:
        return MAX_SIDE / longest
    return float(np.clip(TARGET_SIDE // longest, 1, MAX_SCALE))


def draw_contours(result: NucleiResult, image: np.ndarray, scale: float | None = None) -> np.ndarray:
    """The image, enlarged where it is small, with the nuclei's contours in their types' colours.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.
        scale: pixels of the drawing per pixel of the image; [`overlay_scale`] of its size where None.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: the image is not RGB uint8, or not of the result's size.
    """
    image = np.asarray(image)
    height, width = result.instance_map.shape
    if image.dtype != np.uint8 or image.shape != (height, width, 3):
        raise ValueError(
            f"The overlay needs the image as ({height}, {width}, 3) uint8 RGB, got {image.shape} {image.dtype}."
        )
    scale = overlay_scale((width, height)) if scale is None else scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = image.copy() if size == (width, height) else cv2.resize(image, size, interpolation=method)
    thickness = 1 if scale < 1 else 2
    types = result.table["type"].to_numpy()
    contours = result.contours
    for style in type_styles(result):
        rows = np.flatnonzero(types == style.type_id)
        lines = [display_line(ring, scale) for row in rows for ring in contours[row]]
        draw_lines(canvas, lines, style.color, thickness)
    return canvas


def render_overlay(result: NucleiResult, image: np.ndarray) -> Image.Image:
    """The overlay as a picture: a title, the image with contours, a legend of types with counts, a scale bar.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the image is not RGB uint8, or not of the result's size.
    """
    return frame_overlay(result, draw_contours(result, image))


def frame_overlay(result: NucleiResult, canvas: np.ndarray) -> Image.Image:
    """The picture around a drawing: title above it, legend of types with counts and scale bar under it.

    Args:
        result: the nuclei of the image.
        canvas: (H', W', 3) uint8 RGB at the size of [`draw_contours`], whatever is drawn there.

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
    """Writes [`render_overlay`] as PNG; the provenance record stands as JSON in its text chunk `cfsam_hf`.

    Args:
        result: the nuclei of the image.
        image: (H, W, 3) uint8 RGB, the picture that the result was made from.
        path: the file to write; an existing one is replaced.

    Raises:
        ValueError: the image is not RGB uint8, or not of the result's size.
        OSError: the file cannot be written.
    """
    picture = render_overlay(result, image)
    info = PngInfo()
    info.add_text("Software", f"cfsam_hf {result.version}")
    info.add_text("cfsam_hf", json.dumps(provenance(result)))
    with atomic_path(path) as working:
        picture.save(working, format="PNG", pnginfo=info, compress_level=4)


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
    return legend_strip(entries, width, text, margin, _scale_bar(result.mpp, scale, width))


def _scale_bar(mpp: float | None, scale: float, width: int) -> tuple[int, str] | None:
    """Length in pixels of the overlay and label of a bar of at most a quarter of the width; None without mpp."""
    if mpp is None:
        return None
    fitting = [length for length in NICE_LENGTHS_UM if length / mpp * scale <= width / 4]
    if not fitting:
        return None
    return round(fitting[-1] / mpp * scale), f"{fitting[-1]} um"
