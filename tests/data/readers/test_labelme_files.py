"""LabelMe's newer shapes: masks of its AI tools must land on their pixels, and what is not read must be named."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pytest

from cfsam_hf.data.readers.qupath import list_qupath
from tests.data_cases import nuclei, painted, save_image
from tests.picture_cases import huge_png


def mask_shape(mask: np.ndarray, x: int, y: int, label: str = "a") -> dict:
    """A shape as LabelMe 5.3 and later saves it: the corners are the first and the last pixel of the box."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(mask).save(buffer, format="PNG")
    height, width = mask.shape
    points = [[x, y], [x + width - 1, y + height - 1]]
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"label": label, "points": points, "shape_type": "mask", "mask": text, "group_id": None}


def load(folder, *shapes):
    save_image(folder / "a.png", painted(nuclei()))
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 40, "imageWidth": 50}))
    return list_qupath(folder)[0].load()


def test_masks_land_on_their_pixels(tmp_path):
    ring = np.ones((6, 8), dtype=bool)
    ring[2:4, 3:5] = False
    torn = np.zeros((5, 9), dtype=bool)
    torn[:, :2] = torn[:, 7:] = True
    tile = load(tmp_path, mask_shape(ring, 3, 4), mask_shape(torn, 20, 20, "b"))
    expected = np.zeros((40, 50), dtype=np.int32)
    expected[4:10, 3:11] = ring
    expected[20:25, 20:29] += 2 * torn
    np.testing.assert_array_equal(tile.instance_map, expected)
    assert tile.type_names == {1: "a", 2: "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "a mask is a picture in base64"),
        ({"mask": "not base64!"}, "shape 0 cannot be used"),
        ({"mask": base64.b64encode(b"no picture").decode()}, "its mask cannot be read"),
        ({"points": [[0, 0], [4000, 4000]]}, "its mask is 8 x 6, its box 4001 x 4001"),
        ({"points": [[0, 0]]}, "the two corners of its box"),
        ({"shape_type": "ellipse"}, "its shape_type is 'ellipse'; polygons, rectangles, circles and masks are read"),
    ],
)
def test_shapes_of_no_use_are_named(tmp_path, change, message):
    shape = mask_shape(np.ones((6, 8), dtype=bool), 3, 4) | change
    with pytest.raises(ValueError, match=rf"a\.json: shape 0 cannot be used .*{message}|{message}"):
        load(tmp_path, shape)


def test_a_mask_that_claims_too_much_is_not_decoded(tmp_path):
    huge_png(tmp_path / "huge")
    shape = mask_shape(np.ones((2, 3), dtype=bool), 3, 4)
    shape["mask"] = base64.b64encode((tmp_path / "huge").read_bytes()).decode()
    shape["points"] = [[0, 0], [99_999, 99_999]]
    with pytest.raises(ValueError, match=r"a\.json: shape 0 .*its mask is 100000 x 100000, too large for a nucleus"):
        load(tmp_path, shape)


def test_a_circle_is_a_centre_and_a_point(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: shape 0 .*a circle has a centre and a point on it, found 1"):
        load(tmp_path, {"label": "a", "shape_type": "circle", "points": [[2, 2]]})
