"""The usual decoding of HoVer-Net, step by step, as a reference for tests and benchmarks.

It follows the published recipe (Graham et al., Medical Image Analysis 58, 2019, section 3.2, and the post-processing
that its users run): per-tile min-max, Sobel filters of 21 pixels, watershed, then a Python loop over the nuclei.
Nothing here is tuned or accelerated: it shows the results and the cost of that recipe.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed


def hovernet_instances(nuclei_probability: np.ndarray, hv_maps: np.ndarray) -> np.ndarray:
    """Instance map (H, W) int32 from the nuclei probability (H, W) and the distance maps (2, H, W), x then y."""
    foreground = ndimage.label(np.array(nuclei_probability >= 0.5, dtype=np.int32))[0]
    foreground = _without_small_objects(foreground, 10)
    foreground[foreground > 0] = 1

    horizontal = cv2.normalize(hv_maps[0], None, alpha=0, beta=1, norm_type=cv2.NORM_MINMAX, dtype=cv2.CV_32F)
    vertical = cv2.normalize(hv_maps[1], None, alpha=0, beta=1, norm_type=cv2.NORM_MINMAX, dtype=cv2.CV_32F)
    sobel_x = cv2.Sobel(horizontal, cv2.CV_64F, 1, 0, ksize=21)
    sobel_y = cv2.Sobel(vertical, cv2.CV_64F, 0, 1, ksize=21)
    sobel_x = 1 - cv2.normalize(sobel_x, None, alpha=0, beta=1, norm_type=cv2.NORM_MINMAX, dtype=cv2.CV_32F)
    sobel_y = 1 - cv2.normalize(sobel_y, None, alpha=0, beta=1, norm_type=cv2.NORM_MINMAX, dtype=cv2.CV_32F)

    overall = np.maximum(sobel_x, sobel_y)
    overall = overall - (1 - foreground)
    overall[overall < 0] = 0
    # Nuclei become dark basins for the watershed.
    distance = (1.0 - overall) * foreground
    distance = -cv2.GaussianBlur(distance, (3, 3), 0)

    overall = np.array(overall >= 0.4, dtype=np.int32)
    marker = foreground - overall
    marker[marker < 0] = 0
    marker = ndimage.binary_fill_holes(marker).astype("uint8")
    marker = cv2.morphologyEx(marker, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    marker = ndimage.label(marker)[0]
    marker = _without_small_objects(marker, 10)
    return watershed(distance, markers=marker, mask=foreground).astype(np.int32)


def hovernet_nuclei(nuclei_probability: np.ndarray, hv_maps: np.ndarray, type_map: np.ndarray | None = None):
    """The instance map, and for each nucleus its box, centroid, contour, type and type probability.

    Args:
        nuclei_probability: (H, W).
        hv_maps: (2, H, W), x then y.
        type_map: (H, W) integer type of every pixel, 0 for background, or None.

    Returns:
        The instance map and a dictionary from id to a dictionary of the nucleus's properties.
    """
    instance_map = hovernet_instances(nuclei_probability, hv_maps)
    nuclei = {}
    for instance_id in np.unique(instance_map)[1:]:
        mask = instance_map == instance_id
        row_min, row_max, column_min, column_max = _bounding_box(mask)
        box = np.array([[row_min, column_min], [row_max, column_max]])
        crop = mask[row_min:row_max, column_min:column_max].astype(np.uint8)
        moments = cv2.moments(crop)
        contours = cv2.findContours(crop, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        contour = np.squeeze(contours[0][0].astype("int32"))
        # A contour needs three points; smaller specks are skipped.
        if contour.shape[0] < 3 or len(contour.shape) != 2:
            continue
        centroid = np.array([moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]])
        nuclei[instance_id] = {
            "bbox": box,
            "centroid": np.add(centroid, (column_min, row_min)),
            "contour": contour + np.array([[column_min, row_min]]),
            "type": None,
            "type_prob": None,
        }
    if type_map is not None:
        for instance_id, nucleus in nuclei.items():
            (row_min, column_min), (row_max, column_max) = nucleus["bbox"]
            mask = instance_map[row_min:row_max, column_min:column_max] == instance_id
            types, pixels = np.unique(type_map[row_min:row_max, column_min:column_max][mask], return_counts=True)
            ranked = sorted(zip(types, pixels, strict=True), key=lambda pair: pair[1], reverse=True)
            chosen = ranked[0][0]
            if chosen == 0 and len(ranked) > 1:
                chosen = ranked[1][0]
            nucleus["type"] = int(chosen)
            nucleus["type_prob"] = dict(ranked)[chosen] / (np.sum(mask) + 1.0e-6)
    return instance_map, nuclei


def _without_small_objects(labels: np.ndarray, minimum_area: int) -> np.ndarray:
    areas = np.bincount(labels.ravel())
    labels = labels.copy()
    labels[(areas < minimum_area)[labels]] = 0
    return labels


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(np.any(mask, axis=1))
    columns = np.flatnonzero(np.any(mask, axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
