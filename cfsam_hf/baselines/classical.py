"""Nuclei without training: Otsu's threshold on the haematoxylin stain, split by a watershed of distances."""

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

DEFAULT_MPP = 0.25


@dataclass(frozen=True)
class ClassicalParameters:
    """Sizes in micrometres. All of them are this project's choice.

    Attributes:
        smoothing: standard deviation of the Gaussian on the haematoxylin channel.
        opening: radius of the disc of the opening, which removes threads and noise.
        distance_smoothing: standard deviation of the Gaussian on the distances, which merges peaks of one nucleus.
        peak_distance: least distance between the centres of two nuclei.
        least_diameter, largest_diameter: limits of the diameter of a disc with the area of a nucleus.
    """

    smoothing: float = 0.25
    opening: float = 0.5
    distance_smoothing: float = 0.5
    peak_distance: float = 1.25
    least_diameter: float = 2.5
    largest_diameter: float = 25.0

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be micrometres above 0, got {value!r}")

    def to_dict(self) -> dict[str, float]:
        """The parameters by name."""
        return asdict(self)


def segment_classical(
    image: np.ndarray, mpp: float | None = None, parameters: ClassicalParameters | None = None
) -> np.ndarray:
    """Finds nuclei in an H&E image by thresholds alone.

    The steps are: haematoxylin by colour deconvolution, smoothed; Otsu's threshold; opening; hole filling; a watershed
    of the smoothed distance transform from its peaks; size limits. It does not predict types.

    Otsu's method always finds two classes: in an image without nuclei it reports the darker parts, and in a tile with
    ink it misses the nuclei.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mpp: micrometres per pixel; 0.25 (40x) by default.
        parameters: sizes.

    Returns:
        `(H, W)` int32 label map, 0 background, ids 1..N, each 4-connected.

    Raises:
        ValueError: the image is not RGB uint8, or mpp is not positive.

    References:
        Ruifrok and Johnston 2001 (deconvolution); Otsu 1979; Malpica et al. 1997 (watershed of distances).
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    mpp = DEFAULT_MPP if mpp is None else mpp
    if not mpp > 0:
        raise ValueError(f"mpp must be positive micrometres per pixel, got {mpp!r}")
    sizes = parameters or ClassicalParameters()
    if not image.size:
        return np.zeros(image.shape[:2], np.int32)

    haematoxylin = ndimage.gaussian_filter(rgb2hed(image)[..., 0].astype(np.float32), sizes.smoothing / mpp)
    stained = haematoxylin > threshold_otsu(haematoxylin)
    reach = max(1, round(sizes.opening / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    opened = cv2.morphologyEx(stained.astype(np.uint8), cv2.MORPH_OPEN, disc)
    nuclei = ndimage.binary_fill_holes(opened)

    # The outside of the image counts as background, so that a nucleus at the border has its peak inside.
    distances = cv2.distanceTransform(np.pad(nuclei, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    distances = ndimage.gaussian_filter(distances, sizes.distance_smoothing / mpp)
    peaks = peak_local_max(
        distances,
        min_distance=max(1, round(sizes.peak_distance / mpp)),
        labels=ndimage.label(nuclei)[0],
        exclude_border=False,
    )
    markers = np.zeros(nuclei.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    divided = watershed(-distances, markers, mask=nuclei)

    least, largest = (np.pi / 4 * (side / mpp) ** 2 for side in (sizes.least_diameter, sizes.largest_diameter))
    areas = np.bincount(divided.ravel())
    kept = (areas >= least) & (areas <= largest)
    kept[0] = False
    renumbered = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return renumbered[divided]
