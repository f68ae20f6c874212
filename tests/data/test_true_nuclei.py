"""Counts and pictures of a data set come from here: the annotation must be measured as it stands in the maps."""

import numpy as np
import pytest

from cfsam_hf.data.records import UNKNOWN_TYPE, Tile
from cfsam_hf.data.true_nuclei import UNKNOWN_TYPE_NAME, annotated_nuclei, true_nuclei
from tests.export_cases import label_components

from ..data_cases import nuclei, painted


def tile(label_map: np.ndarray, types: dict[int, int] | None = None, **fields) -> Tile:
    type_map = None
    if types is not None:
        type_map = np.zeros(label_map.shape, dtype=np.int16)
        for label, type_id in types.items():
            type_map[label_map == label] = type_id
    names = {} if types is None else {1: "tumour", 2: "stroma"}
    return Tile(painted(label_map), label_map, type_map, "t", type_names=names, **fields)


def test_ids_types_and_areas():
    found = annotated_nuclei(tile(nuclei(ids=(4, 9, 30)), {4: 2, 9: UNKNOWN_TYPE, 30: 1}))
    assert (found.ids.tolist(), found.types.tolist(), found.areas.tolist()) == ([4, 9, 30], [2, 0, 1], [20, 20, 20])
    assert annotated_nuclei(tile(nuclei(ids=(4, 9)))).types.tolist() == [0, 0]


def test_nuclei_where_nobody_annotated_do_not_count():
    label_map = nuclei(ids=(4, 9, 30))  # in columns 2 to 5, 10 to 13 and 18 to 21
    annotated = np.arange(50)[None, :].repeat(40, axis=0) < 12
    made = tile(label_map, {4: 1, 9: 2, 30: 2}, annotated=annotated)
    found = annotated_nuclei(made)
    assert (found.ids.tolist(), found.types.tolist(), found.areas.tolist()) == ([4, 9], [1, 2], [20, 20])
    assert len(true_nuclei(made)) == 3


def test_the_type_of_most_pixels():
    label_map = nuclei(ids=(3,))
    made = tile(label_map, {3: 1})
    made.type_map[2:4, 2:6] = 2
    assert annotated_nuclei(made).types.tolist() == [1]
    made.type_map[2:5, 2:6] = 2
    assert annotated_nuclei(made).types.tolist() == [2]


@pytest.mark.parametrize("types", [None, {}])
def test_no_nuclei(types):
    made = tile(np.zeros((7, 9), dtype=np.int32), types)
    assert len(annotated_nuclei(made)) == 0
    result = true_nuclei(made)
    assert (len(result), result.image_size, result.contours) == (0, (9, 7), [])


def test_the_result_has_the_rows_of_a_found_one():
    label_map = nuclei(ids=(30, 4))
    result = true_nuclei(tile(label_map, {30: 1, 4: UNKNOWN_TYPE}, mpp=0.5))
    assert result.table[["x", "y"]].to_numpy().tolist() == [[4.0, 4.5], [12.0, 4.5]]
    assert result.table["area_um2"].tolist() == [5.0, 5.0]
    boxes = result.table[["bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"]].to_numpy()
    assert boxes.tolist() == [[2, 2, 6, 7], [10, 2, 14, 7]]
    assert result.table["type_name"].tolist() == ["tumour", UNKNOWN_TYPE_NAME]
    assert result.contours[0][0].tolist() == [[2, 2], [6, 2], [6, 7], [2, 7]]


def test_a_torn_nucleus_has_a_row_for_each_piece():
    label_map = np.zeros((8, 8), dtype=np.int32)
    label_map[1:3, 1:3] = label_map[3:5, 3:5] = 7  # they touch at a corner
    label_map[6, 6] = 2
    made = tile(label_map, {7: 2, 2: 1})
    assert len(annotated_nuclei(made)) == 2
    result = true_nuclei(made)
    assert result.table["area_px"].tolist() == [4, 4, 1]
    assert result.table["type"].tolist() == [2, 2, 1]
    np.testing.assert_array_equal(result.instance_map, label_components(label_map > 0))


def test_real_tiles(real_data):
    from cfsam_hf.data import list_tiles

    made = list_tiles("consep", real_data / "consep")[0].load()
    found = annotated_nuclei(made)
    assert found.areas.sum() == (made.instance_map > 0).sum()
    for position in range(0, len(found), 50):
        inside = made.instance_map == found.ids[position]
        assert found.types[position] == np.bincount(made.type_map[inside]).argmax()
