"""Why: the heads learn these targets, so they must equal a slow literal definition, even for torn nuclei."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from cfsam_hf.data.crops.targets import (
    DOUBTFUL,
    DOUBTFUL_DISTANCE,
    IGNORE,
    boundary_labels,
    doubtful_labels,
    hv_labels,
    make_targets,
    nuclei_labels,
    split_torn_nuclei,
    type_labels,
)


def random_label_map(rng: np.random.Generator, height: int = 48, width: int = 40, nuclei: int = 12) -> np.ndarray:
    """Overlapping ellipses, so that nuclei touch, hide each other in part and reach over the border."""
    label_map = np.zeros((height, width), dtype=np.int32)
    rows, columns = np.mgrid[:height, :width]
    for label in range(1, nuclei + 1):
        y, x = rng.uniform(-3, height + 3), rng.uniform(-3, width + 3)
        a, b = rng.uniform(1, 8, size=2)
        label_map[((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1] = 3 * label
    return label_map


def literal_hv(label_map: np.ndarray) -> np.ndarray:
    hv = np.zeros((2, *label_map.shape))
    for label in np.unique(label_map[label_map > 0]):
        rows, columns = np.nonzero(label_map == label)
        centre_y, centre_x = int(np.floor(rows.mean() + 0.5)), int(np.floor(columns.mean() + 0.5))
        for row, column in zip(rows, columns, strict=True):
            for axis, (position, centre, all_positions) in enumerate(
                ((column, centre_x, columns), (row, centre_y, rows))
            ):
                offset = position - centre
                if offset < 0:
                    hv[axis, row, column] = offset / (centre - all_positions.min())
                elif offset > 0:
                    hv[axis, row, column] = offset / (all_positions.max() - centre)
    return hv


def literal_boundary(label_map: np.ndarray) -> np.ndarray:
    height, width = label_map.shape
    boundary = np.zeros((height, width), dtype=np.int64)
    for row in range(height):
        for column in range(width):
            for other_row, other_column in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if 0 <= other_row < height and 0 <= other_column < width:
                    boundary[row, column] |= label_map[row, column] != label_map[other_row, other_column]
    return boundary


@pytest.mark.parametrize("seed", range(20))
def test_distances_and_boundaries_equal_the_literal_definition(seed):
    label_map = split_torn_nuclei(random_label_map(np.random.default_rng(seed)))
    np.testing.assert_allclose(hv_labels(label_map), literal_hv(label_map), atol=1e-6)
    np.testing.assert_array_equal(boundary_labels(label_map), literal_boundary(label_map))


def test_distances_reach_one_on_each_side():
    label_map = np.zeros((7, 9), dtype=np.int32)
    label_map[2:5, 1:8] = 5
    horizontal, vertical = hv_labels(label_map)
    np.testing.assert_allclose(horizontal[3, 1:8], [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(vertical[2:5, 4], [-1, 0, 1])
    assert horizontal.dtype == np.float32


def test_wild_ids_give_the_same_distances():
    label_map = random_label_map(np.random.default_rng(0))
    np.testing.assert_array_equal(hv_labels(label_map * 10_000_019), hv_labels(label_map))


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (0, 4)])
def test_no_nuclei(shape):
    targets = make_targets(np.zeros(shape, dtype=np.int32))
    assert targets["hv_labels"].shape == (2, *shape)
    assert not targets["hv_labels"].any()
    assert not targets["nuclei_labels"].any()
    assert not targets["boundary_labels"].any()
    assert (targets["type_labels"] == -100).all()


def test_one_pixel():
    label_map = np.zeros((3, 3), dtype=np.int32)
    label_map[1, 1] = 1
    targets = make_targets(label_map)
    assert not targets["hv_labels"].any()
    np.testing.assert_array_equal(targets["boundary_labels"], [[0, 1, 0], [1, 1, 1], [0, 1, 0]])


def test_torn_nucleus_gets_a_centre_for_each_piece():
    label_map = np.zeros((5, 11), dtype=np.int32)
    label_map[1:4, 0:3] = label_map[1:4, 8:11] = 7
    horizontal = make_targets(label_map)["hv_labels"][0]
    np.testing.assert_array_equal(horizontal[2, [0, 1, 2, 8, 9, 10]], [-1, 0, 1, -1, 0, 1])


def test_touching_nuclei_are_not_merged_by_splitting():
    label_map = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    np.testing.assert_array_equal(split_torn_nuclei(label_map), label_map)


@pytest.mark.parametrize("seed", range(5))
def test_splitting_is_the_partition_into_pieces(seed):
    label_map = random_label_map(np.random.default_rng(seed), nuclei=25)
    pieces = split_torn_nuclei(label_map)
    expected = sum(
        ndimage.label(label_map == label, np.ones((3, 3)))[1] for label in np.unique(label_map[label_map > 0])
    )
    assert pieces.max() == expected
    np.testing.assert_array_equal(pieces > 0, label_map > 0)
    for piece in range(1, expected + 1):
        assert len(np.unique(label_map[pieces == piece])) == 1


def test_not_annotated_pixels_are_ignored_everywhere():
    label_map = random_label_map(np.random.default_rng(1))
    annotated = np.ones(label_map.shape, dtype=bool)
    annotated[:, 20:] = False
    targets = make_targets(label_map, (label_map > 0).astype(np.int16), annotated)
    for name in ("nuclei_labels", "type_labels", "boundary_labels"):
        assert (targets[name][:, 20:] == -100).all()
        assert (targets[name][:, :20] >= 0).all()


def test_types():
    type_map = np.array([[0, 2], [-100, 1]], dtype=np.int16)
    np.testing.assert_array_equal(type_labels(type_map, (2, 2)), type_map)
    assert type_labels(type_map, (2, 2)).dtype == np.int64
    assert (type_labels(None, (2, 3)) == -100).all()
    np.testing.assert_array_equal(nuclei_labels(np.array([[0, 4]])), [[0, 1]])


def test_the_work_does_not_loop_over_nuclei():
    def calls(nuclei: int) -> int:
        label_map = random_label_map(np.random.default_rng(2), 256, 256, nuclei=nuclei)
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(profile)
        try:
            make_targets(label_map, label_map)
        finally:
            sys.setprofile(None)
        return count

    calls(1)  # what is done once, such as imports, is out of the way
    assert calls(150) == calls(10)


def test_doubtful_background_lies_far_from_nuclei():
    labels = np.zeros((40, 60), dtype=np.int64)
    labels[10:20, 10:20] = 1
    labels[:, 50:] = IGNORE
    doubtful = doubtful_labels(labels)
    distance = ndimage.distance_transform_edt(labels != 1)
    assert ((doubtful == DOUBTFUL) == ((labels == 0) & (distance > DOUBTFUL_DISTANCE))).all()
    assert (doubtful[labels != 0] == labels[labels != 0]).all()
    # Without a nucleus all background is in doubt.
    assert (doubtful_labels(np.zeros((5, 5), dtype=np.int64)) == DOUBTFUL).all()
