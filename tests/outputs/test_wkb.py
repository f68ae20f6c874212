"""Why: the polygons of a slide are read by geometry libraries and by this package; both must get the exact rings."""

import numpy as np
import pytest
import shapely

from cfsam_hf.outputs.wkb import decode_polygon, encode_polygon

from ..export_cases import blob_map, make_result


def test_rings_come_back_and_are_those_that_shapely_reads():
    for rings in make_result(blob_map()).contours:
        wkb = encode_polygon(rings)
        polygon = shapely.from_wkb(wkb)
        assert polygon.is_valid
        assert wkb == shapely.to_wkb(polygon, byte_order=1)
        back = decode_polygon(wkb)
        assert len(back) == len(rings)
        for ring, given in zip(back, rings, strict=True):
            np.testing.assert_array_equal(ring, given)


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:4], lambda b: b"\0" + b[1:], lambda b: b""])
def test_other_bytes_are_refused(damage):
    wkb = encode_polygon([np.array([[0, 0], [2, 0], [2, 2]])])
    with pytest.raises(ValueError, match="not a polygon in well-known binary"):
        decode_polygon(damage(wkb))
