"""Slides of real tissue on glass, with ink, edges, borders, bubbles, fat and haze whose place is known exactly."""

import cv2
import numpy as np
import tifffile

from cfsam_hf.slides import demo_slide, open_slide

MPP = 4.0
SIZE = (950, 1250)  # (h, w) in pixels of 4 micrometres: 3.8 x 5 mm
GLASS = (243, 241, 244)
EOSIN = np.array([0.07, 0.99, 0.30])  # optical densities in red, green, blue
INKS = {
    "blue ink": (25, 60, 170),
    "pale blue ink": (110, 140, 215),
    "green ink": (20, 120, 70),
    "black ink": (28, 26, 32),
    "red ink": (205, 35, 55),
    "purple ink": (120, 40, 150),
}


class SyntheticSlide:
    """A picture of glass, and `tissue` (h, w) bool, where tissue has been put on it."""

    def __init__(self, seed: int = 0, glass: tuple[int, int, int] = GLASS):
        self.random = np.random.default_rng(seed)
        self.pixels = np.broadcast_to(np.float32(glass), (*SIZE, 3)).copy()
        self.glass = np.float32(glass)
        self.tissue = np.zeros(SIZE, dtype=bool)

    def blob(self, x: int, y: int, radius: int) -> np.ndarray:
        """(h, w) bool: an irregular shape around a point."""
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = sum(
            self.random.normal(0, 0.25 / k) * np.sin(k * angles + self.random.uniform(0, 6)) for k in (2, 3, 5)
        )
        around = np.stack([np.cos(angles), np.sin(angles)], 1) * (radius * (1 + waves))[:, None] + (x, y)
        mask = np.zeros(SIZE, np.uint8)
        cv2.fillPoly(mask, [around.astype(np.int32)], 1)
        return mask.astype(bool)

    def add_tissue(self, x: int, y: int, radius: int, strength: float = 1.0) -> None:
        """Puts real tissue on the glass: skin of the demo slide, its optical density times `strength`."""
        shape = self.blob(x, y, radius)
        density = np.log(245 / np.maximum(_texture(), 1)) * strength
        rows, columns = (-(-side // part) for side, part in zip(SIZE, density.shape[:2], strict=True))
        spread = np.tile(density, (rows, columns, 1))[: SIZE[0], : SIZE[1]]
        self.pixels[shape] = (self.glass * np.exp(-spread))[shape]
        self.tissue |= shape

    def add_fat(self, x: int, y: int, radius: int, strength: float = 0.35) -> None:
        """Puts faint fat on the glass: empty cells of 80 micrometres within membranes of one pixel."""
        shape = self.blob(x, y, radius)
        spacing = 80 / MPP
        centers = np.mgrid[0 : SIZE[0] : spacing, 0 : SIZE[1] : spacing].reshape(2, -1).T
        centers = centers + self.random.uniform(-0.35, 0.35, centers.shape) * spacing
        seeds = np.ones(SIZE, np.uint8)
        inside = (centers >= 0).all(1) & (centers < SIZE).all(1)
        seeds[tuple(centers[inside].astype(int).T)] = 0
        _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
        walls = cv2.morphologyEx(cells.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
        amount = cv2.GaussianBlur(walls.astype(np.float32), (0, 0), 0.5) * shape * strength
        self.pixels *= np.exp(-amount[..., None] * EOSIN)
        self.tissue |= shape

    def add_stroke(self, color: tuple[int, int, int], *points: tuple[int, int], width: int = 60) -> None:
        """Draws with a marker: an even colour whose density falls a little along and across the stroke."""
        mask = np.zeros(SIZE, np.uint8)
        cv2.polylines(mask, [np.int32(points)], False, 255, width, cv2.LINE_AA)
        clouds = cv2.resize(self.random.normal(1, 0.05, (12, 16)).astype(np.float32), SIZE[::-1])
        amount = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1) * clouds
        self.pixels *= np.exp(-amount[..., None] * np.log(245 / np.maximum(np.float32(color), 1)))

    def add_line(self, color: tuple[int, int, int], start: tuple[int, int], end: tuple[int, int], width: int) -> None:
        """An edge of glass: a straight line with a fringe of green on one side and of magenta on the other."""
        for shift, shade in ((0, color), (width, (215, 235, 218)), (-width, (238, 222, 238))):
            mask = np.zeros(SIZE, np.uint8)
            moved = [(x + shift, y + shift) for x, y in (start, end)]
            cv2.line(mask, *moved, 255, width, cv2.LINE_AA)
            self.pixels *= np.exp(-(mask / 255.0)[..., None] * np.log(245 / np.float32(shade)))

    def add_bubble(self, x: int, y: int, radius: int) -> None:
        """An air bubble: a dark grey rim, a bright one within, glass inside."""
        for r, shade, width in ((radius, 90, 4), (radius - 4, 252, 2)):
            mask = np.zeros(SIZE, np.uint8)
            cv2.circle(mask, (x, y), r, 255, width, cv2.LINE_AA)
            share = (mask / 255.0)[..., None]
            self.pixels = self.pixels * (1 - share) + shade * share

    def add_haze(self, x: int, y: int, radius: int, strength: float = 0.06) -> None:
        """Eosin left on the glass: pink, even, fading out."""
        mask = cv2.GaussianBlur(self.blob(x, y, radius).astype(np.float32), (0, 0), 30)
        self.pixels *= np.exp(-mask[..., None] * EOSIN * strength)

    def write(self, path, quality: int = 75, noise: float = 2.0) -> None:
        """Writes a tiled TIFF of one level in JPEG, as a scanner's."""
        noisy = self.pixels + self.random.normal(0, noise, self.pixels.shape)
        tifffile.imwrite(
            path,
            np.clip(noisy, 0, 255).astype(np.uint8),
            photometric="rgb",
            tile=(256, 256),
            compression="jpeg",
            compressionargs={"level": quality},
            resolution=(10_000 / MPP, 10_000 / MPP),
            resolutionunit="CENTIMETER",
            metadata=None,
        )


def measure(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Recall of the true tissue, and the false area as a share of the whole, beyond 24 micrometres around tissue."""
    found = cv2.resize(mask.astype(np.uint8), truth.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    around = cv2.dilate(truth.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    recall = float(found[truth].mean()) if truth.any() else 1.0
    return recall, float((found & ~around).mean())


def _texture() -> np.ndarray:
    """A piece of skin without glass, mirrored so that it can be repeated, float32 RGB at 4 micrometres per pixel."""
    with open_slide(demo_slide()) as slide:
        piece = slide.read_region(840, 2000, 85, 120, mpp=MPP).astype(np.float32)
    wide = np.concatenate([piece, piece[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]])
