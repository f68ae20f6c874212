"""Any picture to uint8 RGB: files, PIL images, arrays and tensors, each scaled by one documented rule.

| input | becomes |
|---|---|
| uint8 | itself |
| bool, 1-bit | 0 and 255 |
| uint16, 16-bit files | value / 257, the full range of the type whatever the content (colour PNG: the high byte) |
| int16, int32, int64, uint32, uint64 | itself; all values must lie in 0..255 |
| float | in [0, 1] if no value is above 1, else in [0, 255]; rounded |
| grey (2-D or one channel) | three equal channels |
| RGBA, grey with alpha, transparent palette | composited on white, the glass of a slide |
| palette, CMYK, YCbCr, Lab, HSV | converted by Pillow |

Files are turned upright by their EXIF orientation. Colour profiles and resolution tags are not used. Of a file with
several pictures (TIFF pages, animations) one must be chosen; smaller copies in a pyramid do not count (`tiff_cfsam`).
"""

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import load_image

from .tiff import (
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

# 16,384 x 16,384: a file that would decode to more is refused before it is decoded.
DEFAULT_MAX_PIXELS = 2**28

# How far a float image may leave [0, 1] or [0, 255] (resampling overshoots a little).
_FLOAT_TOLERANCE = 1e-3

# Formats whose frames are pictures of their own. (Those of an MPO photograph are views of the first one.)
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")

# In what Pillow's and tifffile's decoders say of data that ends early or makes no sense.
_WORDS_OF_DAMAGE = ("truncated", "broken", "decod", "decompress", "corrupt", "unrecognized", "failed to read")

_PIL_LIMIT_LOCK = threading.Lock()


class TooManyPixelsError(ValueError):
    """An image larger than `max_pixels`."""


def read_rgb(
    image: Any,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    input_data_format: str | None = None,
    page: int | None = None,
) -> np.ndarray:
    """
    Turn any picture into an RGB array.

    Args:
        image: a path (`str` or `Path`), an http(s) address, a PIL image, a numpy array or a torch tensor of shape
            (H, W), (H, W, C) or (C, H, W) with C 1, 3 or 4. Where both readings of a shape are possible an array is
            channel last and a tensor channel first.
        max_pixels (`int`, *optional*): larger pictures are refused, files before they are decoded. None: no limit.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, where the guess would be wrong.
        page (`int`, *optional*): which picture of a file that holds several, counted from 1; needed for those.

    Returns:
        `np.ndarray` of shape (H, W, 3), uint8, C-contiguous. Scaled as the table at the top of this module says.

    Raises:
        OSError: the file is missing, no regular file, no readable image, or holds several pictures and `page` is not
            given; its name is in the message.
        TypeError: not a picture.
        TooManyPixelsError, ValueError: too many pixels, an impossible shape, NaN or values outside the range of the
            rule.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        image = load_image(image)
    if isinstance(image, (str, os.PathLike)):
        if not os.fspath(image):
            raise FileNotFoundError("'' is no file: the path is empty")
        return _read_file(Path(image), max_pixels, page)
    if page is not None:
        raise ValueError(f"page={page} chooses a picture of a file; this is one picture already")
    if isinstance(image, PIL.Image.Image):
        _check_pixels(image.size[0] * image.size[1], max_pixels, f"a {image.size[0]}x{image.size[1]} image")
        return _array_to_rgb(_pil_to_array(image), max_pixels, "channels_last", channel_first_preferred=False)
    channel_first_preferred = isinstance(image, torch.Tensor)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float().numpy() if image.dtype in (torch.bfloat16, torch.float16) else image.numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"cannot read an image from {type(image).__name__}: pass a path, a PIL image, a numpy array or a tensor"
        )
    return _array_to_rgb(image, max_pixels, input_data_format, channel_first_preferred)


def is_single_image(image: Any) -> bool:
    """Whether `image` is one picture (path, PIL image, array, tensor) and not a collection of them."""
    return isinstance(image, (str, os.PathLike, PIL.Image.Image, np.ndarray, torch.Tensor))


def image_name(image: Any) -> str | None:
    """File name of the picture where it has one, else None."""
    if isinstance(image, (str, os.PathLike)):
        return Path(image).name
    filename = getattr(image, "filename", None)
    return Path(filename).name if isinstance(filename, (str, os.PathLike)) and str(filename) else None


def _read_file(path: Path, max_pixels: int | None, page: int | None) -> np.ndarray:
    mode = os.stat(path).st_mode  # FileNotFoundError and PermissionError name the path themselves
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{str(path)!r} is a folder, not an image file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{str(path)!r} is not a regular file")
    if os.path.getsize(path) == 0:
        raise OSError(f"cannot read {str(path)!r}: the file is empty, get it again")
    if is_tiff(path):
        return _read_tiff(path, max_pixels, page)
    with _naming(path), _open_unlimited(path) as image:
        if image.format == "EPS":
            # Pillow would start Ghostscript on it.
            raise ValueError("PostScript is not an image of pixels; save it as PNG")
        width, height = image.size
        _check_pixels(width * height, max_pixels, f"{str(path)!r} ({width}x{height})")
        frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
        if page is not None:
            check_page(page, frames)
            with _without_pillow_limit():
                image.seek(page - 1)
        elif frames > 1:
            raise ValueError(several_pictures(frames, width, height, frames))
        array = _pil_to_array(image)
    return _named_array_to_rgb(array, path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives every error of the block the file's name; decoders raise anything from struct.error to OverflowError."""
    try:
        yield
    except (PermissionError, MemoryError, TooManyPixelsError):
        raise
    except Exception as error:
        raise OSError(f"cannot read {str(path)!r} as an image: {_reason(error)}") from error


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lifts Pillow's own size limit, which is global and fixed; callers check the size themselves, before decoding."""
    with _PIL_LIMIT_LOCK:
        limit = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _open_unlimited(path: Path) -> PIL.Image.Image:
    with _without_pillow_limit():
        return PIL.Image.open(path)


def _read_tiff(path: Path, max_pixels: int | None, page: int | None) -> np.ndarray:
    with _naming(path), open_tiff(path) as tiff:
        chosen = choose_page(tiff, page)
        size = f"{chosen.imagewidth}x{chosen.imagelength}"
        _check_pixels(largest_part(chosen), max_pixels, f"{str(path)!r} ({size})")
        check_page_data(chosen, os.path.getsize(path))
        array = _tiff_by_pillow(path, chosen.index) if is_for_pillow(chosen) else None
        if array is None:
            array = decode_page(chosen, path)
    return _named_array_to_rgb(array, path)


def _tiff_by_pillow(path: Path, index: int) -> np.ndarray | None:
    """A page of a TIFF; None where Pillow does not know its kind."""
    try:
        with _open_unlimited(path) as image:
            with _without_pillow_limit():
                image.seek(index)
                image.load_prepare()  # where Pillow checks the size of a TIFF
            return _pil_to_array(image)
    except PIL.UnidentifiedImageError:
        return None


def _named_array_to_rgb(array: np.ndarray, path: Path) -> np.ndarray:
    try:
        return _array_to_rgb(array, None, "channels_last", channel_first_preferred=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{str(path)!r}: {error}") from error


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


def _pil_to_array(image: PIL.Image.Image) -> np.ndarray:
    """Decode and turn upright: (H, W) integers or floats, (H, W, 3) or (H, W, 4) uint8."""
    # Pillow holds the 16-bit grey of these formats as 32-bit integers (PNG: before version 11).
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    image = PIL.ImageOps.exif_transpose(image)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(image)
        return values.astype(np.uint16) if is_16_bit else values
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
        # 14 bits and less: what cameras and scanners put into 16-bit files without scaling it.
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
