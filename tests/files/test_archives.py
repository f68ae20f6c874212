"""Why: damaged archives raise errors of many kinds, most without the file's name; a user needs one sentence."""

import struct
import zipfile
import zlib

import pytest

from cfsam_hf.files.archives import naming_archive


@pytest.mark.parametrize(
    "error",
    [OSError(22, "Invalid argument"), zlib.error("-3"), struct.error("x"), EOFError(), zipfile.BadZipFile("x")],
)
def test_every_kind_names_the_file(tmp_path, error):
    expected = r"a\.zip: the archive cannot be read, or is truncated \(.+\)"
    with pytest.raises(OSError, match=expected), naming_archive(tmp_path / "a.zip"):
        raise error


def test_a_sentence_that_names_the_file_passes(tmp_path):
    path = tmp_path / "a.zip"
    with pytest.raises(ValueError, match=f"^{path}: holds nothing$"), naming_archive(path):
        raise ValueError(f"{path}: holds nothing")
    with pytest.raises(FileNotFoundError), naming_archive(path):
        path.read_bytes()
