"""Why: a mask or damaged label map trains wrong nuclei; it must be recognised, and real label maps must pass."""

import doctest
import re

import cv2
import numpy as np
import pytest

from cfsam_hf.data import label_checks, list_tiles
from cfsam_hf.data.label_checks import label_map_fault


def discs(count: int = 30, radius: int = 6, side: int = 256, values=None) -> np.ndarray:
    """Separate round nuclei with the ids 1..count, or with `values`."""
    label_map = np.zeros((side, side), dtype=np.int32)
    places = [(y, x) for y in range(20, side - 10, 24) for x in range(20, side - 10, 24)]
    for (y, x), value in zip(places, values if values is not None else range(1, count + 1), strict=False):
        cv2.circle(label_map, (x, y), radius, int(value), -1)
    return label_map


def test_the_documented_example():
    assert doctest.testmod(label_checks).failed == 0


def test_label_maps_pass():
    assert label_map_fault(discs()) is None
    assert label_map_fault(np.zeros((9, 9), dtype=np.int32)) is None
    assert label_map_fault(discs(1)) is None
    assert label_map_fault(discs(values=[255])) is None
    touching = np.kron(np.arange(1, 257).reshape(16, 16), np.ones((16, 16), dtype=np.int64))
    assert label_map_fault(touching) is None
    cut = discs(100)
    cut[:, 20] = 0  # one column of nuclei in two pieces each
    assert label_map_fault(cut) is None
    crumbs = discs()
    crumbs[:4, 0:200:50] = 5  # four slips of the brush
    assert label_map_fault(crumbs) is None


def spoilt_by_jpeg() -> np.ndarray:
    content = cv2.imencode(".jpg", discs(30).astype(np.uint8))[1]
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE).astype(np.int32)


def resampled() -> np.ndarray:
    enlarged = cv2.resize(discs(80).astype(np.float32), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    return np.rint(enlarged).astype(np.int32)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (discs(values=[255] * 10), "the only id, 255, lies in 10 separate pieces: is it a mask"),
        (discs(values=[255] * 2), "the only id, 255, lies in 2 separate pieces"),
        (discs(values=[1] * 3), "the only id, 1, lies in 3 separate pieces"),
        (discs(values=[1, 2, 3, 4] * 9), "separate pieces"),
        (discs(values=[1, 2, 1, 2]), "2 of 2 ids lie in separate pieces: is it a class map"),
        (discs(values=[n % 40 + 1 for n in range(80)]), "40 of 40 ids .*8 bits"),
        (spoilt_by_jpeg(), "JPEG or resampling"),
        (resampled(), "separate pieces"),
        (np.where(discs() > 0, 0, 1), "id 1 covers 9.% of the tile: is it the background"),
        (discs() + 1, "id 1 covers 9.% of the tile"),
    ],
    ids=["mask", "two", "ones", "classes", "few", "wrapped", "jpeg", "resampled", "inverted", "shifted"],
)
def test_what_is_no_label_map(label_map, message):
    assert re.search(message, label_map_fault(label_map))


@pytest.mark.parametrize("name", ["nuinsseg", "monuseg/tiles", "dsb2018", "tnbc"])
def test_label_maps_of_public_data_sets_pass(real_data, name):
    for record in list_tiles("instance_pairs", real_data / name)[:6]:
        assert label_map_fault(record.load().instance_map) is None
