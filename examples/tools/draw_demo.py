"""Draws the picture of the README from what the demo writes: the part of the slide with the nuclei outlined.

cfsam segment --demo -o demo
python examples/tools/draw_demo.py demo docs/images/demo.png
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.slides import demo_slide, open_slide, read_areas
from cfsam_hf.slides.bundled import demo_part

# Pixels of the picture per pixel of the slide.
SCALE = 3.0
LEGEND_HEIGHT = 34


def draw(folder: Path) -> Image.Image:
    """The picture, from the demo's output folder."""
    collection = json.loads((folder / f"{demo_slide().stem}.geojson").read_text(encoding="utf-8"))
    x0, y0, x1, y1 = read_areas(demo_part()).bounds
    with open_slide(demo_slide()) as slide:
        size = round((x1 - x0) * SCALE), round((y1 - y0) * SCALE)
        picture = slide.read_scaled(x0, y0, *size, (1 / SCALE, 1 / SCALE)).copy()
    for feature in collection["features"]:
        color = feature["properties"]["classification"]["color"]
        for ring in feature["geometry"]["coordinates"]:
            # In sixteenths of a pixel; OpenCV's pixels have whole numbers at their centres.
            points = ((np.array(ring) - (x0, y0)) * SCALE - 0.5) * 16
            cv2.polylines(picture, [points.round().astype(np.int32)], True, color, 2, cv2.LINE_AA, shift=4)
    types = collection["metadata"]["types"]
    canvas = Image.new("RGB", (size[0], size[1] + LEGEND_HEIGHT), "white")
    canvas.paste(Image.fromarray(picture))
    pen, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(size=16), 8
    for kind in types:
        top = size[1] + LEGEND_HEIGHT // 2
        pen.rectangle((left, top - 6, left + 12, top + 6), fill=tuple(kind["color"]))
        pen.text((left + 19, top), kind["name"], "black", font, "lm")
        left += 19 + round(pen.textlength(kind["name"], font)) + 24
    return canvas


def main() -> None:
    """Reads the arguments and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the demo wrote its results")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    args = parser.parse_args()
    draw(args.folder).save(args.picture, optimize=True)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
