"""Why: what is true of every image must hold for thousands of random ones, from the maps to the files and back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from cfsam_hf.data.readers.run_lengths import run_length_pixels
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.model.decoding import DecodingParameters, decode_nuclei
from cfsam_hf.model.pictures import read_rgb
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.model.result import DecodedNuclei, NucleiResult
from cfsam_hf.outputs import write_coco, write_geojson, write_instance_map, write_table

from ..decoding_cases import perfect_maps, random_maps
from ..painted_model import PaintedModel, paint, painted_config

TYPES = 3
NAMES = {1: "epithelial", 2: "inflammatory", 3: "spindle-shaped"}
SMALLEST = DecodingParameters().minimum_area


def ellipses(rng: np.random.Generator, gap: int) -> np.ndarray:
    """A label map of random ellipses (ids in raster order), at least `gap` pixels of background between any two."""
    height, width = rng.integers(24, 72, 2)
    labels = np.zeros((height, width), np.int32)
    for _ in range(30):
        mask = np.zeros((height, width), np.uint8)
        center = rng.uniform(0, [width, height]).round().astype(int).tolist()
        axes = rng.integers(3, 11, 2).tolist()
        cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        near = cv2.dilate(mask, np.ones((2 * gap + 1, 2 * gap + 1), np.uint8)) if gap else mask
        if mask.sum() >= SMALLEST and not labels[near > 0].any():
            labels[mask > 0] = labels.max() + 1
    return in_raster_order(labels)


def in_raster_order(labels: np.ndarray) -> np.ndarray:
    ids, first = np.unique(labels, return_index=True)
    renumber = np.zeros(labels.max() + 1, np.int32)
    renumber[ids[np.argsort(first)][ids[np.argsort(first)] > 0]] = np.arange(1, (ids > 0).sum() + 1)
    return renumber[labels]


def patches(rng: np.random.Generator) -> np.ndarray:
    """A label map of regions of any form that touch, with holes, islands and corners that meet."""
    shape = rng.integers(16, 56, 2)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.7, 3))
    kind = np.digitize(noise, np.quantile(noise, [0.35, 0.6, 0.8]))
    labels = np.zeros(shape, np.int32)
    for value in range(1, 4):
        regions = ndimage.label(kind == value)[0]
        labels[regions > 0] = regions[regions > 0] + labels.max()
    return labels


def typed_maps(labels: np.ndarray, rng: np.random.Generator) -> tuple[dict, np.ndarray]:
    """The maps of a perfect model for a label map, and the types (N,) that they say."""
    types = rng.integers(1, TYPES + 1, labels.max() + 1)
    types[0] = 0
    return perfect_maps(labels, types[labels], TYPES), types[1:]


def assert_sound(decoded: DecodedNuclei) -> None:
    """What holds for every decoding, whatever the maps."""
    count = len(decoded)
    areas = np.bincount(decoded.instance_map.ravel(), minlength=count + 1)
    assert len(areas) == count + 1, "ids beyond N"
    np.testing.assert_array_equal(decoded.areas, areas[1:])
    assert (decoded.areas >= SMALLEST).all()
    assert ((decoded.scores >= 0) & (decoded.scores <= 1)).all()
    assert ((decoded.type_probabilities >= 0) & (decoded.type_probabilities <= 1 + 1e-12)).all()
    assert ((decoded.type_ids >= 1) & (decoded.type_ids <= TYPES)).all()
    boxes = ndimage.find_objects(decoded.instance_map)
    for identity, (rows, columns) in enumerate(boxes, start=1):
        assert decoded.boxes[identity - 1].tolist() == [columns.start, rows.start, columns.stop, rows.stop]
        _, parts = ndimage.label(decoded.instance_map[rows, columns] == identity)
        assert parts == 1, f"nucleus {identity} is not one 4-connected region"
    x, y = decoded.centroids.T
    x0, y0, x1, y1 = decoded.boxes.T
    assert ((x0 < x) & (x < x1) & (y0 < y) & (y < y1)).all()


def raster(features: list[dict], shape: tuple[int, int]) -> np.ndarray:
    """The label map of GeoJSON features by OpenCV.

    OpenCV fills the outline as well. On a canvas four times as large it stays away from the pixels' centres.
    """
    labels = np.zeros(shape, np.int32)
    for feature in features:
        canvas = np.zeros((4 * shape[0] + 1, 4 * shape[1] + 1), np.uint8)
        rings = [4 * np.array(ring, np.int32) for ring in feature["geometry"]["coordinates"]]
        cv2.fillPoly(canvas, rings, 1)
        inside = canvas[2::4, 2::4] > 0
        assert not labels[inside].any(), "polygons overlap"
        labels[inside] = feature["properties"]["measurements"]["id"]
    return labels


def ring_area(ring: list[list[int]]) -> float:
    """Signed area of a closed ring."""
    (x, y), (next_x, next_y) = np.array(ring[:-1]).T, np.array(ring[1:]).T
    return float((x * next_y - next_x * y).sum()) / 2


def result_of(decoded: DecodedNuclei) -> NucleiResult:
    return NucleiResult.from_decoded(decoded, mpp=0.25, type_names=NAMES, image_name="a.png", checkpoint="c")


def assert_polygons_are_the_nuclei(decoded: DecodedNuclei, path: Path) -> None:
    """The GeoJSON file fills, polygon for nucleus, exactly the pixels of the label map, with their areas."""
    write_geojson(result_of(decoded), path)
    features = json.loads(path.read_text())["features"]
    assert len(features) == len(decoded)
    np.testing.assert_array_equal(raster(features, decoded.instance_map.shape), decoded.instance_map)
    for feature, area, kind, score in zip(features, decoded.areas, decoded.type_ids, decoded.scores, strict=True):
        measurements = feature["properties"]["measurements"]
        assert sum(map(ring_area, feature["geometry"]["coordinates"])) == area == measurements["area_px"]
        assert feature["properties"]["classification"]["name"] == NAMES[kind]
        assert abs(measurements["score"] - score) < 1e-6


def round_trip(seed: int, path: Path) -> float:
    """A random label map all the way to a file and back; returns the PQ of what was decoded.

    In turn ellipses with background between them, which must come back exactly; ellipses that may touch; and regions
    of any form, which no model would be asked for, but which must not break anything.
    """
    rng = np.random.default_rng(seed)
    labels = (lambda: ellipses(rng, gap=1), lambda: ellipses(rng, gap=0), lambda: patches(rng))[seed % 3]()
    maps, types = typed_maps(labels, rng)
    decoded = decode_nuclei(**maps)
    assert_sound(decoded)
    if seed % 3 == 0:
        np.testing.assert_allclose(decoded.scores, 1, atol=2e-6)
        np.testing.assert_array_equal(decoded.instance_map, labels)
        np.testing.assert_array_equal(decoded.type_ids, types)
    assert_polygons_are_the_nuclei(decoded, path)
    return panoptic_quality(labels, decoded.instance_map).pq if labels.any() else 1.0


def assert_round_trips(seeds: range, path: Path) -> None:
    qualities = []
    for seed in seeds:
        try:
            qualities.append(round_trip(seed, path))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    # Where ellipses touch, a pixel may go to either.
    touching = qualities[(1 - seeds.start) % 3 :: 3]
    assert np.mean(touching) > 0.99
    assert min(touching) > 0.9


def test_200_random_label_maps_to_polygons_and_back(tmp_path):
    assert_round_trips(range(10_000, 10_200), tmp_path / "a.geojson")


@pytest.mark.slow
def test_2000_random_label_maps_to_polygons_and_back(tmp_path):
    assert_round_trips(range(2000), tmp_path / "a.geojson")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 60), st.integers(1, 60)), st.sampled_from([0.7, 1.5, 3.0]))
def test_every_file_of_random_maps_holds_the_same_nuclei(tmp_path_factory, seed, shape, smoothness):
    decoded = decode_nuclei(**random_maps(seed, shape, smoothness, type_count=TYPES))
    assert_sound(decoded)
    folder = tmp_path_factory.mktemp("files")
    result = result_of(decoded)
    assert_polygons_are_the_nuclei(decoded, folder / "a.geojson")
    write_instance_map(result, folder / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(folder / "a.tif"), decoded.instance_map)
    write_table(result, folder / "a.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "a.parquet"), result.table)
    write_coco(result, folder / "a.json")
    annotations = json.loads((folder / "a.json").read_text())["annotations"]
    assert [annotation["area"] for annotation in annotations] == decoded.areas.tolist()
    for annotation in annotations:
        pixels = run_length_pixels(annotation["segmentation"]["counts"], *shape)
        expected = np.flatnonzero(decoded.instance_map == annotation["instance_id"])
        np.testing.assert_array_equal(np.sort(pixels), expected)


@pytest.fixture(scope="module")
def painted_pipeline():
    """The model that reads nuclei off painted images."""
    return NucleiSegmentationPipeline(model=PaintedModel(painted_config()))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(24, 150),
    st.integers(24, 150),
    st.sampled_from([32, 48, 96]),
    st.integers(0, 16),
)
def test_no_tiling_changes_the_nuclei(painted_pipeline, seed, height, width, tile_size, overlap):
    image, instance_map, types = paint(height, width, count=10, seed=seed)
    result = painted_pipeline(image, mpp=0.25, tile_size=tile_size, tile_overlap=overlap)
    np.testing.assert_array_equal(result.instance_map, instance_map)
    assert result.table["type"].tolist() == types.tolist()
    assert result.table["score"].between(0, 1).all()


KINDS = st.sampled_from([np.bool_, np.uint8, np.uint16, np.int32, np.float32, np.float64])
CHANNELS = st.sampled_from([(), (1,), (3,), (4,)])


@settings(max_examples=80, deadline=None)
@given(KINDS, st.tuples(st.integers(1, 9), st.integers(5, 9)), CHANNELS, st.data())
@pytest.mark.filterwarnings("ignore:a 16-bit image whose largest value")
def test_any_array_of_pixels_is_an_image_and_survives_files(tmp_path_factory, kind, shape, channels, data):
    floats = np.issubdtype(kind, np.floating)
    width = 32 if kind is np.float32 else 64
    values = st.floats(0, 1, width=width) if floats else st.integers(0, 255 if kind is np.int32 else 65535)
    values = st.booleans() if kind is np.bool_ else st.integers(0, 255) if kind is np.uint8 else values
    array = data.draw(arrays(kind, (*shape, *channels), elements=values))
    image = read_rgb(array)
    assert image.shape == (*shape, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(read_rgb(image), image)
    if channels != (4,):
        expected = np.broadcast_to(array if channels else array[..., None], image.shape).astype(np.float64)
        scale = {np.bool_: 255, np.uint16: 1 / 257, np.float32: 255, np.float64: 255}.get(kind, 1)
        assert np.abs(expected * scale - image).max() <= 0.5 + 1e-4
    if channels in ((), (3,)):
        np.testing.assert_array_equal(read_rgb(np.moveaxis(array, -1, 0) if channels else array), image)
    path = tmp_path_factory.mktemp("image") / "a.tif"
    if kind not in (np.bool_, np.int32, np.float64) and channels in ((), (3,)):
        tifffile.imwrite(path, array, photometric="rgb" if channels else "minisblack")
        np.testing.assert_array_equal(read_rgb(path), image)
    Image.fromarray(image).save(path.with_suffix(".png"))
    np.testing.assert_array_equal(read_rgb(path.with_suffix(".png")), image)
