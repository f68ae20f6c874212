"""Augmentation of colour and sharpness: stains in optical density, light, resolution, blur, noise and JPEG."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import cv2
import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

from .stain import STAIN_METHODS, Appearance

_OPTICAL_DENSITY = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)
"""Optical density of the 256 grey values; (v + 1) / 256 keeps black finite and white at 0."""


def _value(default: float | str, reason: str) -> Any:
    return field(default=default, metadata={"help": reason})


@dataclass(frozen=True)
class AugmentationOptions:
    """Probabilities (per crop) and strengths of the augmentation. The defaults are the preset `standard`.

    Geometry acts on image and labels together (see `geometry`, `elastic`), everything else on the image only. The
    presets are `none`, `light` (a data set much like the one that the base was trained on), `standard`, and `strong`
    (few tiles, or a model that will meet slides of other laboratories and scanners).

    Raises:
        ValueError: a value is outside its range; the message names the field.
        TypeError: a value is not a number.
    """

    turn_probability: float = _value(
        1.0, "flips and quarter turns: tissue has no upright direction, and pixels are only copied"
    )
    free_geometry_probability: float = _value(
        0.6, "rotation and scale; the other crops keep their pixels, which interpolation would soften"
    )
    rotation_degrees: float = _value(45.0, "largest free rotation; with the quarter turns, 45 gives every angle")
    scale_smallest: float = _value(0.75, "apparent size: mpp differs between scanners, nuclei between organs")
    scale_largest: float = _value(1.3, "apparent size, upper end")
    elastic_probability: float = _value(0.1, "bent tissue; half of CellViT's value, since it interpolates too")
    elastic_pixels: float = _value(4.0, "largest displacement; a fifth of a nucleus at 40x")
    elastic_spacing: float = _value(32.0, "pixels between displaced nodes, over four times elastic_pixels: no folds")

    stain_probability: float = _value(0.8, "stain jitter in optical density; stains differ more than anything else")
    stain_gain: float = _value(1.3, "largest factor (or its inverse) on haematoxylin and eosin densities")
    stain_shift: float = _value(0.05, "largest change of these densities (natural log): a different lamp")
    residual_gain: float = _value(1.2, "gain of the third stain direction, which holds little in H&E")
    residual_shift: float = _value(0.03, "shift of the third stain direction")
    stain_transfer_probability: float = _value(
        0.0, "crops recoloured like another training tile; needs tiles of several stainings, and the extra `stain`"
    )
    stain_transfer_method: str = _value(
        "macenko", "macenko (stain directions) or reinhard (mean and deviation in Lab)"
    )

    light_probability: float = _value(0.4, "brightness and contrast")
    brightness: float = _value(20.0, "largest change in grey values: exposure")
    contrast: float = _value(0.15, "largest relative change of contrast")
    resolution_probability: float = _value(0.1, "resampled as if scanned at a coarser mpp; CellViT uses .15")
    resolution_factor: float = _value(2.0, "coarsest mpp relative to the crop's: 2 is 20x enlarged to 40x")
    blur_probability: float = _value(0.12, "Gaussian blur: focus")
    blur_sigma: float = _value(1.2, "largest sigma in pixels; more hides the edges to be learned")
    noise_probability: float = _value(0.12, "Gaussian noise: sensor")
    noise_sigma: float = _value(8.0, "largest sigma in grey values")
    jpeg_probability: float = _value(0.15, "JPEG compression, as slides have it")
    jpeg_quality: int = _value(50, "lowest quality, up to 95")

    PRESETS: ClassVar[tuple[str, ...]] = ("none", "light", "standard", "strong")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "stain_transfer_method":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if name.endswith("probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name in ("stain_gain", "residual_gain", "resolution_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is the largest factor and must be at least 1, got {getattr(self, name)}")
        if not 0 < self.scale_smallest <= self.scale_largest:
            raise ValueError(
                f"scales need 0 < scale_smallest <= scale_largest, got {self.scale_smallest} and {self.scale_largest}"
            )
        if not 4 * self.elastic_pixels < self.elastic_spacing:
            raise ValueError(
                "elastic_spacing must be more than four times elastic_pixels, or tissue folds over itself; got "
                f"{self.elastic_spacing} and {self.elastic_pixels}"
            )
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must lie in 1..95, got {self.jpeg_quality}")
        if self.stain_transfer_method not in STAIN_METHODS:
            raise ValueError(
                f"stain_transfer_method must be one of {', '.join(STAIN_METHODS)}, got {self.stain_transfer_method!r}"
            )

    @classmethod
    def preset(cls, name: str, **changes: float | str) -> "AugmentationOptions":
        """The options of a preset, with some values changed.

        >>> AugmentationOptions.preset("light", blur_probability=0.3).blur_probability
        0.3

        Raises:
            ValueError: the preset or a field is unknown.
        """
        if name not in cls.PRESETS:
            raise ValueError(f"the augmentation must be one of {', '.join(cls.PRESETS)}, got {name!r}")
        known = [option.name for option in fields(cls)]
        if unknown := sorted(set(changes) - set(known)):
            raise ValueError(f"unknown augmentation options {', '.join(unknown)}; choose from {', '.join(known)}")
        preset = {option: 0.0 for option in known if option.endswith("_probability")} if name == "none" else {}
        values: dict[str, Any] = {**preset, **_CHANGED_BY_PRESET.get(name, {}), **changes}
        return cls(**values)


_CHANGED_BY_PRESET: dict[str, dict[str, float]] = {
    "light": {
        "free_geometry_probability": 0.3,
        "scale_smallest": 0.9,
        "scale_largest": 1.1,
        "elastic_probability": 0.0,
        "stain_probability": 0.5,
        "stain_gain": 1.15,
        "light_probability": 0.2,
        "brightness": 10.0,
        "contrast": 0.1,
        "resolution_probability": 0.0,
        "blur_probability": 0.05,
        "noise_probability": 0.05,
        "jpeg_probability": 0.05,
        "jpeg_quality": 70,
    },
    "strong": {
        "free_geometry_probability": 0.8,
        "scale_smallest": 0.6,
        "scale_largest": 1.6,
        "elastic_probability": 0.25,
        "elastic_pixels": 6.0,
        "stain_probability": 0.9,
        "stain_gain": 1.6,
        "stain_shift": 0.1,
        "residual_gain": 1.4,
        "residual_shift": 0.05,
        "light_probability": 0.6,
        "brightness": 30.0,
        "contrast": 0.25,
        "resolution_probability": 0.2,
        "blur_probability": 0.2,
        "blur_sigma": 1.6,
        "noise_probability": 0.2,
        "noise_sigma": 12.0,
        "jpeg_probability": 0.3,
        "jpeg_quality": 30,
    },
}


def jitter_stains(image: np.ndarray, gains: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Scales and shifts the stains of an image in optical density.

    The image is unmixed with the haematoxylin / eosin / DAB matrix of Ruifrok and Johnston (2001), as in scikit-image;
    each density d becomes `gain * d + shift`, and the image is mixed again. All three steps are one 3x3 matrix.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        gains: `(3,)` factors of haematoxylin, eosin and the third direction.
        shifts: `(3,)` additions to these densities, natural-log units.

    Returns:
        `(H, W, 3)` uint8. Gains of 1 and shifts of 0 return the image unchanged. Gains keep white white; positive
        shifts tint it slightly, as a different lamp would.
    """
    mixing = (hed_from_rgb * np.asarray(gains)) @ rgb_from_hed
    constant = np.asarray(shifts) @ rgb_from_hed
    density = cv2.transform(
        cv2.LUT(image, _OPTICAL_DENSITY), np.column_stack([-mixing.T, -constant]).astype(np.float32)
    )
    light = cv2.exp(density)
    return _to_uint8(light * 256 - 1)


