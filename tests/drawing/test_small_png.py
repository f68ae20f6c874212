"""Why: pictures in a repository must stay small without changing the colours that carry meaning."""

import io

import numpy as np
from PIL import Image

from cfsam_hf.drawing.small_png import encode_small

KEPT = [(255, 225, 0), (0, 0, 0)]


def test_a_picture_is_encoded_under_its_limit_with_its_colours_as_far_as_they_go():
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    noise[:, :20] = KEPT[0]
    large, small = (encode_small(Image.fromarray(noise), KEPT, largest) for largest in (10**6, 4_000))
    assert len(small) < 4_000 < len(large)
    for encoded, colors in ((large, 256), (small, 32)):
        read = Image.open(io.BytesIO(encoded)).convert("RGB")
        assert 4 < len(read.getcolors()) <= colors
        assert (np.array(read)[:, :20] == KEPT[0]).all()
