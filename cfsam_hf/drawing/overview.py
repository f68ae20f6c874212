"""The picture of a whole slide: the slide small with the outline of its tissue, and a map of each type's density."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files.own_results import SOFTWARE
from ..model.result import TypeStyle, record_styles
from .density_maps import SIGMA_SHARE, DensityMaps, smoothing_um
from .lettering import INK, MUTED, PAPER, Color, draw_measure, fit_text, scale_bar_um
from .picture_files import write_picture

# Sides of the whole picture that its panels fill, in pixels, and the shape that it comes closest to.
TARGET_WIDTH, TARGET_HEIGHT = 2400, 1500
SHORTEST_SIDE = 160
OUTLINE = (22, 22, 26)
ALL_NUCLEI = TypeStyle(-1, "all nuclei", (94, 60, 153))
# The colour scale ends at this quantile of the densities in the tissue, rounded up: single peaks do not darken it.
SCALE_QUANTILE = 0.995
ROUND_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
# First colour of a scale, and what its last keeps of the type's red, green and blue: yellow ends brown, not olive.
LIGHT_END, DARK_END = (252, 252, 250), (0.42, 0.30, 0.28)
# How much of the slide's own darkness is seen beneath the densities.
TEXTURE = 0.45


@dataclass(frozen=True)
class _Layout:
    """Panels of `width` x `height` pixels in `columns`, with letters of `text` pixels."""

    columns: int
    width: int
    height: int

    @property
    def text(self) -> int:
        return round(min(max(self.columns * self.width / 80, 15), 34))

    @property
    def gap(self) -> int:
        return round(1.3 * self.text)

    @property
    def head(self) -> int:
        """Height of the line above a panel."""
        return round(2.0 * self.text)

    @property
    def foot(self) -> int:
        """Height of the colour scale below a panel."""
        return round(3.0 * self.text)


def overview_layout(size: tuple[int, int], panels: int) -> _Layout:
    """The layout of panels for a slide of (width, height), in as many columns as give large panels."""
    best = None
    for columns in range(1, panels + 1):
        rows = math.ceil(panels / columns)
        scale = min(TARGET_WIDTH / columns / size[0], TARGET_HEIGHT / rows / size[1])
        # An empty place costs as much as a smaller panel.
        merit = scale * math.sqrt(panels / (rows * columns))
        if best is None or merit > best[0]:
            best = merit, columns, scale
    assert best is not None
    _, columns, scale = best
    sides = (max(SHORTEST_SIDE, round(side * scale)) for side in size)
    return _Layout(columns, *sides)


def overview_size(size: tuple[int, int], types: int) -> tuple[int, int]:
    """(width, height) in pixels in which the overview shows a slide.

    Args:
        size: (width, height) of the slide in pixels of level 0.
        types: number of types, 0 for a model without types.
    """
    layout = overview_layout(size, _panel_count(types))
    return layout.width, layout.height


def _panel_count(types: int) -> int:
    # The slide and all nuclei, and each type if there are several.
    return 2 + (types if types > 1 else 0)


def render_overview(
    image: np.ndarray, tissue: np.ndarray, maps: DensityMaps, record: Mapping[str, Any], note: str | None = None
) -> Image.Image:
    """The overview of a slide.

    The first panel shows the slide with the outline of its tissue and a scale bar in millimetres; the others show the
    density of all nuclei and of each type in nuclei per mm2 of tissue, each with its colour scale. Without a pixel
    size, densities are per megapixel of level 0 and there is no scale bar.

    Args:
        image: (h, w, 3) uint8 RGB, the slide small; of the size [`overview_size`] or any other.
        tissue: (h', w') bool, the tissue on the whole slide at any resolution.
        maps: counts of the slide's nuclei.
        record: the provenance record of the slide, as `outputs.slide_record` makes it.
        note: a sentence below the panels, such as the limits of the types.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the image is not RGB uint8.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"The overview needs the slide as (h, w, 3) uint8 RGB, got {image.shape} {image.dtype}.")
    styles = record_styles(record)
    layout = overview_layout(maps.size, _panel_count(len(styles)))
    view = _View.of(image, tissue, maps, record, layout)
    panels = [_slide_panel(view)]
    groups = [(ALL_NUCLEI, [style.type_id for style in styles])]
    if len(styles) > 1:
        groups += [(style, [style.type_id]) for style in styles]
    panels += [_density_panel(view, style, type_ids) for style, type_ids in groups]
    return _assemble(panels, view, note)


