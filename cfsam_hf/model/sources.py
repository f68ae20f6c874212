"""Encoded pictures, wherever they come from: files, http(s) addresses, data URLs, base64 text and bytes.

Each becomes an `EncodedPicture`, a name for messages and a way to open it, so that one decoder with one set of rules
reads them all.
"""

import base64
import binascii
import io
import os
import re
import stat
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

# No download and no decoded text may be longer: 1 GiB holds any picture within the default limit of pixels.
MAX_BYTES = 2**30
# Seconds without a byte after which a download fails.
DEFAULT_TIMEOUT = 30.0

# The shortest text that is taken for base64 and not for the name of a file: no picture is smaller.
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
    The encoded picture that `image` stands for; addresses are downloaded.

    Args:
        image: a path (`str` or `Path`), an http(s) address, a data URL, base64 text, bytes, or an `EncodedPicture`.
        timeout (`float`, *optional*): seconds without a byte after which a download fails; default 30.
        max_bytes (`int`): longer downloads are refused before or while they arrive.

    Returns:
        The picture; None for anything else, such as a PIL image or an array.

    Raises:
        OSError: the download failed or is too long; the text of a data URL is not base64; the path is empty.
    """
    if isinstance(image, EncodedPicture):
        return image
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
            raise FileNotFoundError("'' is no file: the path is empty")
        return EncodedPicture(repr(str(path)), path=Path(os.fsdecode(path)), file_name=Path(os.fsdecode(path)).name)
    return None


def _of_data_url(text: str) -> bytes:
    head, comma, data = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise OSError(f"cannot read the data URL {_shortened(text)!r}: expected 'data:image/...;base64,' and the data")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise OSError(f"cannot read the data URL {_shortened(text)!r}: its data is not base64 ({error})") from error


def _of_base64(text: str) -> bytes | None:
    """The bytes of base64 text; None where it is rather the name of a file."""
    if len(text) < _SHORTEST_BASE64 or _BASE64.fullmatch(text) is None:
        return None
    try:
        if os.path.lexists(text):
            return None
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError, OSError):
        return None


def _download(url: str, timeout: float | None, max_bytes: int) -> bytes:
    """The body of an address, given up as soon as it is longer than `max_bytes`."""
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
