"""Any picture as uint8 RGB: files, addresses, PIL images, arrays and tensors, each scaled by one documented rule.

| input | becomes |
|---|---|
| uint8 | itself |
| bool, 1-bit | 0 and 255 |
| uint16, 16-bit files | value / 257, the full range of the type for any content (colour PNG: the high byte) |
| int16, int32, int64, uint32, uint64 | itself; all values must lie in 0..255 |
| float | in [0, 1] if no value is above 1, else in [0, 255]; rounded |
| grey (2-D or one channel) | three equal channels |
| RGBA, grey with alpha, transparent palette | composited on white, the glass of a slide |
| palette, CMYK, YCbCr, Lab, HSV | converted by Pillow |

Files are turned upright by their EXIF orientation. Colour profiles are not applied. Of a file with several pictures
(TIFF pages, animations) one must be chosen; smaller copies in a pyramid do not count (`tiff`). Inference, training and
evaluation all read pictures through this module, so that they see the same pixels of the same file.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import torch

from .inputs import EncodedPicture, encoded_picture
from .tiff import (
    MINISWHITE,
    check_page,
    check_page_data,
    choose_page,
    decode_page,
    is_for_pillow,
    is_tiff,
    largest_part,
    open_tiff,
    several_pictures,
)

IMAGE_SUFFIXES = (
    *(".png", ".tif", ".tiff", ".svs", ".ndpi", ".qptiff", ".scn", ".bif", ".btf", ".tf8"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".jp2", ".webp", ".gif", ".jpg", ".jpeg"),
)
"""Endings, in lower case, of the files that a folder is searched for; lossless formats first."""

# 16,384 x 16,384: a file that would decode to more is refused before it is decoded.
DEFAULT_MAX_PIXELS = 2**28

# An image whose channels differ by no more than this has no colour; one pixel of so many, each way, is compared.
GREY_TOLERANCE, GREY_STEP = 3, 5

# How far a float image may leave [0, 1] or [0, 255] (resampling overshoots a little).
_FLOAT_TOLERANCE = 1e-3

# Formats whose frames are pictures of their own. (Those of an MPO photograph are views of the first one.)
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")

# Words in the errors of decoders for data that ends early or makes no sense.
_WORDS_OF_DAMAGE = ("truncated", "broken", "decod", "decompress", "corrupt", "unrecognized", "failed to read", "lzw")

_PIL_LIMIT_LOCK = threading.Lock()


class TooManyPixelsError(ValueError):
    """An image larger than `max_pixels`."""


def read_rgb(
    image: Any,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    input_data_format: str | None = None,
    page: int | None = None,
    timeout: float | None = None,
) -> np.ndarray:
    """
    Turn any picture into an RGB array.

    Args:
        image: a path (`str` or `Path`), an http(s) address, a data URL, base64 text, the bytes of a file, an
            `EncodedPicture`, a PIL image, a numpy array or a torch tensor of shape (H, W), (H, W, C) or (C, H, W) with
            C 1, 3 or 4. If a shape can be read both ways, an array is channel last and a tensor channel first.
        max_pixels (`int`, *optional*): larger pictures are refused, files before they are decoded. None: no limit.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, where the guess would be wrong.
        page (`int`, *optional*): which picture of a file that holds several, counted from 1; needed for those.
        timeout (`float`, *optional*): seconds without a byte after which a download fails; default 30.

    Returns:
        `np.ndarray` of shape (H, W, 3), uint8, C-contiguous. Scaled as the table at the top of this module says.

    Raises:
        OSError: the file is missing, is not a regular file or not a readable image, or holds several pictures while
            `page` is not given; a download failed. The message names the file.
        TypeError: the input is not a picture.
        TooManyPixelsError, ValueError: too many pixels, an impossible shape, NaN or values outside the range of the
            rule.
    """
    if (source := encoded_picture(image, timeout)) is not None:
        stored = read_stored(source, max_pixels, page)
        try:
            return _array_to_rgb(stored, None, "channels_last", channel_first_preferred=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{source.name}: {error}") from error
    if page is not None:
        raise ValueError(f"page={page} chooses a picture of a file; this is one picture already")
    if isinstance(image, PIL.Image.Image):
        _check_pixels(image.size[0] * image.size[1], max_pixels, f"a {image.size[0]}x{image.size[1]} image")
        return _array_to_rgb(_pil_to_array(image), max_pixels, "channels_last", channel_first_preferred=False)
    if is_tensor := isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        is_half = image.dtype.is_floating_point and image.dtype.itemsize < 4  # numpy has no bfloat16
        image = image.float().numpy() if is_half else image.numpy()
    if not isinstance(image, np.ndarray):
        hint = "; of a row of a data set pass its image column" if isinstance(image, Mapping) else ""
        raise TypeError(
            f"cannot read an image from {type(image).__name__}: pass a path, an address, the bytes of a file, a PIL "
            f"image, a numpy array or a tensor{hint}"
        )
    return _array_to_rgb(image, max_pixels, input_data_format, channel_first_preferred=is_tensor)


def read_stored(
    source: EncodedPicture, max_pixels: int | None = DEFAULT_MAX_PIXELS, page: int | None = None, indices: bool = False
) -> np.ndarray:
    """
    The values of an encoded picture as they are stored, upright.

    Args:
        source: the picture.
        max_pixels, page: as for `read_rgb`.
        indices (`bool`): return the values of label maps: the indices of a palette instead of its colours, and grey
            in which 0 is white as it is stored.

    Returns:
        (H, W), (H, W, 3) or (H, W, 4) in the type of the file; colours other than RGB are converted to uint8 RGB.

    Raises:
        OSError: the picture cannot be read; the message names it.
        TooManyPixelsError: it has more than `max_pixels` pixels, according to its header.
    """
    with source.open() as file, _naming(source.name):
        if is_tiff(file):
            return _read_tiff(file, source.name, max_pixels, page, indices)
        return _read_by_pillow(file, source.name, max_pixels, page, indices)


def image_name(image: Any) -> str | None:
    """File name of the picture, or None if it has none."""
    if isinstance(image, EncodedPicture):
        return image.file_name
    if isinstance(image, (str, os.PathLike)):
        return Path(image).name
    filename = getattr(image, "filename", None)
    return Path(filename).name if isinstance(filename, (str, os.PathLike)) and str(filename) else None


def is_grey(pixels: np.ndarray) -> bool:
    """Whether an image (H, W, 3) has no colour at all, within the rounding of JPEG, judged by a sample."""
    sample = pixels[::GREY_STEP, ::GREY_STEP].astype(np.int16)
    return int(np.ptp(sample, axis=2).max()) <= GREY_TOLERANCE


def open_picture(file: BinaryIO) -> PIL.ImageFile.ImageFile:
    """Opens a picture with Pillow, without its limit of pixels: nothing is decoded yet, and callers have a limit."""
    file.seek(0)
    with _without_pillow_limit():
        return PIL.Image.open(file)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Adds the name to every error of the block; decoders raise anything from struct.error to OverflowError."""
    try:
        yield
    except (PermissionError, MemoryError, TooManyPixelsError):
        raise
    except Exception as error:
        raise OSError(f"cannot read {name} as an image: {_reason(error)}") from error


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lifts Pillow's own size limit, which is global and fixed; callers check the size before they decode."""
    with _PIL_LIMIT_LOCK:
        limit = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _read_by_pillow(file: BinaryIO, name: str, max_pixels: int | None, page: int | None, indices: bool) -> np.ndarray:
    with open_picture(file) as image:
        if image.format == "EPS":
            # Pillow would start Ghostscript on it.
            raise ValueError("PostScript is not an image of pixels; save it as PNG")
        width, height = image.size
        _check_pixels(width * height, max_pixels, f"{name} ({width}x{height})")
        if image.format == "PNG":
            _check_png(file)
        frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
        if page is not None:
            check_page(page, frames)
            with _without_pillow_limit():
                image.seek(page - 1)
        elif frames > 1:
            raise ValueError(several_pictures(frames, width, height, frames))
        return _pil_to_array(image, indices)


