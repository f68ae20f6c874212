"""Why: a source must say whether its image has changed, and travel to other processes."""

import os
import pickle

import numpy as np
import PIL.Image
import pytest
import tifffile

from cfsam_hf.inference import ArraySource, ImageSource
from cfsam_hf.model.pictures import TooManyPixelsError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return ImageSource(tmp_path / "a.png", "case 7/a.png")


def test_a_file_is_read_and_travels(source):
    np.testing.assert_array_equal(source.read(), PIXELS)
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.pixel_size() is None


def test_reader_options_reach_the_reader(source, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([255 - PIXELS, PIXELS]), photometric="rgb")
    np.testing.assert_array_equal(ImageSource(tmp_path / "a.tif", "a.tif", page=2).read(), PIXELS)
    with pytest.raises(TooManyPixelsError, match="600 pixels"):
        ImageSource(source.path, "a", max_pixels=599).read()


def test_a_changed_file_is_noticed(source):
    before = source.fingerprint()
    assert source.matches(before)
    os.utime(source.path, ns=(0, 0))
    assert source.matches(before), "another time and the same content"
    content = source.path.read_bytes()
    source.path.write_bytes(content[:-1] + b"\0")
    assert not source.matches(before), "the same size and another content"
    source.path.write_bytes(content + b"\0")
    assert not source.matches(before)
    source.path.unlink()
    assert not source.matches(before)
    assert source.fingerprint() == {}


@pytest.mark.parametrize("fingerprint", [{}, {"size": 3}, {"size": None, "mtime_ns": 0}])
def test_a_damaged_fingerprint_matches_nothing(source, fingerprint):
    assert not source.matches(fingerprint)


def test_an_array_is_known_by_its_content():
    source = ArraySource(PIXELS, "a")
    assert source.read() is PIXELS
    assert ArraySource(PIXELS.copy(order="F"), "a").matches(source.fingerprint())
    assert not ArraySource(255 - PIXELS, "a").matches(source.fingerprint())
    assert not ArraySource(PIXELS.reshape(30, 20, 3), "a").matches(source.fingerprint())
