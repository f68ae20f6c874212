"""The stain of a tile, measured with torchstain, and crops recoloured to look like another tile."""

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import cv2
import numpy as np

STAIN_METHODS = ("macenko", "reinhard")

_LAMP = 240.0
"""Grey value of unstained glass in torchstain's Macenko."""

_STAINED_BELOW = int(_LAMP * np.exp(-0.15))
"""Pixels darker than this in all channels have an optical density of .15, Macenko's threshold of stained tissue."""

_FEWEST_PIXELS = 500
"""With fewer stained pixels, percentiles of stain directions are meaningless."""

_SAMPLE_PIXELS = 2**17
"""About how many pixels of a tile are measured; more would give the same percentiles."""

_DENSITY = -np.log((np.arange(256) + 1) / _LAMP).astype(np.float32)


@dataclass(frozen=True)
class MacenkoAppearance:
    """Stain directions and densities (Macenko et al., ISBI 2009).

    Attributes:
        directions: `(3, 2)` optical density in RGB of one unit of haematoxylin and of eosin.
        densities: `(2,)` 99th percentile of their amounts.
    """

    directions: np.ndarray
    densities: np.ndarray

    def recolour(self, image: np.ndarray, target: "MacenkoAppearance") -> np.ndarray:
        """Gives `image` `(H, W, 3)` uint8, a part of the measured tile, the stains of `target`."""
        gain = np.diag(target.densities / self.densities)
        mixing = target.directions @ gain @ np.linalg.pinv(self.directions)
        light = cv2.exp(cv2.transform(cv2.LUT(image, _DENSITY), -mixing.astype(np.float32)))
        return np.clip(_LAMP * light, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ReinhardAppearance:
    """Mean and deviation of colour in CIE Lab (Reinhard et al., IEEE CG&A 2001; Lab as in torchstain).

    Attributes:
        means, deviations: `(3,)`, L in 0..100.
    """

    means: np.ndarray
    deviations: np.ndarray

    def recolour(self, image: np.ndarray, target: "ReinhardAppearance") -> np.ndarray:
        """Gives `image` `(H, W, 3)` uint8, a part of the measured tile, the colours of `target`."""
        gain = target.deviations / self.deviations
        linear = np.column_stack([np.diag(gain), target.means - gain * self.means]).astype(np.float32)
        lab = cv2.transform(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), linear)
        return np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * 255, 0, 255).astype(np.uint8)


Appearance = MacenkoAppearance | ReinhardAppearance


def measure_stains(image: np.ndarray, method: str) -> Appearance | None:
    """Measures the stain of a tile.

    It measures whole tiles and not crops: a crop with few nuclei says little about the stains, and measuring is slow.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        method: `"macenko"` or `"reinhard"`.

    Returns:
        The appearance, or None if there is too little tissue or colour to measure.

    Raises:
        ValueError: the method is unknown.
        ImportError: torchstain is not installed.
    """
    if method not in STAIN_METHODS:
        raise ValueError(f"the stain method must be one of {', '.join(STAIN_METHODS)}, got {method!r}")
    normalizers = _torchstain().normalizers
    step = max(int(np.sqrt(image.shape[0] * image.shape[1] / _SAMPLE_PIXELS)), 1)
    sample = np.ascontiguousarray(image[::step, ::step])
    if (sample < _STAINED_BELOW).all(axis=-1).sum() < _FEWEST_PIXELS:
        return None
    if method == "reinhard":
        normalizer = normalizers.ReinhardNormalizer(backend="numpy")
        normalizer.fit(sample)
        means, deviations = normalizer.target_means, normalizer.target_stds
        return ReinhardAppearance(means, deviations) if deviations.min() > 0.1 else None
    normalizer = normalizers.MacenkoNormalizer(backend="numpy")
    normalizer.fit(sample)
    directions, densities = normalizer.HERef, normalizer.maxCRef
    parallel = np.linalg.cond(directions) > 50
    return None if parallel or densities.min() < 0.05 else MacenkoAppearance(directions, densities)


@cache
def _torchstain() -> ModuleType:
    try:
        import torchstain
    except ImportError as error:
        raise ImportError(
            "stain transfer measures stains with torchstain: pip install 'cfsam_hf[stain]', or set "
            "stain_transfer_probability to 0"
        ) from error
    return torchstain
