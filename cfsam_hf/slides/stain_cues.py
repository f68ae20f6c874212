"""Which pixels of a small picture of a slide show stained tissue, by the hue of the stain and by its texture.

Haematoxylin and eosin both absorb more green than blue, and about as much green as red or more; their mixture changes
within tens of micrometres. Glass, its edges, bubbles, dust, black borders and black ink are grey; blue and green ink
absorb more red than green; red ink absorbs as much blue as green; and ink of any colour is even. All thresholds are
absolute, so that the same tissue is found whatever else is on the slide. They are this project's choice.
"""

import cv2
import numpy as np

# Optical density in green above the mean of red and blue: of any stain, and of what tissue must contain somewhere.
_LEAST_STAIN, _SEED_STAIN = 0.03, 0.06
# Ratios of optical densities beyond which the colour is that of ink.
_LEAST_GREEN_TO_RED, _MOST_BLUE_TO_GREEN = 0.85, 0.8
# Optical density of ink in the channel that it absorbs most.
_LEAST_INK = 0.15
# Brightest channel of what is too dark to have a colour.
_DARK = 40
# Variation of the optical density in green: relative to its mean, and absolute where the stain is faint.
_LEAST_VARIATION, _LEAST_DEVIATION = 0.08, 0.014
# Micrometres.
_TEXTURE_WINDOW, _CLOSING_RADIUS, _LEAST_HALF_WIDTH, _MARGIN = 56.0, 44.0, 16.0, 8.0
_INK_HALF_WIDTH, _INK_MARGIN = 24.0, 40.0
# Square micrometres: smaller gaps in tissue (vessels, glands, fat cells) belong to it; smaller pieces are debris.
_LARGEST_HOLE, _SMALLEST_PIECE = 30_000.0, 4_000.0
# Glass is at least this bright; its colour where the picture shows none.
_DARKEST_GLASS, _USUAL_GLASS = 170, 245.0


def stained_tissue(pixels: np.ndarray, mpp: float) -> np.ndarray:
    """
    Where a picture shows tissue.

    Args:
        pixels: (h, w, 3) uint8 RGB, a slide reduced to a few micrometres per pixel.
        mpp: micrometres per pixel, about 8.

    Returns:
        (h, w) bool.
    """
    density = np.log(glass_color(pixels) / np.maximum(pixels, 1).astype(np.float32))
    np.maximum(density, 0, out=density)
    red, green, blue = (density[..., channel] for channel in range(3))
    stain = green - (red + blue) / 2
    hued = (green >= _LEAST_GREEN_TO_RED * red) & (blue <= _MOST_BLUE_TO_GREEN * green) & (pixels.max(2) > _DARK)
    stained = hued & (stain > _LEAST_STAIN)
    varies = _varies(green, stained, mpp)
    ink = (density.max(axis=2) > _LEAST_INK) & ~(hued & varies)
    textured = stained & varies & ~_widen(_open(ink, mpp, _INK_HALF_WIDTH), mpp, _INK_MARGIN)
    tissue = _close(textured, mpp, _CLOSING_RADIUS)
    tissue = _fill_holes(tissue, _LARGEST_HOLE / mpp**2)
    pieces = _keep_pieces(_open(tissue, mpp, _LEAST_HALF_WIDTH), _SMALLEST_PIECE / mpp**2)
    tissue = tissue & _widen(pieces, mpp, _CLOSING_RADIUS)
    return _widen(_holding(tissue, textured & (stain > _SEED_STAIN)), mpp, _MARGIN)


def glass_color(pixels: np.ndarray) -> np.ndarray:
    """
    The colour of empty glass, (3,) float32: the commonest of the bright, grey and even pixels.

    Pure white is what scanners fill in; it counts only where there is no other glass. Without any glass it is 245.
    """
    brightness = pixels.min(axis=2)
    grey = pixels.max(axis=2) - brightness <= 24
    even = cv2.morphologyEx(brightness, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) <= 6
    glass = grey & even & (brightness >= _DARKEST_GLASS)
    filled = brightness == 255
    for candidates in (glass & ~filled, glass & filled):
        if candidates.mean() > 0.002:
            mode = int(np.bincount(brightness[candidates], minlength=256).argmax())
            near = candidates & (np.abs(brightness.astype(np.int16) - mode) <= 3)
            return np.median(pixels[near], axis=0).astype(np.float32)
    return np.full(3, _USUAL_GLASS, np.float32)


def _varies(green: np.ndarray, stained: np.ndarray, mpp: float) -> np.ndarray:
    """Where stained pixels have the texture of tissue. Only they are measured, so the edge of ink is no texture."""
    size = max(3, round(_TEXTURE_WINDOW / mpp) | 1)
    inner = cv2.erode(stained.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    # What is too thin to have an inside is judged by its contrast with its surroundings.
    thick = cv2.dilate(inner, np.ones((3, 3), np.uint8)) > 0
    mean, deviation = _local_moments(green, inner.astype(np.float32), size)
    thin_mean, thin_deviation = _local_moments(green, np.ones_like(green), size)
    mean, deviation = np.where(thick, mean, thin_mean), np.where(thick, deviation, thin_deviation)
    return deviation > np.maximum(_LEAST_VARIATION * mean, _LEAST_DEVIATION)


def _local_moments(values: np.ndarray, weights: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the values in a square of `size` pixels, with weights; 0 where there are none."""
    total, first, second = (
        cv2.blur(plane, (size, size), borderType=cv2.BORDER_REFLECT)
        for plane in (weights, weights * values, weights * values**2)
    )
    total = np.maximum(total, 1e-6)
    mean = first / total
    return mean, np.sqrt(np.maximum(second / total - mean**2, 0))


def _close(mask: np.ndarray, mpp: float, radius: float) -> np.ndarray:
    """Morphological closing by a disc of `radius` micrometres."""
    return _morph(cv2.MORPH_CLOSE, mask, mpp, radius)


def _open(mask: np.ndarray, mpp: float, radius: float) -> np.ndarray:
    """Morphological opening by a disc of `radius` micrometres."""
    return _morph(cv2.MORPH_OPEN, mask, mpp, radius)


def _widen(mask: np.ndarray, mpp: float, radius: float) -> np.ndarray:
    """The mask and what lies within `radius` micrometres of it."""
    return _morph(cv2.MORPH_DILATE, mask, mpp, radius)


def _morph(operation: int, mask: np.ndarray, mpp: float, radius: float) -> np.ndarray:
    """A morphological operation; the picture's edge is extended outwards."""
    pixels = max(1, round(radius / mpp))
    padded = np.pad(mask.astype(np.uint8), pixels, mode="edge")
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    height, width = mask.shape
    return cv2.morphologyEx(padded, operation, disc)[pixels : pixels + height, pixels : pixels + width].astype(bool)


def _fill_holes(mask: np.ndarray, largest: float) -> np.ndarray:
    """The mask with its holes of up to `largest` pixels; what reaches the edge of the picture is no hole."""
    _, gaps, boxes, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, width, height, area = boxes.T
    fill = (area <= largest) & (left > 0) & (top > 0)
    fill &= (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    fill[0] = True  # the mask itself
    return fill[gaps]


def _keep_pieces(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The connected pieces of at least `smallest` pixels."""
    _, pieces, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = boxes[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    return keep[pieces]


def _holding(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected pieces that contain a seed."""
    number, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    keep = np.bincount(pieces[seeds], minlength=number) > 0
    keep[0] = False
    return keep[pieces]