def write_overview(
    image: np.ndarray,
    tissue: np.ndarray,
    maps: DensityMaps,
    record: Mapping[str, Any],
    path: str | os.PathLike[str],
    note: str | None = None,
) -> None:
    """Writes [`render_overview`] as a PNG file with the provenance record as JSON in its text chunk `cfsam_hf`.

    Args:
        image, tissue, maps, record, note: as in [`render_overview`].
        path: the file; an existing one is replaced.

    Raises:
        ValueError: the image is not RGB uint8.
        OSError: the file cannot be written.
    """
    texts = {"Software": f"{SOFTWARE} {record['version']}", SOFTWARE: json.dumps(dict(record))}
    write_picture(render_overview(image, tissue, maps, record, note), path, texts=texts)


@dataclass(frozen=True)
class _View:
    """What all panels share.

    Attributes:
        image: (height, width, 3) uint8 of the layout.
        backdrop: the same in light grey, (height, width, 1) float32 in [0, 1].
        inside: (height, width) float32 in [0, 1], 1 in the tissue, with soft edges.
        outline: closed lines around the tissue in pixels of the panel.
        maps, tissue, record, layout: as given.
        micrometres: width and height of a panel's pixel, None if unknown.
    """

    image: np.ndarray
    backdrop: np.ndarray
    inside: np.ndarray
    outline: Sequence[np.ndarray]
    maps: DensityMaps
    tissue: np.ndarray
    record: Mapping[str, Any]
    layout: _Layout
    micrometres: tuple[float, float] | None

    @classmethod
    def of(
        cls, image: np.ndarray, tissue: np.ndarray, maps: DensityMaps, record: Mapping[str, Any], layout: _Layout
    ) -> "_View":
        size = layout.width, layout.height
        small = _resize(image, size)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        # A mask of few pixels gets round corners.
        soft = _resize(tissue.astype(np.float32), size)
        soft = cv2.GaussianBlur(soft, (0, 0), max(1.0, 0.5 * layout.width / tissue.shape[1]))
        inside = (soft >= 0.5).astype(np.uint8)
        # A frame of background closes the outline at the slide's edges.
        framed = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        lines, _ = cv2.findContours(framed, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        limits = np.array(size) - 1
        mpp = record.get("mpp_x") or record["mpp"], record.get("mpp_y") or record["mpp"]
        known = mpp[0] is not None and mpp[1] is not None
        return cls(
            image=small,
            backdrop=(1 - TEXTURE * (1 - grey))[..., None],
            inside=cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.8),
            outline=[np.clip(line - 1, 0, limits) for line in lines],
            maps=maps,
            tissue=tissue,
            record=record,
            layout=layout,
            micrometres=(mpp[0] * maps.size[0] / size[0], mpp[1] * maps.size[1] / size[1]) if known else None,
        )

    @property
    def unit(self) -> str:
        """What densities are counted per."""
        return "Mpx" if self.micrometres is None else "mm2"

    @property
    def area(self) -> float:
        """Area of the whole slide in the unit."""
        width, height = self.layout.width, self.layout.height
        if self.micrometres is None:
            return self.maps.size[0] * self.maps.size[1] / 1e6
        return width * self.micrometres[0] * height * self.micrometres[1] / 1e6

    @property
    def tissue_area(self) -> float:
        """Area of the tissue in the unit: as recorded, else as the mask has it."""
        recorded = self.record.get("tissue_area_mm2")
        if recorded is not None and self.micrometres is not None:
            return float(recorded)
        return float(self.tissue.mean()) * self.area if self.tissue.size else 0.0

    @property
    def sigma(self) -> float:
        """Width of the Gaussian window in cells of the maps."""
        longest = max(self.maps.grid)
        if self.micrometres is None:
            return SIGMA_SHARE * longest
        sides = (self.layout.width * self.micrometres[0], self.layout.height * self.micrometres[1])
        return smoothing_um(sides) / max(sides) * longest

    def outlined(self, picture: np.ndarray, color: Color, thickness: int) -> Image.Image:
        """A panel (height, width, 3) uint8 with the outline of the tissue."""
        canvas = np.ascontiguousarray(picture)
        cv2.polylines(canvas, list(self.outline), True, color, thickness, cv2.LINE_AA)
        return Image.fromarray(canvas)


@dataclass(frozen=True)
class _Panel:
    """A picture with its heading (a colour, its name, and a measure beside it) and the strip below."""

    picture: Image.Image
    color: Color | None
    name: str
    measure: str
    foot: Image.Image


