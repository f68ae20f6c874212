"""Why: counts and pictures of a data set depend on these measurements, which must follow its maps exactly."""

import numpy as np
import pytest

from cfsam_hf.data.records import UNKNOWN_TYPE, Tile
from cfsam_hf.data.true_nuclei import (
    UNKNOWN_TYPE_COLOR,
    UNKNOWN_TYPE_NAME,
    all_nuclei,
    annotated_nuclei,
    true_styles,
)
from cfsam_hf.model.configuration_cfsam import default_type_color, rgb
from cfsam_hf.model.result import UNTYPED_NAME

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
    assert all_nuclei(made).ids.tolist() == [4, 9, 30]


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
    assert len(annotated_nuclei(made)) == len(all_nuclei(made)) == 0
    assert UNKNOWN_TYPE_NAME not in [style.name for style in true_styles(made, all_nuclei(made))]


def test_a_nucleus_in_several_pieces_is_one():
    label_map = np.zeros((8, 8), dtype=np.int32)
    label_map[1:3, 1:3] = label_map[3:5, 3:5] = 7
    label_map[6, 6] = 2
    found = annotated_nuclei(tile(label_map, {7: 2, 2: 1}))
    assert (found.ids.tolist(), found.types.tolist(), found.areas.tolist()) == ([2, 7], [1, 2], [1, 8])


def test_styles_name_the_types_and_what_has_none():
    label_map = nuclei(ids=(4, 9))
    default = [(1, "tumour", rgb(default_type_color(1))), (2, "stroma", rgb(default_type_color(2)))]
    for types, expected in (
        ({4: 1, 9: 2}, default),
        ({4: 1, 9: UNKNOWN_TYPE}, [(0, UNKNOWN_TYPE_NAME, UNKNOWN_TYPE_COLOR), *default]),
        (None, [(0, UNTYPED_NAME, rgb(default_type_color(1)))]),
    ):
        made = tile(label_map, types)
        styles = true_styles(made, all_nuclei(made))
        assert [(style.type_id, style.name, style.color) for style in styles] == expected


def test_real_tiles(real_data):
    from cfsam_hf.data import list_tiles

    made = list_tiles("consep", real_data / "consep")[0].load()
    found = annotated_nuclei(made)
    assert found.areas.sum() == (made.instance_map > 0).sum()
    for position in range(0, len(found), 50):
        inside = made.instance_map == found.ids[position]
        assert found.types[position] == np.bincount(made.type_map[inside]).argmax()
