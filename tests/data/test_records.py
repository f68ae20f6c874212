"""Why: every reader ends in `make_tile`; training and evaluation rely on what it lets through."""

from pathlib import Path

import numpy as np
import pytest

from cfsam_hf.data.records import UNKNOWN_TYPE, TileRecord, make_tile
from tests.data_cases import nuclei, painted

LABELS = nuclei(ids=(1, 5))
IMAGE = painted(LABELS)


def record(**options) -> TileRecord:
    options = {"type_names": {1: "tumour", 2: "other"}, "mpp": 0.5, "fold": "train", "tissue": "Colon"} | options
    return TileRecord("own", "a", Path("a.png"), Path("a.mat"), decode=lambda _: None, **options)


def test_schema():
    types = np.where(LABELS == 5, 2, 1)
    tile = make_tile(record(), IMAGE[:, ::-1], LABELS.astype(np.float64), types, np.ones(LABELS.shape, dtype=np.uint8))
    assert (tile.id, tile.tissue, tile.mpp, tile.fold) == ("a", "Colon", 0.5, "train")
    assert (tile.instance_map.dtype, tile.type_map.dtype, tile.annotated.dtype) == (np.int32, np.int16, bool)
    assert tile.image.flags.c_contiguous
    np.testing.assert_array_equal(tile.instance_map, LABELS)
    np.testing.assert_array_equal(tile.type_map, np.where(LABELS > 0, types, 0))
    assert make_tile(record(), IMAGE, LABELS, mpp=0.23).mpp == 0.23


def test_unknown_types_are_allowed_and_undeclared_ones_are_not():
    types = np.where(LABELS == 5, UNKNOWN_TYPE, 1)
    assert set(np.unique(make_tile(record(), IMAGE, LABELS, types).type_map)) == {UNKNOWN_TYPE, 0, 1}
    for wrong in (0, 3, -1):
        with pytest.raises(ValueError, match=rf"a\.mat: unknown type ids \[{wrong}\] .*\[1, 2\] \(tumour, other\)"):
            make_tile(record(), IMAGE, LABELS, np.where(LABELS == 5, wrong, 1))


@pytest.mark.parametrize("name", ["instance map", "type map", "annotated area"])
def test_sizes_that_differ(name):
    arrays = [LABELS, np.ones_like(LABELS), np.ones_like(LABELS, dtype=bool)]
    position = ("instance map", "type map", "annotated area").index(name)
    for wrong in (arrays[position].T, arrays[position][..., None]):
        arrays[position] = wrong
        with pytest.raises(ValueError, match=rf"a\.mat: the {name} is .* but the image a\.png is 40 x 50"):
            make_tile(record(), IMAGE, *arrays)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_ids_are_whole_numbers(value):
    wrong = LABELS.astype(np.float64)
    wrong[0, 0] = value
    with pytest.raises(ValueError, match=r"a\.mat: the instance map .* whole numbers"):
        make_tile(record(), IMAGE, wrong)
    with pytest.raises(ValueError, match="whole numbers"):
        make_tile(record(), IMAGE, LABELS.astype(complex))


@pytest.mark.parametrize("value", [-1, 2**31, 2**40])
def test_ids_fit_the_schema(value):
    wrong = LABELS.astype(np.int64)
    wrong[0, 0] = value
    with pytest.raises(ValueError, match=rf"a\.mat: instance ids .* {value}"):
        make_tile(record(), IMAGE, wrong)


def test_empty_tiles():
    with pytest.raises(ValueError, match=r"a\.mat: no nuclei .*allow_empty=True"):
        make_tile(record(), IMAGE, np.zeros_like(LABELS))
    tile = make_tile(record(allow_empty=True), IMAGE, np.zeros_like(LABELS), np.ones_like(LABELS))
    assert not tile.instance_map.any()
    assert not tile.type_map.any()


@pytest.mark.parametrize("mpp", [250, 0.00025, 0, -1, float("nan"), "0.25", True])
def test_pixel_sizes_that_no_microscope_has(mpp):
    """A wrong unit would resample every tile to a few pixels."""
    with pytest.raises(ValueError, match=r"a\.mat: tile a: mpp must be .* got "):
        record(mpp=mpp)
    with pytest.raises(ValueError, match=r"a\.mat: tile a: mpp must be .* got "):
        make_tile(record(), IMAGE, LABELS, mpp=mpp)
