"""Draw how maps become nuclei, step by step: the picture of `docs/decoding.md`.

    python examples/tools/draw_decoding.py docs/images/decoding.png

The image is a part of the demo slide. The panels show the image, the maps of `cfsam-tiny`, the boundary energy,
the markers, and the nuclei.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfsam_hf import decode_nuclei
from cfsam_hf.commands.loading import load_pipeline
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.model.contours import nucleus_contours
from cfsam_hf.model.instances import EvidenceThresholds, boundary_evidence
from cfsam_hf.slides.bundled import demo_picture

# Top, left and side of the part that is shown, in pixels of the model.
TOP, LEFT, SIDE = 160, 330, 128
SCALE, MARGIN, CAPTION = 2, 10, 26
COLUMNS = 4
INK, PAPER = (32, 33, 36), (255, 255, 255)
# Background, foreground, markers and cores.
LEVELS = np.array([(255, 255, 255), (207, 216, 220), (100, 149, 237), (26, 35, 126)], dtype=np.uint8)


def heat(values: np.ndarray, low: float, high: float, colors: int = cv2.COLORMAP_VIRIDIS) -> np.ndarray:
    """(H, W) values between `low` and `high` as an (H, W, 3) picture."""
    level = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    return cv2.cvtColor(cv2.applyColorMap((255 * level).astype(np.uint8), colors), cv2.COLOR_BGR2RGB)


def panels() -> list[tuple[str, Image.Image]]:
    """Caption and picture of each step."""
    image, size = demo_picture()
    pipe = load_pipeline(None, "cpu")
    # The whole image is decoded, so that the border of the part cuts no nucleus.
    maps = pipe.blended_maps(image, mpp=None if size is None else size.mpp)
    parameters = pipe.image_processor.decoding_parameters()
    nuclei, hv, boundary = (np.asarray(values, np.float32) for values in (maps.nuclei, maps.hv, maps.boundary))
    thresholds = EvidenceThresholds(
        parameters.nuclei_threshold, parameters.marker_threshold, parameters.core_threshold
    )
    energy, evidence = boundary_evidence(
        nuclei, hv, boundary, thresholds, parameters.boundary_weight, parameters.jump_weight
    )
    decoded = decode_nuclei(nuclei, hv, None, boundary, parameters)

    part = (slice(TOP, TOP + SIDE), slice(LEFT, LEFT + SIDE))
    shown = cv2.resize(image, nuclei.shape[::-1], interpolation=cv2.INTER_CUBIC)[part]
    inner = (slice(1, -1), slice(1, -1))  # both have a border of one pixel
    pictures = {
        "image": shown,
        "1 nuclei": heat(nuclei[part], 0, 1),
        "2 horizontal offset": heat(hv[0][part], -1, 1, cv2.COLORMAP_TWILIGHT_SHIFTED),
        "2 vertical offset": heat(hv[1][part], -1, 1, cv2.COLORMAP_TWILIGHT_SHIFTED),
        "3 boundary": heat(boundary[part], 0, 1),
        "4 boundary energy": heat(energy[inner][part], 0, 2),
        "5 foreground, markers, cores": LEVELS[evidence[inner][part]],
        "6 nuclei": shown,
    }
    large = {
        caption: Image.fromarray(picture).resize((SIDE * SCALE, SIDE * SCALE), Image.Resampling.NEAREST)
        for caption, picture in pictures.items()
    }
    draw = ImageDraw.Draw(large["6 nuclei"])
    for rings in nucleus_contours(decoded.instance_map, decoded.boxes):
        for ring in rings:
            points = [tuple(SCALE * (point - (LEFT, TOP))) for point in (*ring, ring[0])]
            draw.line(points, fill=(255, 214, 0), width=2)
    return list(large.items())


def draw_sheet(named: list[tuple[str, Image.Image]]) -> Image.Image:
    """The panels in rows of `COLUMNS`, each with its caption above."""
    width, height = SIDE * SCALE, SIDE * SCALE + CAPTION
    rows = -(-len(named) // COLUMNS)
    size = (COLUMNS * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for number, (caption, picture) in enumerate(named):
        row, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)
        draw.text((x, y), caption, INK, font)
        sheet.paste(picture, (x, y + CAPTION))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="picture to write, .png")
    output = parser.parse_args(sys.argv[1:]).output
    draw_sheet(panels()).save(output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