def _check_png(file: BinaryIO) -> None:
    """Compares the checksums of a PNG, which Pillow ignores when it decodes; restores the file's position."""
    position = file.tell()
    with open_picture(file) as image:
        image.verify()
    file.seek(position)


def _read_tiff(file: BinaryIO, name: str, max_pixels: int | None, page: int | None, indices: bool) -> np.ndarray:
    with open_tiff(file) as tiff:
        chosen = choose_page(tiff, page)
        _check_pixels(largest_part(chosen), max_pixels, f"{name} ({chosen.imagewidth}x{chosen.imagelength})")
        check_page_data(chosen, file.seek(0, os.SEEK_END))
        # Pillow would return signed 32-bit ids, and invert those of files in which 0 is white.
        as_ids = indices and (chosen.bitspersample > 8 or chosen.photometric == MINISWHITE)
        array = _tiff_by_pillow(file, chosen.index, indices) if is_for_pillow(chosen) and not as_ids else None
        return decode_page(chosen, as_stored=as_ids) if array is None else array


def _tiff_by_pillow(file: BinaryIO, index: int, indices: bool) -> np.ndarray | None:
    """A page of a TIFF; None if Pillow does not know its kind."""
    try:
        with open_picture(file) as image:
            with _without_pillow_limit():
                image.seek(index)
                image.load_prepare()  # where Pillow checks the size of a TIFF
            return _pil_to_array(image, indices)
    except PIL.UnidentifiedImageError:
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or a format that cannot be read here; save it as PNG, JPEG or TIFF"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    is_damaged = any(word in text.lower() for word in _WORDS_OF_DAMAGE)
    return f"{text}; the file is damaged, get it again" if is_damaged else text


