"""Reads MATLAB and NumPy files; every error names the file."""

import tokenize
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from .mat_sizes import check_mat_sizes

_MAT_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    zlib.error,
    MatReadError,
    NotImplementedError,
)
"""What scipy raises for files that are truncated, overwritten or of another format."""

_NPY_ERRORS = (ValueError, TypeError, KeyError, EOFError, OSError, OverflowError, SyntaxError, tokenize.TokenError)
"""What numpy raises for headers that it cannot evaluate, and for arrays that are cut short."""


def read_mat(path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Reads the variables `names` of a MATLAB file (up to version 7.2), and those in `optional` that exist.

    Raises:
        OSError: the file is missing, damaged or not a MATLAB file.
        ValueError: a variable is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        check_mat_sizes(path)
        content = loadmat(path, variable_names=[*names, *optional])
    except _MAT_ERRORS as error:
        raise OSError(f"{path}: not a MATLAB file that can be read, or truncated ({error})") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path}: no variable {', '.join(missing)} in this file; is it a label file of the data set?")
    return content


def open_npy(path: Path, shape: tuple[int | None, ...] | None) -> np.ndarray:
    """Opens a `.npy` file without reading it: the array is memory-mapped, and slices are read when they are used.

    Args:
        path: the file.
        shape: the expected shape, with None for a side of any length; None accepts any shape.

    Raises:
        OSError: the file is missing, truncated or not a `.npy` file.
        ValueError: the array has another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        _check_npy_header(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NPY_ERRORS as error:
        raise OSError(f"{path}: not a .npy file that can be read, or truncated ({error})") from error
    if shape is None:
        return array
    if array.ndim != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"{path}: expected an array of {wanted}, found {' x '.join(map(str, array.shape))}")
    return array


def _check_npy_header(path: Path) -> None:
    """Raises ValueError for a file of another kind, and for a header that would be longer than its file.

    numpy allocates as many bytes as the header is said to have, and opens archives and pickles as well.
    """
    with path.open("rb") as file:
        start = file.read(len(MAGIC_PREFIX) + 6)
    version, length = start[len(MAGIC_PREFIX) : len(MAGIC_PREFIX) + 2], start[len(MAGIC_PREFIX) + 2 :]
    if not start.startswith(MAGIC_PREFIX) or len(length) < 4:
        raise ValueError("it does not begin as one")
    if int.from_bytes(length[: 2 if version[0] == 1 else 4], "little") > path.stat().st_size:
        raise ValueError("its header is said to be longer than the file")
