"""Descriptions of the images to segment; they are small and can be pickled."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from ..model.pictures import DEFAULT_MAX_PIXELS, read_rgb
from ..model.pixel_size import PixelSize, read_pixel_size
from ..outputs.placement import Placement


class Source(Protocol):
    """An image that is read when its turn comes."""

    @property
    def name(self) -> str:
        """What the outputs and messages call the image: valid text, with "/" between folders."""

    def read(self) -> np.ndarray:
        """Reads the image as (H, W, 3) uint8 RGB.

        Raises:
            OSError, ValueError: it cannot be read; the message names it.
        """

    def pixel_size(self) -> PixelSize | None:
        """The pixel size that the image itself states; None if it does not state one."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the content, as JSON-able values.

        Raises:
            OSError: the image cannot be read.
        """

    def matches(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether the content is still that of an earlier fingerprint."""

    def reader_options(self) -> dict[str, Any]:
        """The options on which the pixels depend, as JSON-able values."""


@dataclass(frozen=True)
class ImageSource:
    """An image file.

    Attributes:
        path: the file.
        name: its name in the outputs, a relative path with "/" (`tile.png`, `case 7/tile.png`).
        page: which picture of a file that holds several, counted from 1.
        max_pixels: a larger image is refused. None: no limit.
    """

    path: Path
    name: str
    page: int | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def read(self) -> np.ndarray:
        """Reads the image as (H, W, 3) uint8 RGB; see [`cfsam_hf.model.pictures.read_rgb`]."""
        return read_rgb(self.path, self.max_pixels, page=self.page)

    def pixel_size(self) -> PixelSize | None:
        """The pixel size that the file states; None if it does not state one."""
        return read_pixel_size(self.path, self.page)

    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change and content of the file; empty for anything but a regular file."""
        if not self.path.is_file():
            return {}
        return file_fingerprint(self.path)

    def matches(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether the file has the same size, and the same time of change or the same content."""
        try:
            return is_unchanged(self.path, fingerprint)
        except (OSError, KeyError):
            return False

    def reader_options(self) -> dict[str, Any]:
        """The page."""
        return {"page": self.page}


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An image in memory.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        name: its name in the outputs.
    """

    pixels: np.ndarray
    name: str

    def read(self) -> np.ndarray:
        """The pixels."""
        return self.pixels

    def pixel_size(self) -> PixelSize | None:
        """None: an array states no pixel size."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Shape and content."""
        digest = hashlib.blake2b(np.ascontiguousarray(self.pixels).data, digest_size=16)
        return {"shape": list(self.pixels.shape), "digest": digest.hexdigest()}

    def matches(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether shape and content are the same."""
        return self.fingerprint() == dict(fingerprint)

    def reader_options(self) -> dict[str, Any]:
        """None; the page is that of a file."""
        return {"page": None}


@dataclass(frozen=True)
class Job:
    """A unit of work: an image, and the name of its results.

    Attributes:
        source: the image.
        target: the common beginning of its outputs, relative to the output folder (`tile`, `case 7/tile`).
        placement: where the tile lies in a slide, whose coordinates polygons and tables then have; None for an image
            of its own.
    """

    source: Source
    target: PurePath
    placement: Placement | None = None

    def settings(self) -> dict[str, Any]:
        """What the results depend on besides the pipeline and the content of the image, as JSON-able values."""
        placed = {} if self.placement is None else {"placement": self.placement.to_dict()}
        return self.source.reader_options() | placed


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Size, time of change and content of a file.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "digest": file_digest(path)}


def is_unchanged(path: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether a file has the same size, and the same time of change or the same content, as its fingerprint says.

    Raises:
        OSError: the file cannot be read.
        KeyError: the fingerprint is damaged.
    """
    status = path.stat()
    if status.st_size != fingerprint["size"]:
        return False
    return bool(status.st_mtime_ns == fingerprint["mtime_ns"] or file_digest(path) == fingerprint["digest"])


def file_digest(path: Path) -> str:
    """128 bits of BLAKE2 of a file's content, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