def _check_pixels(pixels: int, max_pixels: int | None, what: str) -> None:
    if max_pixels is not None and pixels > max_pixels:
        raise TooManyPixelsError(
            f"{what} has {pixels} pixels, more than the limit max_pixels={max_pixels}; raise it to read it"
        )


def _pil_to_array(image: PIL.Image.Image, indices: bool = False) -> np.ndarray:
    """Decode and turn upright: (H, W) integers or floats, (H, W, 3) or (H, W, 4) uint8. `indices`: keep a palette."""
    # Pillow holds the 16-bit grey of these formats as 32-bit integers (PNG: before version 11).
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = PIL.ImageOps.exif_transpose(image)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(image)
        return values.astype(np.uint16) if is_16_bit else values
    if indices and mode in ("1", "L", "P"):
        return np.asarray(image)
    if mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _array_to_rgb(
    array: np.ndarray, max_pixels: int | None, input_data_format: str | None, channel_first_preferred: bool
) -> np.ndarray:
    array = _channels_last(array, input_data_format, channel_first_preferred)
    height, width, channels = array.shape
    if height == 0 or width == 0:
        raise ValueError(f"the image has no pixels: height {height}, width {width}")
    _check_pixels(height * width, max_pixels, f"a {width}x{height} image")
    array = _to_uint8(array)
    if channels == 4:
        return _on_white(array)
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def _channels_last(array: np.ndarray, input_data_format: str | None, channel_first_preferred: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        raise ValueError(
            f"an image has shape (H, W), (H, W, C) or (C, H, W), got {array.shape}; pass several images as a list"
        )
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {input_data_format!r}")
    first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
    if input_data_format is not None:
        first, last = first and input_data_format == "channels_first", last and input_data_format == "channels_last"
    if not first and not last:
        raise ValueError(f"an image has 1, 3 or 4 channels, first or last, got the shape {array.shape}")
    if first and (channel_first_preferred or not last):
        return array.transpose(1, 2, 0)
    return array


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale to 0..255 by the type, as the table of this module says."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        # 14 bits and less: cameras and scanners store such values in 16-bit files without scaling them.
        if 0 < array.max() < 2**14:
            warnings.warn(
                f"a 16-bit image whose largest value is {array.max()} of 65535 is dark or black; if it holds fewer "
                "bits, pass 8-bit values as uint8, and scale others up to 65535",
                stacklevel=2,
            )
        # (v + 128) // 257 rounds v / 257 to the nearest.
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise ValueError(
                f"an image of type {array.dtype} must hold values in 0..255, got {array.min()}..{array.max()}; "
                "convert it to uint8 or uint16 first"
            )
        return array.astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        return _float_to_uint8(array)
    raise TypeError(f"an image cannot be of type {array.dtype}; use uint8, uint16 or float")


def _float_to_uint8(array: np.ndarray) -> np.ndarray:
    low, high = float(array.min()), float(array.max())  # NaN if any value is NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"the image holds {bad} NaN or infinite values; replace them first")
    if low < -_FLOAT_TOLERANCE or high > 255 + _FLOAT_TOLERANCE:
        raise ValueError(
            f"a float image must lie in [0, 1] or in [0, 255], got [{low:g}, {high:g}]; "
            "scale it, or undo its normalisation"
        )
    scale = 255.0 if high <= 1 + _FLOAT_TOLERANCE else 1.0
    return np.rint(np.clip(array.astype(np.float32, copy=False) * np.float32(scale), 0, 255)).astype(np.uint8)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite (H, W, 4) uint8 on white, rounded."""
    alpha = rgba[:, :, 3:].astype(np.uint32)
    color = rgba[:, :, :3].astype(np.uint32)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
