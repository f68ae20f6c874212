"""What callers pass as pictures: one of them or many, encoded or decoded, and their pixel sizes.

Files, open files, http(s) addresses, data URLs, base64 text and bytes each become an `EncodedPicture`, a name for
messages and a way to open it, so that one decoder with one set of rules reads them all.
"""

import base64
import binascii
import io
import os
import re
import stat
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset

# No download and no decoded text may be longer: 1 GiB holds any picture within the default limit of pixels.
MAX_BYTES = 2**30
# Seconds without a byte after which a download fails.
DEFAULT_TIMEOUT = 30.0

# Shorter text is read as the name of a file: no picture is so small.
_SHORTEST_BASE64 = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_CHUNK = 2**20


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as a file holds it.

    Attributes:
        name: what messages call it.
        path: the file; None where `content` is given.
        content: the bytes of the file.
        file_name: name of the file without its folders, where there is one.
    """

    name: str
    path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    file_name: str | None = None

    def open(self) -> BinaryIO:
        """Opens it for reading.

        Raises:
            OSError: the file is missing, not accessible, not a regular file, or empty.
        """
        if self.path is None:
            if not self.content:
                raise OSError(f"cannot read {self.name}: it is empty")
            return io.BytesIO(self.content)
        mode = os.stat(self.path).st_mode  # FileNotFoundError and PermissionError name the path themselves
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{str(self.path)!r} is a folder, not an image file")
        if not stat.S_ISREG(mode):
            raise OSError(f"{str(self.path)!r} is not a regular file")
        if os.path.getsize(self.path) == 0:
            raise OSError(f"cannot read {str(self.path)!r}: the file is empty, get it again")
        return open(self.path, "rb")


def encoded_picture(image: Any, timeout: float | None = None, max_bytes: int = MAX_BYTES) -> EncodedPicture | None:
    """
    The encoded picture that `image` names or holds; addresses are downloaded.

    Args:
        image: a path (`str` or `Path`), an http(s) address, a data URL, base64 text, bytes, a file opened in binary
            mode, what `datasets` gives for an image that it does not decode (`{"bytes": ..., "path": ...}`), or an
            `EncodedPicture`.
        timeout (`float`, *optional*): seconds without a byte after which a download fails; default 30.
        max_bytes (`int`): longer downloads are refused before or while they arrive.

    Returns:
        The picture; None for anything else, such as a PIL image or an array.

    Raises:
        OSError: the download failed or is too long; the text of a data URL is not base64; the path is empty.
        TypeError: the file is opened in text mode.
    """
    if isinstance(image, EncodedPicture):
        return image
    if _is_undecoded(image):
        path = image.get("path")
        image = path if image.get("bytes") is None else EncodedPicture(repr(path), None, image["bytes"], path)
        return encoded_picture(image, timeout, max_bytes)
    if _is_file(image):
        return _of_file(image, max_bytes)
    if isinstance(image, bytes | bytearray | memoryview):
        return EncodedPicture(f"the {len(image)} bytes given", content=bytes(image))
    if isinstance(image, str):
        if image.lower().startswith(("http://", "https://")):
            return EncodedPicture(repr(_shortened(image)), content=_download(image, timeout, max_bytes))
        if image.startswith("data:"):
            return EncodedPicture("the data URL", content=_of_data_url(image))
        if (content := _of_base64(image)) is not None:
            return EncodedPicture("the base64 text", content=content)
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if not path:
            raise FileNotFoundError("'' is not a file: the path is empty")
        return EncodedPicture(repr(str(path)), path=Path(os.fsdecode(path)), file_name=Path(os.fsdecode(path)).name)
    return None


def is_single_image(image: Any) -> bool:
    """Whether `image` is one picture (path, text, bytes, file, PIL image, array, tensor) and no collection of them."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, EncodedPicture, PIL.Image.Image, np.ndarray, torch.Tensor)
    return isinstance(image, kinds) or _is_file(image) or _is_undecoded(image)


class Form(Enum):
    """The form in which pictures are given, which decides the form of their results."""

    ONE = "one picture"
    LIST = "a list-like of pictures, whose results are a list"
    STREAM = "an iterator or a torch data set, whose results are an iterator"


