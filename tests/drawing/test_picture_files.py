"""Why: a picture that the package draws must never be segmented as an image of tissue, whatever it is called."""

import numpy as np
import PIL.Image
import pytest

from cfsam_hf.drawing.picture_files import write_picture
from cfsam_hf.drawing.small_png import encode_small
from cfsam_hf.files.own_results import is_own_result

PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG"])
def test_pictures_are_recognised(ending, tmp_path):
    path = tmp_path / f"sheet{ending}"
    write_picture(PICTURE, path)
    assert is_own_result(path.rename(tmp_path / f"tile{ending}"))
    assert PIL.Image.open(tmp_path / f"tile{ending}").size == (300, 200)


def test_small_pictures_are_recognised(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_small(PICTURE, ()))
    assert is_own_result(tmp_path / "a.png")


def test_texts_are_kept(tmp_path):
    write_picture(PICTURE, tmp_path / "a.png", texts={"Software": "cfsam_hf 9", "more": "é"})
    assert PIL.Image.open(tmp_path / "a.png").text == {"Software": "cfsam_hf 9", "more": "é"}


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: the name of a picture must end in \.png"):
        write_picture(PICTURE, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