def _slide_panel(view: _View) -> _Panel:
    layout = view.layout
    foot = Image.new("RGB", (layout.width, layout.foot), PAPER)
    if view.micrometres is not None:
        length = scale_bar_um(0.4 * layout.width * view.micrometres[0])
        if length is not None:
            draw, text = ImageDraw.Draw(foot), layout.text
            pixels, top = round(length / view.micrometres[0]), round(0.85 * text)
            draw.rectangle((0, top - 0.3 * text, pixels - 1, top + 0.05 * text), fill=INK)
            draw.text((0, 1.95 * text), f"{length / 1000:g} mm", INK, ImageFont.load_default(size=0.85 * text), "lm")
    measure = f"tissue {_number(view.tissue_area)} {view.unit}"
    return _Panel(view.outlined(view.image, OUTLINE, 2), None, "slide", measure, foot)


def _density_panel(view: _View, style: TypeStyle, type_ids: Sequence[int]) -> _Panel:
    layout = view.layout
    cell_area = view.area / (view.maps.grid[0] * view.maps.grid[1])
    density = view.maps.density(type_ids, view.tissue, cell_area, view.sigma)
    density = _resize(density, (layout.width, layout.height))
    within = density[view.inside > 0.5]
    top = round_up(float(np.quantile(within, SCALE_QUANTILE))) if within.size else 0.0
    ramp = color_ramp(style.color)
    levels = (density * (255 / top if top else 0)).clip(0, 255).astype(np.uint8)
    backdrop = view.backdrop * 255
    heat = ramp[levels] * view.backdrop
    inside = view.inside[..., None]
    picture = (backdrop * (1 - inside) + heat * inside).round().astype(np.uint8)
    count, area = view.maps.total(type_ids), view.tissue_area
    measure = f"{count:,} nuclei" + (f" · {_number(count / area)} per {view.unit}" if area else "")
    foot = _color_scale(ramp, top, layout, view.unit)
    return _Panel(view.outlined(picture, MUTED, 1), style.color, style.name, measure, foot)


def color_ramp(color: Color) -> np.ndarray:
    """(256, 3) float32 RGB of a density from 0 to the end of the scale: nearly white, the colour, nearly black.

    It runs through the CIELAB space at a steady pace of lightness, so that equal steps of density look equal.
    """
    ends = np.array([LIGHT_END, color, np.multiply(color, DARK_END)], dtype=np.float32) / 255
    lab = cv2.cvtColor(ends[None], cv2.COLOR_RGB2LAB)[0]
    lightness = np.linspace(lab[0, 0], lab[2, 0], 256)
    # Lightness falls from the first to the last.
    order = np.argsort(lab[:, 0])
    steps = [np.interp(lightness, lab[order, 0], lab[order, channel]) for channel in range(3)]
    ramp: np.ndarray = cv2.cvtColor(np.stack(steps, axis=-1).astype(np.float32)[None], cv2.COLOR_LAB2RGB)[0]
    return ramp.clip(0, 1) * 255


def round_up(value: float) -> float:
    """The smallest of `ROUND_STEPS` times a power of ten that is at least `value`; 0 for 0.

    >>> round_up(1730), round_up(0.7), round_up(0)
    (2000.0, 0.8, 0.0)
    """
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step * power for step in (*ROUND_STEPS, 20) if step * power >= value * (1 - 1e-9)))


def _color_scale(ramp: np.ndarray, top: float, layout: _Layout, unit: str) -> Image.Image:
    """The strip below a panel: the colours from 0 to the end of the scale."""
    strip = Image.new("RGB", (layout.width, layout.foot), PAPER)
    draw, text = ImageDraw.Draw(strip), layout.text
    size = 0.85 * text
    if not top:
        draw_measure(draw, (0, 0.9 * text), "none found", MUTED, size)
        return strip
    high, first = round(0.75 * text), round(0.5 * text)
    row = ramp[np.linspace(0, 255, layout.width).round().astype(int)].round().astype(np.uint8)
    strip.paste(Image.fromarray(np.repeat(row[None], high, axis=0)), (0, first))
    draw.rectangle((0, first, layout.width - 1, first + high), outline=(200, 200, 204))
    y = first + high + 0.75 * text
    draw.text((0, y), "0", INK, ImageFont.load_default(size=size), anchor="lm")
    middle, end = _number(top / 2), f"{_number(top)} per {unit}"
    draw_measure(draw, (layout.width / 2, y), middle, INK, size, "mm")
    draw_measure(draw, (layout.width, y), end, INK, size, "rm")
    return strip


