"""Results to export, made from label maps without a model."""

from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from cfsam_hf.model.result import NucleiResult

TYPE_NAMES = {1: "epithelial", 2: "inflammatory", 3: "spindle-shaped"}
TYPE_COLORS = {1: (230, 25, 75), 2: (67, 99, 216), 3: (60, 180, 75)}


def make_result(instance_map: np.ndarray, *, typed: bool = True, mpp: float | None = 0.25, **fields) -> NucleiResult:
    """A result whose nuclei are those of a label map (ids 1..N, each 4-connected), with types 1, 2, 3, 1, ..."""
    ids = np.arange(1, instance_map.max() + 1)
    boxes = np.array([[c.start, r.start, c.stop, r.stop] for r, c in ndimage.find_objects(instance_map)]).reshape(
        -1, 4
    )
    centroids = np.array(ndimage.center_of_mass(instance_map > 0, instance_map, ids)).reshape(-1, 2)
    types = (ids - 1) % 3 + 1
    shares = np.repeat((0.25 - 0.2 / ids)[:, None], 3, axis=1).astype(np.float32)
    shares[ids - 1, types - 1] = 0.5 + 0.4 / ids
    decoded = SimpleNamespace(
        instance_map=instance_map,
        type_ids=types if typed else np.zeros_like(ids),
        type_probabilities=0.5 + 0.4 / ids if typed else np.full(len(ids), np.nan),
        scores=1 - 0.3 / ids,
        boxes=boxes,
        centroids=centroids[:, ::-1] + 0.5,
        areas=np.bincount(instance_map.ravel(), minlength=len(ids) + 1)[1:],
        probabilities=shares if typed else None,
    )
    fields = {"image_name": "case 7/tile é.png", "checkpoint": "cfsam-tiny", "version": "0.0.1"} | fields
    names, colors = (TYPE_NAMES, TYPE_COLORS) if typed else ({}, {})
    return NucleiResult.from_decoded(decoded, mpp=mpp, type_names=names, type_colors=colors, **fields)


def label_components(foreground: np.ndarray) -> np.ndarray:
    """The 4-connected components of a mask as an instance map."""
    return ndimage.label(foreground)[0].astype(np.int32)


def small_map() -> np.ndarray:
    """Nine by twelve pixels: rings (one open at a corner), single pixels, neighbours, pieces cut by the border."""
    rows = [
        "111..2....33",
        "1.1......333",
        "111...4....3",
        "......44....",
        ".55...44....",
        "5.5..6......",
        "555..66....7",
        "....866.....",
        "88888.......",
    ]
    return np.array([[0 if c == "." else int(c) for c in row] for row in rows], dtype=np.int32)


def blob_map(seed: int = 0, size: int = 160, density: float = 0.42) -> np.ndarray:
    """Some dozens of blobs of all forms, holes and touching corners among them."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.5)
    return label_components(noise > np.quantile(noise, 1 - density))
