"""Why: decoding in bands must give the nuclei of the whole image bit for bit, while holding few rows of its maps."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cfsam_hf.data import list_tiles, select_tiles
from cfsam_hf.model.decoding import BandDecoder, DecodingParameters, decode_nuclei
from cfsam_hf.model.maps import NucleiMaps
from cfsam_hf.model.result import DecodedNuclei

from ..decoding_cases import packed_disks, perfect_maps, random_maps
from .test_decoding import PARAMETERS, SEEDS

DEFAULT = DecodingParameters()
NAMES = {"nuclei": "nuclei_probability", "hv": "hv_maps", "boundary": "boundary_probability"}


def decode_in_bands(maps: dict, heights, parameters=DEFAULT, **options) -> tuple[DecodedNuclei, int]:
    """The nuclei, and the most rows that were held; `heights` of the bands are repeated until the image is done."""
    height, width = maps["nuclei_probability"].shape
    decoder = BandDecoder(height, width, parameters, **options)
    top, held, turn = 0, 0, 0
    while top < height:
        rows = slice(top, top + heights[turn % len(heights)])
        band = {name: maps[key][..., rows, :] for name, key in NAMES.items() if maps.get(key) is not None}
        types = maps.get("type_probabilities")
        decoder.add(NucleiMaps(**band, types=None if types is None else types[:, rows]))
        held = max(held, decoder.held_rows)
        top, turn = rows.stop, turn + 1
    return decoder.result(), held


def assert_same(first: DecodedNuclei, second: DecodedNuclei) -> None:
    for field in dataclasses.fields(DecodedNuclei):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert (one is None) == (other is None), field.name
        if one is None:
            continue
        assert one.dtype == other.dtype, field.name
        np.testing.assert_array_equal(one, other, err_msg=field.name)


@settings(max_examples=100, deadline=None)
@given(
    SEEDS,
    st.tuples(st.integers(1, 70), st.integers(1, 40)),
    st.sampled_from([0.7, 1.5, 3.0]),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    PARAMETERS,
    st.booleans(),
    st.booleans(),
)
def test_bands_decode_as_the_whole(seed, shape, smoothness, heights, parameters, with_boundary, with_types):
    maps = random_maps(seed, shape, smoothness)
    if not with_boundary:
        maps["boundary_probability"] = None
    if not with_types:
        maps["type_probabilities"] = None
    banded, _ = decode_in_bands(maps, heights, parameters)
    assert_same(banded, decode_nuclei(**maps, parameters=parameters))


def test_a_nucleus_over_many_bands_is_one():
    labels = np.zeros((90, 40), np.int32)
    labels[5:80, 10:30] = 1
    banded, _ = decode_in_bands(perfect_maps(labels), [7])
    np.testing.assert_array_equal(banded.instance_map, labels)
    assert banded.boxes.tolist() == [[10, 5, 30, 80]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_maps_of_any_layout_are_taken(dtype):
    maps = random_maps(3, (150, 60))
    laid_out = {name: np.asfortranarray(values.astype(dtype)) for name, values in maps.items()}
    plain = {name: np.ascontiguousarray(values) for name, values in laid_out.items()}
    assert_same(decode_in_bands(laid_out, [100, 50])[0], decode_in_bands(plain, [100, 50])[0])


def test_only_the_rows_of_open_components_are_held():
    labels = packed_disks(800, 40, 8)  # 40 rows of disks of 16 px, 4 px apart
    banded, held = decode_in_bands(perfect_maps(labels[:, :200]), [20])
    assert len(banded) == 40 * 10
    assert held <= 20 + 20


def one_large_component():
    """Maps (600, 120) of touching disks with a bar along all of them: a single component, as high as the image."""
    labels = packed_disks(600, 30, 10.5)[:, :120]
    maps = perfect_maps(labels)
    maps["nuclei_probability"][:, 58:62] = 1
    return maps


@pytest.mark.parametrize("heights", [[20], [47, 9], [600]])
def test_a_component_higher_than_the_bound_is_divided_without_seams(heights):
    maps = one_large_component()
    whole = decode_nuclei(**maps)
    exact, held = decode_in_bands(maps, heights)
    assert_same(exact, whole)
    assert held == 600 or heights == [600]
    banded, held = decode_in_bands(maps, heights, open_rows=150, settled_rows=60)
    assert held <= 150 + max(heights) + 4
    # What lies 60 rows below has no say here, so even then the nuclei are those of the whole.
    assert_same(banded, whole)


def test_a_nucleus_higher_than_the_bound_is_cut_and_nothing_is_lost():
    nuclei = np.zeros((400, 30), np.float32)
    nuclei[10:390, 5:25] = 1
    maps = {"nuclei_probability": nuclei, "hv_maps": np.zeros((2, 400, 30), np.float32)}
    banded, held = decode_in_bands(maps, [20], open_rows=100, settled_rows=40)
    assert held <= 100 + 20 + 4
    assert 3 <= len(banded) <= 10
    np.testing.assert_array_equal(banded.instance_map > 0, nuclei > 0)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([1.5, 3.0]), st.integers(1, 9), PARAMETERS)
def test_beyond_the_bound_nuclei_are_still_whole_and_disjoint(seed, smoothness, height, parameters):
    maps = random_maps(seed, (60, 30), smoothness)
    banded, held = decode_in_bands(maps, [height], parameters, open_rows=12, settled_rows=5)
    assert held <= 12 + height + 4
    labels = banded.instance_map
    assert labels.max(initial=0) == len(banded)
    np.testing.assert_array_equal(np.bincount(labels.ravel(), minlength=len(banded) + 1)[1:], banded.areas)
    for index in range(len(banded)):
        assert ndimage.label(labels == index + 1)[1] == 1, "not one 4-connected region"
    found = maps["nuclei_probability"][labels > 0]
    assert np.count_nonzero(found >= 0.5) >= 0.8 * len(found) or parameters.maximum_hole_area


def test_real_tiles_decode_in_bands_as_whole(real_data):
    tile = select_tiles(list_tiles("consep", real_data / "consep"), ["train_8"])[0].load()
    maps = perfect_maps(tile.instance_map, tile.type_map, 4, stride=2)
    maps = {name: values.astype(np.float16).astype(np.float32) for name, values in maps.items()}
    whole = decode_nuclei(**maps)
    assert len(whole) > 300
    for heights in ([176], [64, 1, 300], [1000]):
        assert_same(decode_in_bands(maps, heights)[0], whole)
    half = {name: values.astype(np.float16) for name, values in maps.items()}
    assert_same(decode_in_bands(half, [176])[0], whole)


@pytest.mark.parametrize(
    ("band", "message"),
    [
        (np.zeros((4, 9), np.float32), "9 px"),
        (np.zeros((21, 10), np.float32), "rows 0 to 21"),
        (np.zeros((0, 10), np.float32), "rows 0 to 0"),
        (np.full((4, 10), np.nan, np.float32), "not finite"),
    ],
)
def test_bands_that_do_not_fit_are_refused(band, message):
    decoder = BandDecoder(20, 10, DecodingParameters())
    with pytest.raises(ValueError, match=message):
        decoder.add(NucleiMaps(nuclei=band, hv=np.zeros((2, *band.shape), np.float32)))


def test_missing_rows_and_changing_maps_are_noticed():
    rows = np.zeros((5, 10), np.float32)
    hv = np.zeros((2, 5, 10), np.float32)
    decoder = BandDecoder(20, 10, DecodingParameters())
    decoder.add(NucleiMaps(nuclei=rows, hv=hv))
    with pytest.raises(ValueError, match="only 5 of 20 rows"):
        decoder.result()
    with pytest.raises(ValueError, match="boundary"):
        decoder.add(NucleiMaps(nuclei=rows, hv=hv, boundary=rows))
    with pytest.raises(ValueError, match="settled_rows"):
        BandDecoder(20, 10, DecodingParameters(), open_rows=10, settled_rows=10)
    with pytest.raises(ValueError, match="at least one pixel"):
        BandDecoder(0, 10, DecodingParameters())