def _assemble(panels: Sequence[_Panel], view: _View, note: str | None) -> Image.Image:
    layout, record = view.layout, view.record
    text, gap = layout.text, layout.gap
    rows = math.ceil(len(panels) / layout.columns)
    columns = min(layout.columns, len(panels))
    inner = columns * layout.width + (columns - 1) * gap
    title, footer = round(4.2 * text), round((2.4 if note is None else 3.8) * text)
    panel_height = layout.head + layout.height + layout.foot
    picture = Image.new("RGB", (inner + 2 * gap, title + rows * panel_height + (rows - 1) * text + footer), PAPER)
    draw = ImageDraw.Draw(picture)
    count = sum(int(counts.sum()) for counts in view.maps.counts.values())
    heading = fit_text(
        draw, f"{record['image']}: {count:,} {'nucleus' if count == 1 else 'nuclei'}",
        ImageFont.load_default(size=1.5 * text), inner,
    )  # fmt: skip
    draw.text((gap, 1.5 * text), heading, INK, ImageFont.load_default(size=1.5 * text), anchor="lm")
    draw_measure(draw, (gap, 3.2 * text), _details(view, draw, inner), MUTED, 0.9 * text)
    for number, panel in enumerate(panels):
        row, column = divmod(number, layout.columns)
        x, y = gap + column * (layout.width + gap), title + row * (panel_height + text)
        _draw_panel(picture, draw, panel, (x, y), layout)
    bottom = picture.height - footer + 0.8 * text
    lines = [_explanation(view), *([] if note is None else [note])]
    small = ImageFont.load_default(size=0.78 * text)
    for number, line in enumerate(lines):
        place = gap, bottom + 1.4 * number * text
        draw_measure(draw, place, fit_text(draw, line, small, inner), MUTED, 0.78 * text)
    return picture


def _draw_panel(
    picture: Image.Image, draw: ImageDraw.ImageDraw, panel: _Panel, place: tuple[int, int], layout: _Layout
) -> None:
    x, y = place
    text, middle = layout.text, y + 0.85 * layout.text
    font = ImageFont.load_default(size=1.05 * text)
    left: float = x
    if panel.color is not None:
        half = 0.42 * text
        draw.rounded_rectangle((x, middle - half, x + 2 * half, middle + half), 0.2 * text, panel.color)
        left += 1.25 * text
    room = x + layout.width - left
    small = ImageFont.load_default(size=0.85 * text)
    needed = draw.textlength(panel.measure, font=small) + text
    name = fit_text(draw, panel.name, font, room - needed)
    draw.text((left, middle), name, INK, font, anchor="lm")
    draw_measure(draw, (x + layout.width, middle), panel.measure, MUTED, 0.85 * text, "rm")
    picture.paste(panel.picture, (x, y + layout.head))
    draw.rectangle(
        (x - 1, y + layout.head - 1, x + layout.width, y + layout.head + layout.height), outline=(222, 222, 226)
    )
    picture.paste(panel.foot, (x, y + layout.head + layout.height))


def _details(view: _View, draw: ImageDraw.ImageDraw, width: float) -> str:
    record = view.record
    size = f"{view.maps.size[0]:,} x {view.maps.size[1]:,} px"
    if view.micrometres is not None:
        sides = (view.layout.width * view.micrometres[0], view.layout.height * view.micrometres[1])
        size += f", {sides[0] / 1000:.3g} x {sides[1] / 1000:.3g} mm"
    pixel = "pixel size unknown" if record["mpp"] is None else f"{record['mpp']:.4g} um per pixel"
    line = f"{size} · {pixel} · checkpoint {record['checkpoint']} · cfsam_hf {record['version']}"
    return fit_text(draw, line, ImageFont.load_default(size=0.9 * view.layout.text), width)


def _explanation(view: _View) -> str:
    """What the colours mean."""
    if view.micrometres is None:
        return "Colours: nuclei per megapixel of tissue, averaged over a Gaussian window. Each map has its own scale."
    sides = (view.layout.width * view.micrometres[0], view.layout.height * view.micrometres[1])
    return (
        f"Colours: nuclei per mm2 of tissue, averaged over a Gaussian window (sigma {smoothing_um(sides):.0f} um). "
        "Each map has its own scale."
    )


def _number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1,230."""
    if value == 0 or not math.isfinite(value):
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(digits, 0)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{rounded:,.0f}"


def _resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, ...) brought to `size` (width, height)."""
    shrinks = values.shape[0] * values.shape[1] > size[0] * size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(values, size, interpolation=how)
    return resized
