"""Changes of colour and sharpness: stain jitter in optical density, light, blur, noise and JPEG."""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

_OPTICAL_DENSITY = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)
"""Optical density of the 256 grey values; (v + 1) / 256 keeps black finite and white at 0."""


@dataclass(frozen=True)
class AugmentationParameters:
    """Strengths of the augmentation. Probabilities are per crop.

    Attributes:
        free_geometry_probability: share of crops with free rotation and scale; see `geometry.sample_geometry`.
        smallest, largest: range of the apparent size of tissue (scanners and sites differ in mpp).
        stain_probability: stain jitter.
        stain_gain: haematoxylin and eosin densities are multiplied by up to this factor or its inverse.
        stain_shift: largest change of the densities of haematoxylin and eosin, in natural-log units.
        residual_gain, residual_shift: the same for the third direction of the stain space, which holds little in H&E.
        light_probability: brightness and contrast.
        brightness: largest change of brightness, in grey values.
        contrast: contrast is multiplied by up to 1 +- this.
        blur_probability, blur_sigma: Gaussian blur, largest sigma in pixels (focus).
        noise_probability, noise_sigma: Gaussian noise, largest sigma in grey values (sensor).
        jpeg_probability, jpeg_quality: JPEG at a quality from this to 95 (slides are stored as JPEG).
    """

    free_geometry_probability: float = 0.6
    smallest: float = 0.75
    largest: float = 1.3
    stain_probability: float = 0.8
    stain_gain: float = 1.3
    stain_shift: float = 0.05
    residual_gain: float = 1.2
    residual_shift: float = 0.03
    light_probability: float = 0.4
    brightness: float = 20.0
    contrast: float = 0.15
    blur_probability: float = 0.12
    blur_sigma: float = 1.2
    noise_probability: float = 0.12
    noise_sigma: float = 8.0
    jpeg_probability: float = 0.15
    jpeg_quality: int = 50

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name in ("stain_gain", "residual_gain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is the largest factor and must be at least 1, got {getattr(self, name)}")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(f"scales need 0 < smallest <= largest, got {self.smallest} and {self.largest}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must lie in 1..95, got {self.jpeg_quality}")


def jitter_stains(image: np.ndarray, gains: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Scale and shift the stains of an image in optical density.

    The image is unmixed with the haematoxylin / eosin / DAB matrix of Ruifrok and Johnston (2001), as in scikit-image;
    each density d becomes `gain * d + shift`, and the image is mixed again. All three steps are one 3x3 matrix.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        gains: `(3,)` factors of haematoxylin, eosin and the third direction.
        shifts: `(3,)` additions to these densities, natural-log units.

    Returns:
        `(H, W, 3)` uint8. Gains of 1 and shifts of 0 return the image unchanged. Gains leave white white; positive
        shifts tint it a little, as another lamp would.
    """
    mixing = (hed_from_rgb * np.asarray(gains)) @ rgb_from_hed
    constant = np.asarray(shifts) @ rgb_from_hed
    density = cv2.transform(
        cv2.LUT(image, _OPTICAL_DENSITY), np.column_stack([-mixing.T, -constant]).astype(np.float32)
    )
    light = cv2.exp(density)
    return _to_uint8(light * 256 - 1)


def augment_image(image: np.ndarray, rng: np.random.Generator, parameters: AugmentationParameters) -> np.ndarray:
    """Apply random changes of colour and sharpness to a crop; geometry stays.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        rng: source of all randomness.
        parameters: strengths.

    Returns:
        `(H, W, 3)` uint8.
    """
    # One draw per decision in a fixed order, so that a change of one strength leaves the other decisions as they were.
    stain, light, blur, noise, jpeg = rng.random(5) < (
        parameters.stain_probability,
        parameters.light_probability,
        parameters.blur_probability,
        parameters.noise_probability,
        parameters.jpeg_probability,
    )
    strengths = rng.uniform(-1, 1, size=10)
    if stain:
        largest_gains = np.array([parameters.stain_gain, parameters.stain_gain, parameters.residual_gain])
        largest_shifts = np.array([parameters.stain_shift, parameters.stain_shift, parameters.residual_shift])
        image = jitter_stains(image, largest_gains ** strengths[:3], largest_shifts * strengths[3:6])
    if light:
        contrast = 1 + parameters.contrast * strengths[6]
        values = (np.arange(256) - 128) * contrast + 128 + parameters.brightness * strengths[7]
        image = cv2.LUT(image, _to_uint8(values))
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=max(parameters.blur_sigma * abs(strengths[8]), 0.1))
    if noise:
        sigma = parameters.noise_sigma * abs(strengths[9])
        image = _to_uint8(image + sigma * rng.standard_normal(image.shape, dtype=np.float32))
    if jpeg:
        quality = int(rng.integers(parameters.jpeg_quality, 96))
        # OpenCV's codec takes BGR, and JPEG treats the three channels differently.
        code = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return image


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