def coarsen(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns `image` `(H, W, 3)` uint8 as if scanned with pixels `factor` >= 1 times as large and enlarged again."""
    height, width = image.shape[:2]
    shape = (max(round(width / factor), 1), max(round(height / factor), 1))
    # Area and linear resampling use the same frame, so nothing shifts relative to the labels.
    return cv2.resize(cv2.resize(image, shape, interpolation=cv2.INTER_AREA), (width, height))


def change_light(image: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    """Returns `image` `(H, W, 3)` uint8 with grey values v as (v - 128) * `contrast` + 128 + `brightness`."""
    return cv2.LUT(image, _to_uint8((np.arange(256) - 128) * contrast + 128 + brightness))


def blur_focus(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns `image` `(H, W, 3)` uint8 after a Gaussian blur of `sigma` > 0 pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigmaX=sigma)


def add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Returns `image` `(H, W, 3)` uint8 with independent Gaussian noise of `sigma` grey values in each channel."""
    return _to_uint8(image + sigma * rng.standard_normal(image.shape, dtype=np.float32))


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Returns `image` `(H, W, 3)` uint8 after JPEG compression with `quality` 1..100."""
    # OpenCV's codec expects BGR, and JPEG treats the three channels differently.
    code = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Any = cv2.imdecode(code, cv2.IMREAD_COLOR)  # not None, since OpenCV has just encoded it
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def augment_image(
    image: np.ndarray,
    rng: np.random.Generator,
    options: AugmentationOptions,
    stains: Appearance | None = None,
    targets: Sequence[Appearance] = (),
) -> np.ndarray:
    """Applies random changes of colour and sharpness to a crop, without changing its geometry.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        rng: source of all randomness.
        options: probabilities and strengths.
        stains: stain of the crop's tile; None switches stain transfer off.
        targets: stains to choose from for stain transfer.

    Returns:
        `(H, W, 3)` uint8.
    """
    # One draw per decision in a fixed order, so that changing one strength does not change the other decisions.
    transfer, stain, light, resolution, blur, noise, jpeg = rng.random(7) < (
        options.stain_transfer_probability,
        options.stain_probability,
        options.light_probability,
        options.resolution_probability,
        options.blur_probability,
        options.noise_probability,
        options.jpeg_probability,
    )
    strengths = rng.uniform(-1, 1, size=13)
    if transfer and stains is not None and targets:
        # All stains of a data set are measured by the same method.
        target: Any = targets[int(abs(strengths[11]) * len(targets))]
        image = stains.recolour(image, target)
    if stain:
        largest_gains = np.array([options.stain_gain, options.stain_gain, options.residual_gain])
        largest_shifts = np.array([options.stain_shift, options.stain_shift, options.residual_shift])
        image = jitter_stains(image, largest_gains ** strengths[:3], largest_shifts * strengths[3:6])
    if light:
        image = change_light(image, 1 + options.contrast * strengths[6], options.brightness * strengths[7])
    if resolution:
        image = coarsen(image, options.resolution_factor ** abs(strengths[10]))
    if blur:
        image = blur_focus(image, max(options.blur_sigma * abs(strengths[8]), 0.1))
    if noise:
        image = add_noise(image, options.noise_sigma * abs(strengths[9]), rng)
    if jpeg:
        quality = options.jpeg_quality + round(abs(strengths[12]) * (95 - options.jpeg_quality))
        image = compress_jpeg(image, quality)
    return image


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
