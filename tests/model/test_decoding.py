"""Why: decoding defines what a nucleus is; it must follow its definition, whatever the surroundings."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cfsam_hf.data import list_tiles, select_tiles
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.model.contours import nucleus_contours
from cfsam_hf.model.decoding import DecodingParameters, decode_nuclei
from cfsam_hf.model.scores import ScoreWeights

from ..decoding_cases import packed_disks, perfect_maps, random_maps
from ..decoding_literal import literal_instances

ALL = DecodingParameters(minimum_area=0)
PARAMETERS = st.builds(
    DecodingParameters,
    marker_threshold=st.sampled_from([0.2, 0.5, 0.6]),
    boundary_weight=st.sampled_from([0.0, 0.5, 1.0]),
    jump_weight=st.sampled_from([0.0, 1.0]),
    core_threshold=st.sampled_from([0.6, 0.8]),
    minimum_marker_area=st.sampled_from([1, 5]),
    minimum_core_area=st.sampled_from([1, 8]),
    minimum_area=st.sampled_from([0, 10]),
    minimum_score=st.sampled_from([0.0, 0.65, 0.75]),
    maximum_hole_area=st.sampled_from([0, 4, 100]),
    score_weights=st.sampled_from([ScoreWeights(), ScoreWeights(-2.0, 0.5, 1.5, 2.0, -1.0, 0.3)]),
)
SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 30))
SEEDS = st.integers(0, 2**32 - 1)


def blank(height, width):
    """Maps without a nucleus, to paint into."""
    return np.zeros((height, width), np.float32), np.zeros((2, height, width), np.float32)


def decode_pixels(pixels, parameters=ALL):
    """The instance map for a foreground of exactly these 0/1 pixels and no other evidence."""
    nuclei = np.asarray(pixels, dtype=np.float32)
    return decode_nuclei(nuclei, np.zeros((2, *nuclei.shape)), parameters=parameters).instance_map


@settings(max_examples=60, deadline=None)
@given(SEEDS, SHAPES, PARAMETERS, st.booleans())
def test_equals_the_literal_definition(seed, shape, parameters, with_boundary):
    maps = random_maps(seed, shape)
    maps.pop("type_probabilities")
    if not with_boundary:
        maps["boundary_probability"] = None
    decoded = decode_nuclei(**maps, parameters=parameters)
    np.testing.assert_array_equal(decoded.instance_map, literal_instances(**maps, parameters=parameters))


@settings(max_examples=60, deadline=None)
@given(SEEDS, SHAPES, PARAMETERS)
def test_rows_describe_the_instances(seed, shape, parameters):
    maps = random_maps(seed, shape)
    decoded = decode_nuclei(**maps, parameters=parameters)
    assert decoded.instance_map.dtype == np.int32
    assert decoded.instance_map.max(initial=0) == len(decoded)
    first_pixels = []
    for row in range(len(decoded)):
        inside = decoded.instance_map == row + 1
        assert ndimage.label(inside)[1] == 1, "not one 4-connected region"
        rows, columns = np.nonzero(inside)
        first_pixels.append(np.flatnonzero(inside)[0])
        assert decoded.areas[row] == len(rows) >= parameters.minimum_area
        assert decoded.boxes[row].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(decoded.centroids[row], [columns.mean() + 0.5, rows.mean() + 0.5])
        assert decoded.scores[row] >= parameters.minimum_score
        votes = maps["type_probabilities"][1:, inside].sum(axis=1, dtype=np.float64)
        np.testing.assert_allclose(decoded.type_probabilities[row], votes.max() / votes.sum(), rtol=1e-5)
        np.testing.assert_allclose(decoded.probabilities[row], votes / votes.sum(), rtol=1e-5)
        assert votes[decoded.type_ids[row] - 1] >= votes.max() * (1 - 1e-5)
    assert first_pixels == sorted(first_pixels)


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.tuples(st.integers(8, 60), st.integers(8, 60)), PARAMETERS, st.data())
def test_crop_decodes_as_the_whole(seed, shape, parameters, data):
    maps = random_maps(seed, shape, smoothness=data.draw(st.sampled_from([0.7, 1.5, 3.0])))
    top, left = (data.draw(st.integers(0, side - 1)) for side in shape)
    bottom, right = data.draw(st.integers(top + 1, shape[0])), data.draw(st.integers(left + 1, shape[1]))
    crop = {name: values[..., top:bottom, left:right] for name, values in maps.items()}
    whole, part = decode_nuclei(**maps, parameters=parameters), decode_nuclei(**crop, parameters=parameters)

    # The parts of the image of which the crop knows enough: the crop without its halo, except at the image's border.
    known = np.ones(shape, dtype=bool)
    for axis, (first, last) in enumerate([(top, bottom), (left, right)]):
        positions = np.arange(shape[axis])
        after = (first == 0) | (positions >= first + parameters.halo)
        before = (last == shape[axis]) | (positions < last - parameters.halo)
        known &= np.expand_dims(after & before, 1 - axis)
    components, count = ndimage.label(maps["nuclei_probability"] >= parameters.nuclei_threshold)
    complete = np.setdiff1d(np.arange(1, count + 1), components[~known])
    in_complete = np.isin(components, complete)
    for identity in np.unique(whole.instance_map[in_complete & (whole.instance_map > 0)]):
        inside = whole.instance_map == identity
        local = inside[top:bottom, left:right]
        (match,) = np.unique(part.instance_map[local])
        assert match > 0
        np.testing.assert_array_equal(part.instance_map == match, local)
        a, b = identity - 1, match - 1
        assert whole.type_ids[a] == part.type_ids[b]
        assert whole.type_probabilities[a] == part.type_probabilities[b]
        np.testing.assert_array_equal(whole.probabilities[a], part.probabilities[b])
        assert whole.scores[a] == part.scores[b]
        np.testing.assert_array_equal(whole.boxes[a], part.boxes[b] + [left, top, left, top])
    inside_crop = in_complete[top:bottom, left:right]
    np.testing.assert_array_equal(part.instance_map[inside_crop] > 0, whole.instance_map[in_complete] > 0)


def test_no_nuclei():
    nuclei, hv_maps = blank(5, 7)
    decoded = decode_nuclei(nuclei, hv_maps, np.zeros((3, 5, 7)), nuclei)
    assert len(decoded) == 0
    assert decoded.instance_map.shape == (5, 7)
    assert not decoded.instance_map.any()
    assert decoded.boxes.shape == (0, 4)
    assert decoded.centroids.shape == (0, 2)
    assert decoded.boxes.dtype == decoded.areas.dtype == decoded.type_ids.dtype == np.int64
    assert nucleus_contours(decoded.instance_map, decoded.boxes) == []


def test_one_pixel_image():
    one = np.ones((1, 1))
    decoded = decode_nuclei(one, np.zeros((2, 1, 1)), parameters=ALL)
    assert decoded.boxes.tolist() == [[0, 0, 1, 1]]
    assert decoded.centroids.tolist() == [[0.5, 0.5]]
    assert decoded.type_ids.tolist() == [0]
    assert np.isnan(decoded.type_probabilities).all()
    assert decoded.probabilities is None
    assert len(decode_nuclei(one, np.zeros((2, 1, 1)))) == 0, "smaller than the smallest nucleus"


def test_nucleus_cut_by_the_border():
    nuclei, hv_maps = blank(20, 30)
    nuclei[:6, 25:] = nuclei[15:, :5] = 0.9
    decoded = decode_nuclei(nuclei, hv_maps)
    assert decoded.boxes.tolist() == [[25, 0, 30, 6], [0, 15, 5, 20]]
    np.testing.assert_allclose(decoded.scores, 0.9, rtol=1e-6)


def test_runs_do_not_join_over_the_row_end():
    pixels = np.zeros((4, 6))
    pixels[1, 3:] = pixels[2, :3] = 1
    assert decode_pixels(pixels).max() == 2


def test_the_whole_image_is_one_nucleus():
    assert (decode_pixels(np.ones((40, 30))) == 1).all()


def test_five_thousand_nuclei():
    labels = packed_disks(1420, 71, 10.4)
    assert labels.max() == 5041
    decoded = decode_nuclei(**perfect_maps(labels))
    assert len(decoded) == 5041
    assert panoptic_quality(labels, decoded.instance_map).pq > 0.97


@pytest.mark.parametrize("radius", [7, 8, 9.4])
def test_touching_nuclei_without_a_boundary_map(radius):
    labels = packed_disks(144, 9, radius)
    maps = perfect_maps(labels, stride=2)
    maps["boundary_probability"] = None
    decoded = decode_nuclei(**maps)
    assert panoptic_quality(labels, decoded.instance_map).pq > 0.9


def test_ring_keeps_a_large_hole_and_loses_a_small_one():
    distance = np.hypot(*(np.mgrid[:60, :60] - 29.5))
    ring = (distance < 25) & (distance > 8)
    hole = int((distance <= 8).sum())
    kept, filled = (
        decode_pixels(ring, DecodingParameters(maximum_hole_area=area)).astype(bool) for area in (hole - 1, hole)
    )
    np.testing.assert_array_equal(kept, ring)
    np.testing.assert_array_equal(filled, distance < 25)


def test_an_island_stays_itself():
    ring = np.pad(np.ones((1, 1)), 1)
    ring = np.pad(ring, 2, constant_values=1)
    assert sorted(np.unique(decode_pixels(ring))) == [0, 1, 2]


def test_open_bay_at_the_border_is_no_hole():
    pixels = np.ones((8, 8))
    pixels[0, 4] = 0
    np.testing.assert_array_equal(decode_pixels(pixels), pixels)


def test_divided_component_keeps_every_pixel():
    nuclei, hv_maps = blank(12, 40)
    nuclei[1:11, 1:39] = 1
    boundary = np.zeros((12, 40), np.float32)
    boundary[:, 19:21] = 1
    decoded = decode_nuclei(nuclei, hv_maps, None, boundary)
    assert decoded.areas.tolist() == [190, 190]
    np.testing.assert_array_equal(decoded.instance_map > 0, nuclei > 0)


def test_a_neighbour_does_not_change_a_nucleus():
    labels = packed_disks(60, 3, 9.8)
    maps = perfect_maps(labels)
    before = decode_nuclei(**maps).instance_map == 5
    maps["hv_maps"][:, :8] *= 100
    maps["nuclei_probability"][:8] *= 0.7
    after = decode_nuclei(**maps).instance_map
    assert (after[before] == after[before][0]).all()
    assert (after == after[before][0]).sum() == before.sum()


def test_type_is_the_largest_sum_among_the_types():
    nuclei, hv_maps = blank(6, 6)
    nuclei[1:5, 1:5] = 1
    types = np.zeros((4, 6, 6))
    types[0] = 0.6
    types[2] = 0.3
    types[3] = 0.1
    decoded = decode_nuclei(nuclei, hv_maps, types, parameters=ALL)
    assert decoded.type_ids.tolist() == [2]
    np.testing.assert_allclose(decoded.type_probabilities, [0.75], rtol=1e-6)
    np.testing.assert_allclose(decoded.probabilities, [[0, 0.75, 0.25]], rtol=1e-6)
    only_background = np.eye(1, 4).reshape(4, 1, 1) * np.ones((6, 6))
    decoded = decode_nuclei(nuclei, hv_maps, only_background, parameters=ALL)
    assert decoded.type_ids.tolist() == [1]
    np.testing.assert_allclose(decoded.type_probabilities, [1 / 3])


def test_inputs_of_other_dtypes_and_layouts_are_left_alone():
    maps = random_maps(3, (30, 40))
    expected = decode_nuclei(**maps)
    for convert in (np.asfortranarray, lambda a: a.astype(np.float64), lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
        converted = {name: convert(values) for name, values in maps.items()}
        copies = {name: values.copy() for name, values in converted.items()}
        np.testing.assert_array_equal(decode_nuclei(**converted).instance_map, expected.instance_map)
        for name, values in converted.items():
            np.testing.assert_array_equal(values, copies[name])


@pytest.mark.parametrize("name", ["nuclei_probability", "hv_maps", "type_probabilities", "boundary_probability"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name, value):
    maps = random_maps(0, (6, 5))
    maps[name][..., 4, 3] = value
    with pytest.raises(ValueError, match=f"{name} holds . values that are not finite"):
        decode_nuclei(**maps)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("nuclei_probability", (1, 6, 5)),
        ("hv_maps", (6, 5)),
        ("hv_maps", (2, 5, 6)),
        ("type_probabilities", (6, 5)),
        ("type_probabilities", (1, 6, 5)),
        ("type_probabilities", (3, 6, 6)),
        ("boundary_probability", (1, 6, 5)),
    ],
)
def test_wrong_shapes_are_refused(name, shape):
    maps = random_maps(0, (6, 5)) | {name: np.zeros(shape, dtype=np.float32)}
    with pytest.raises(ValueError, match=f"{name} has shape"):
        decode_nuclei(**maps)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        decode_nuclei(np.zeros((0, 4)), np.zeros((2, 0, 4)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nuclei_threshold", -0.1),
        ("nuclei_threshold", 1.1),
        ("nuclei_threshold", float("nan")),
        ("marker_threshold", 1.0),
        ("core_threshold", 0.4),
        ("boundary_weight", -1),
        ("jump_weight", float("inf")),
        ("lone_jump_weight", float("nan")),
        ("minimum_area", 2.5),
        ("minimum_score", 1),
        ("minimum_score", float("nan")),
        ("minimum_score", "x"),
        ("nuclei_threshold", None),
        ("score_weights", {"area": 1.0}),
        ("minimum_marker_area", -1),
        ("maximum_hole_area", True),
    ],
)
def test_bad_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        DecodingParameters(**{name: value})


def test_the_ends_of_the_nuclei_threshold_are_all_pixels_and_the_surest():
    nuclei, hv_maps = blank(12, 20)
    nuclei[2:8, 3:9] = 0.9
    nuclei[3:7, 4:8] = 1
    found = {
        threshold: decode_nuclei(
            nuclei, hv_maps, parameters=DecodingParameters(nuclei_threshold=threshold, minimum_area=1)
        ).areas.tolist()
        for threshold in (0, 0.5, 1)
    }
    assert found == {0: [240], 0.5: [36], 1: [16]}


def test_parameters_survive_a_dictionary():
    parameters = DecodingParameters(minimum_area=30, score_weights=ScoreWeights(area=0.5))
    assert json.loads(json.dumps(parameters.to_dict())) == parameters.to_dict()
    assert DecodingParameters.from_dict(parameters.to_dict()) == parameters
    with pytest.raises(ValueError, match="min_area"):
        DecodingParameters.from_dict({"min_area": 3})
    with pytest.raises(ValueError, match="minimum_probability is minimum_score now"):
        DecodingParameters.from_dict({"minimum_probability": 0.7})
    with pytest.raises(ValueError, match=r"score_weights are 0\.5"):
        DecodingParameters.from_dict({"score_weights": 0.5})


@pytest.fixture
def hovernet_recipe(load_example):
    """The usual recipe as `examples/benchmarks/hovernet_recipe.py` writes it out."""
    return load_example("benchmarks/hovernet_recipe")


@pytest.mark.parametrize(
    ("dataset", "tile", "with_boundary", "without"),
    [
        ("consep", "train_13", 0.965, 0.9),
        ("consep", "train_25", 0.92, 0.8),
        ("monuseg", "TCGA-21-5784-01Z-00-DX1", 0.964, 0.958),
    ],
)
def test_perfect_maps_of_real_labels_decode_better_than_by_the_usual_recipe(
    real_data, hovernet_recipe, dataset, tile, with_boundary, without
):
    [record] = select_tiles(list_tiles(dataset, real_data / dataset), [tile])
    labels = record.load().instance_map
    maps = perfect_maps(labels, stride=2)
    usual = hovernet_recipe.hovernet_instances(maps["nuclei_probability"], maps["hv_maps"])
    usual = panoptic_quality(labels, usual).pq
    ours = panoptic_quality(labels, decode_nuclei(**maps).instance_map).pq
    maps["boundary_probability"] = None
    alone = panoptic_quality(labels, decode_nuclei(**maps).instance_map).pq
    assert ours > with_boundary > usual
    assert alone > without > usual