def split_inputs(inputs: Any) -> tuple[Form, Iterable[Any]]:
    """
    The pictures among the inputs of a call.

    Args:
        inputs: a picture as `read_rgb` takes it; a list-like of them (list, tuple, pandas Series, column of a data
            set, Arrow array, array or tensor of shape (B, H, W, C) or (B, C, H, W)); an iterator; or a torch data set
            whose items are pictures, such as transformers' `KeyDataset`.

    Returns:
        The form, and an iterable of pictures, with a length if that is known.

    Raises:
        TypeError: the inputs are none of these.
    """
    if is_single_image(inputs) and not _is_stack(inputs):
        return Form.ONE, [inputs]
    if isinstance(inputs, Mapping) or hasattr(inputs, "columns"):
        raise TypeError(f"cannot choose the images of a {type(inputs).__name__}: pass the column that holds them")
    if hasattr(inputs, "to_pylist"):
        return Form.LIST, inputs.to_pylist()
    if isinstance(inputs, Dataset):
        return Form.STREAM, inputs if isinstance(inputs, Iterable) else _Items(inputs)
    if isinstance(inputs, Iterable):
        return Form.LIST if isinstance(inputs, Sized) else Form.STREAM, inputs
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return Form.LIST, _Items(inputs)
    raise TypeError(f"cannot read an image from {type(inputs).__name__}: pass a picture or a list of pictures")


def pixel_sizes(mpp: Any, images: Iterable[Any]) -> Iterator[float | None]:
    """
    Micrometres per pixel of each image, None where unknown: one value is repeated without end.

    Args:
        mpp: a number or None for all images, or a list-like with a value for each.
        images: the images; if their number is known, it must equal the number of values.

    Raises:
        ValueError: the numbers differ.
    """
    if mpp is None or isinstance(mpp, Number | str | Mapping) or getattr(mpp, "ndim", None) == 0:
        return _repeated(_as_number(mpp))
    mpp = mpp.to_pylist() if hasattr(mpp, "to_pylist") else mpp
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

    def __iter__(self) -> Iterator[Any]:
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
    """Converts a scalar of numpy, pandas or torch to a number; returns anything else unchanged, for a later check."""
    return value.item() if hasattr(value, "item") else value


def _is_file(image: Any) -> bool:
    """Whether something is an open file, which is iterable, too: by its lines."""
    return hasattr(image, "read") and hasattr(image, "readline")


def _is_undecoded(image: Any) -> bool:
    return isinstance(image, Mapping) and set(image) == {"bytes", "path"}


def _of_file(file: Any, max_bytes: int) -> EncodedPicture:
    """The rest of an open file."""
    path = getattr(file, "name", None)
    name = repr(path) if isinstance(path, str) else "the open file"
    content = file.read(max_bytes + 1)
    if isinstance(content, str):
        raise TypeError(f"cannot read an image from {name}, which is opened in text mode: open it with mode 'rb'")
    if len(content) > max_bytes:
        raise OSError(f"cannot read {name}: it is longer than {max_bytes} bytes")
    return EncodedPicture(name, content=content, file_name=Path(path).name if isinstance(path, str) else None)


def _of_data_url(text: str) -> bytes:
    head, comma, data = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise OSError(f"cannot read the data URL {_shortened(text)!r}: expected 'data:image/...;base64,' and the data")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OSError(f"cannot read the data URL {_shortened(text)!r}: its data is not base64 ({error})") from error


def _of_base64(text: str) -> bytes | None:
    """The bytes of base64 text; None if it is more likely the name of a file."""
    if len(text) < _SHORTEST_BASE64 or _BASE64.fullmatch(text) is None:
        return None
    try:
        if os.path.lexists(text):
            return None
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError, OSError):
        return None


def _download(url: str, timeout: float | None, max_bytes: int) -> bytes:
    """The body of an address; stops as soon as it is longer than `max_bytes`."""
    name = repr(_shortened(url))
    too_long = f"cannot read {name}: it is longer than {max_bytes} bytes; download it and pass the file"
    try:
        with urllib.request.urlopen(url, timeout=DEFAULT_TIMEOUT if timeout is None else timeout) as response:
            if int(response.headers.get("Content-Length") or 0) > max_bytes:
                raise OSError(too_long)
            body = bytearray()
            while chunk := response.read(_CHUNK):
                body += chunk
                if len(body) > max_bytes:
                    raise OSError(too_long)
    except urllib.error.URLError as error:
        raise OSError(f"cannot download {name}: {getattr(error, 'reason', error)}") from error
    except (ValueError, TimeoutError, ConnectionError) as error:
        raise OSError(f"cannot download {name}: {error}") from error
    return bytes(body)


def _shortened(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
