"""The arguments of a pipeline: one picture, a list-like of pictures or a stream of them, and their pixel sizes."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from enum import Enum
from numbers import Number
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .pictures import is_single_image


class Form(Enum):
    """How pictures are given, which decides how their results are."""

    ONE = "one picture"
    LIST = "a list-like of pictures, whose results are a list"
    STREAM = "an iterator or a torch data set, whose results are an iterator"


def split_inputs(inputs: Any) -> tuple[Form, Iterable]:
    """
    The pictures among the inputs of a call.

    Args:
        inputs: a picture as `read_rgb` takes it; a list-like of them (list, tuple, pandas Series, column of a data
            set, array or tensor of shape (B, H, W, C) or (B, C, H, W)); an iterator; or a torch data set whose items
            are pictures, such as transformers' `KeyDataset`.

    Returns:
        The form, and an iterable of pictures. It has a length where that is known.

    Raises:
        TypeError: the inputs are none of these.
    """
    if is_single_image(inputs) and not _is_stack(inputs):
        return Form.ONE, [inputs]
    if isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
        raise TypeError(f"cannot choose the images of a {type(inputs).__name__}: pass the column that holds them")
    if isinstance(inputs, Dataset):
        return Form.STREAM, inputs if isinstance(inputs, Iterable) else _Items(inputs)
    if isinstance(inputs, Iterable):
        return Form.LIST if isinstance(inputs, Sized) else Form.STREAM, inputs
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return Form.LIST, _Items(inputs)
    raise TypeError(f"cannot read an image from {type(inputs).__name__}: pass a picture or a list of pictures")


def pixel_sizes(mpp: Any, images: Iterable) -> Iterator[float | None]:
    """
    Micrometres per pixel of each image, None where unknown: without end for one value, else as many as are given.

    Args:
        mpp: a number or None for all images, or a list-like with a value for each.
        images: the images; if their number is known it must be that of the values.

    Raises:
        ValueError: the numbers differ.
    """
    if mpp is None or isinstance(mpp, Number | str | Mapping) or getattr(mpp, "ndim", None) == 0:
        return _repeated(_as_number(mpp))
    values = mpp if isinstance(mpp, Iterable) else _Items(mpp)
    if isinstance(values, Sized) and isinstance(images, Sized) and len(values) != len(images):
        raise ValueError(f"mpp has {len(values)} values for {len(images)} images")
    return map(_as_number, values)


class _Items:
    """The items of something that has a length and takes an index but cannot be iterated."""

    def __init__(self, items: Any):
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator:
        return (self._items[index] for index in range(len(self._items)))


def _is_stack(inputs: Any) -> bool:
    """Whether an array or tensor holds several pictures, or the names of several."""
    dimensions = getattr(inputs, "ndim", None)
    if isinstance(inputs, memoryview):
        return False
    return dimensions == 4 or (dimensions == 1 and isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OU")


def _repeated(value: float | None) -> Iterator[float | None]:
    while True:
        yield value


def _as_number(value: Any) -> Any:
    """A number out of a scalar of numpy, pandas or torch; anything else unchanged, to be refused by its value."""
    return value.item() if hasattr(value, "item") else value
