"""Why: a MATLAB file of a few bytes can claim gigabytes, which must be refused before they are allocated."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from cfsam_hf.data.readers.array_files import read_mat
from cfsam_hf.data.readers.mat_sizes import check_mat_sizes


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("value", [np.zeros((900, 900)), np.ones((2, 3), np.uint8), np.ones(1), "text", {"a": [1, 2]}])
def test_sound_files_pass(tmp_path, compressed, value):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"first": value, "inst_map": np.eye(3)}, do_compression=compressed)
    check_mat_sizes(path)
    np.testing.assert_array_equal(read_mat(path, ("inst_map",))["inst_map"], np.eye(3))


@pytest.mark.parametrize("place", [132, 136 + 48 + 4])
def test_claims_beyond_the_file_are_refused_without_memory(tmp_path, place):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"inst_map": np.ones((20, 20))})
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack("<I", 2**31 - 8)
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(OSError, match=r"a\.mat: not a MATLAB file .*2,147,483,640 bytes"):
        read_mat(path, ("inst_map",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("place", [4, 8, 16])
def test_claims_of_version_4_are_refused(tmp_path, place):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"inst_map": np.eye(3)}, format="4")
    np.testing.assert_array_equal(read_mat(path, ("inst_map",))["inst_map"], np.eye(3))
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack("<i", 2**30)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.mat: not a MATLAB file .*a variable of"):
        read_mat(path, ("inst_map",))
    path.write_bytes(b"MA\0LAB 5" + bytes(200))
    with pytest.raises(OSError, match=r"a\.mat: not a MATLAB file"):
        read_mat(path, ("inst_map",))


def test_claims_within_compressed_arrays_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"inst_map": np.ones((20, 20))})
    content = path.read_bytes()
    array = bytearray(content[128:])
    array[4:8] = struct.pack("<I", 2**31 - 8)
    packed = zlib.compress(bytes(array))
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(OSError, match=r"a\.mat: .*an array of 2,147,483,640 bytes where there are at most"):
        read_mat(path, ("inst_map",))
