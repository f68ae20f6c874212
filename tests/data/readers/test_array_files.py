"""Why: numpy believes what a file says about itself; a damaged or foreign file must be named and take no memory."""

import tracemalloc

import numpy as np
import pytest

from cfsam_hf.data.readers.array_files import open_npy


def test_an_array_is_not_read_before_it_is_used(tmp_path):
    for array in (
        np.arange(12).reshape(3, 4),
        np.zeros((3, 4), dtype=[("ä", "f4")]),
    ):  # versions 1 and 3 of the header
        np.save(tmp_path / "a.npy", array)
        opened = open_npy(tmp_path / "a.npy", (None, 4))
        assert isinstance(opened, np.memmap)
        np.testing.assert_array_equal(opened, array)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_longer_than_its_file_takes_no_memory(tmp_path, version):
    start = b"\x93NUMPY" + bytes([version, 0]) + b"\xff\xff\xff\x1f"
    (tmp_path / "a.npy").write_bytes(start + b"{'descr': '<u2', 'fortran_order': False, 'shape': (4, 5)}")
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match=r"a\.npy: not a \.npy file .*longer than the file"):
            open_npy(tmp_path / "a.npy", None)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\1", b"PK\3\4" + bytes(40), b"\x80\4]q\0." + bytes(9), b"text " * 9]
)
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(OSError, match=r"a\.npy: not a \.npy file that can be read, or truncated \(it does not begin"):
        open_npy(tmp_path / "a.npy", None)


def test_an_archive_of_arrays_is_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.npy: not a \.npy file"):
        open_npy(tmp_path / "a.npy", None)
