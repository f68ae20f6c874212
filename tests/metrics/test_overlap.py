"""Why: every instance metric reads the overlap table; it must equal counting with masks for any ids and dtypes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsam_hf.metrics import overlap_table

from ..metrics_literal import masks, random_pair, renamed


@pytest.mark.parametrize("seed", range(4))
def test_table_equals_counting_by_masks(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        true, pred = random_pair(rng)
        table = overlap_table(true, pred)
        t_masks, p_masks = masks(true), masks(pred)
        assert table.true_ids.tolist() == list(t_masks)
        assert table.pred_ids.tolist() == list(p_masks)
        assert table.true_areas.tolist() == [mask.sum() for mask in t_masks.values()]
        assert table.pred_areas.tolist() == [mask.sum() for mask in p_masks.values()]
        for mask, centroid in zip(t_masks.values(), table.true_centroids, strict=True):
            rows, columns = np.nonzero(mask)
            np.testing.assert_allclose(centroid, [columns.mean() + 0.5, rows.mean() + 0.5], rtol=1e-12)
        expected = [
            (i, j, (t & p).sum(), (t | p).sum())
            for i, t in enumerate(t_masks.values())
            for j, p in enumerate(p_masks.values())
            if (t & p).any()
        ]
        assert list(zip(table.pair_true, table.pair_pred, table.intersections, table.unions, strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dtypes=st.tuples(*[st.sampled_from(["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])] * 2),
)
def test_integer_type_and_numbering_change_nothing(seed, dtypes):
    rng = np.random.default_rng(seed)
    true, pred = random_pair(rng, nuclei=5)
    expected = overlap_table(true, pred)
    found = overlap_table(renamed(rng, true)[0].astype(dtypes[0]), renamed(rng, pred)[0].astype(dtypes[1]))
    for name in ("true_areas", "pred_areas", "true_centroids", "pair_true", "pair_pred", "intersections"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_huge_ids():
    top = np.iinfo(np.uint64).max
    table = overlap_table(np.array([[top, top, 0, 3]], np.uint64), np.array([[2**62, 0, 0, 5]]))
    assert table.true_ids.tolist() == [top, 3]
    assert table.intersections.tolist() == [1, 1]


def test_select_equals_erasing():
    rng = np.random.default_rng(0)
    for _ in range(50):
        true, pred = random_pair(rng)
        table = overlap_table(true, pred)
        keep_true, keep_pred = rng.random(table.num_true) < 0.5, rng.random(table.num_pred) < 0.5
        found = table.select(keep_true, keep_pred)
        expected = overlap_table(
            np.where(np.isin(true, table.true_ids[keep_true]), true, 0),
            np.where(np.isin(pred, table.pred_ids[keep_pred]), pred, 0),
        )
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_no_pixels_no_nuclei(shape):
    table = overlap_table(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    assert table.num_true == table.num_pred == len(table.ious) == 0
    assert table.true_centroids.shape == (0, 2)


def test_views_and_fortran_order():
    true, pred = random_pair(np.random.default_rng(3))
    expected = overlap_table(true[::2, 1:], pred[::2, 1:])
    found = overlap_table(np.asfortranarray(true)[::2, 1:], np.ascontiguousarray(pred[::2, 1:]))
    np.testing.assert_array_equal(found.intersections, expected.intersections)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64"])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match=f"pred must be an integer label map.*{dtype}"):
        overlap_table(np.zeros((2, 2), int), np.zeros((2, 2), dtype))


def test_wrong_shapes_and_negative_ids_are_refused():
    with pytest.raises(ValueError, match=r"differ in shape: true is \(2, 3\), pred is \(3, 2\)"):
        overlap_table(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"one \(H, W\) label map, got shape \(1, 2, 2\)"):
        overlap_table(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int))
    with pytest.raises(ValueError, match="true holds the negative id -4"):
        overlap_table(np.array([[-4, 0]]), np.array([[0, 0]]))


def test_a_threshold_below_one_half_is_refused():
    table = overlap_table(np.array([[1]]), np.array([[1]]))
    with pytest.raises(ValueError, match=r"iou_threshold must be in \[0.5, 1\)"):
        table.matches(0.4)
