"""Why: every output is made from the result; columns, dtypes, units and contours must be right for any image."""

import numpy as np
import pandas as pd
import pytest

from cfsam_hf.model.result import TABLE_COLUMNS, DecodedNuclei, NucleiResult, complete_colors

INSTANCE_MAP = np.array([[1, 1, 0, 0], [1, 0, 0, 2], [0, 0, 2, 2]], np.int32)
DECODED = DecodedNuclei(
    instance_map=INSTANCE_MAP,
    type_ids=np.array([2, 1]),
    type_probabilities=np.array([0.75, 1.0]),
    scores=np.array([0.5, 0.9]),
    boxes=np.array([[0, 0, 2, 2], [2, 1, 4, 3]]),
    centroids=np.array([[0.8333, 0.8333], [3.1667, 2.1667]]),
    areas=np.array([3, 3]),
)
EMPTY = DecodedNuclei(
    np.zeros((2, 5), np.int32), np.zeros(0, np.int64), *(np.zeros(0),) * 2, np.zeros((0, 4)), np.zeros((0, 2)), []
)


def test_table_has_the_documented_columns_in_order():
    result = NucleiResult.from_decoded(DECODED, mpp=0.5, type_names={1: "a", 2: "b"})
    assert list(result.table.columns) == [
        "id",
        "type",
        "type_name",
        "type_probability",
        "score",
        "x",
        "y",
        "bbox_x0",
        "bbox_y0",
        "bbox_x1",
        "bbox_y1",
        "area_px",
        "area_um2",
    ]
    first = result.table.iloc[0].to_dict()
    assert first == {
        "id": 1,
        "type": 2,
        "type_name": "b",
        "type_probability": 0.75,
        "score": 0.5,
        "x": 0.8333,
        "y": 0.8333,
        "bbox_x0": 0,
        "bbox_y0": 0,
        "bbox_x1": 2,
        "bbox_y1": 2,
        "area_px": 3,
        "area_um2": 0.75,
    }
    assert len(result) == 2
    assert result.image_size == (4, 3)


def test_dtypes_hold_with_and_without_nuclei():
    for decoded in (DECODED, EMPTY):
        table = NucleiResult.from_decoded(decoded).table
        for name, dtype in TABLE_COLUMNS.items():
            assert table[name].dtype == pd.Series([], dtype=dtype).dtype
        assert pd.concat([table, NucleiResult.from_decoded(DECODED).table]).dtypes.equals(table.dtypes)


def test_unknown_mpp_leaves_areas_open():
    assert NucleiResult.from_decoded(DECODED).table["area_um2"].isna().all()


def test_without_types_all_are_nuclei():
    untyped = DecodedNuclei(**{**vars(DECODED), "type_ids": np.zeros(2, np.int64)})
    result = NucleiResult.from_decoded(untyped, type_colors={0: (1, 2, 3)})
    assert result.table["type_name"].tolist() == ["nucleus"] * 2
    assert result.type_names == {}
    assert result.type_colors == {0: (1, 2, 3)}
    assert "nucleus 2" in repr(result)


def test_missing_names_and_colours_are_filled_in():
    result = NucleiResult.from_decoded(DECODED, type_names={1: "a"}, type_colors={2: (9, 9, 9)})
    assert result.type_names == {1: "a", 2: "type 2"}
    assert result.type_colors[2] == (9, 9, 9)
    assert len(set(complete_colors({i: str(i) for i in range(1, 8)}).values())) == 7
    assert set(complete_colors({i: str(i) for i in range(1, 30)})) == set(range(1, 30))


def test_contours_are_made_once_and_enclose_the_pixels():
    result = NucleiResult.from_decoded(DECODED)
    assert result.contours is result.contours
    for rings, area in zip(result.contours, result.table["area_px"], strict=True):
        doubled = sum(
            int((ring[:, 0] * np.roll(ring[:, 1], -1) - np.roll(ring[:, 0], -1) * ring[:, 1]).sum()) for ring in rings
        )
        assert abs(doubled) == 2 * area
    assert NucleiResult.from_decoded(EMPTY).contours == []


@pytest.mark.parametrize("mpp", [None, 0.25])
def test_repr_tells_counts_and_scale(mpp):
    text = repr(NucleiResult.from_decoded(DECODED, mpp=mpp, type_names={1: "a", 2: "b", 3: "c"}))
    assert text == f"NucleiResult(2 nuclei: a 1, b 1, c 0; 4x3 px, mpp {'unknown' if mpp is None else '0.25'})"
